"""CycleGAN's generators and discriminators (Zhu et al., ICCV 2017; code: junyanz/pytorch-CycleGAN-and-pix2pix).

Where the authors' code and their paper differ:

* The generators have 6 residual blocks below 256 pixels per side, and 9 from there up, as in the paper (Sec. 4 and
  Sec. 7.2). The code's default is 9 at any size.
* The discriminators' last normalised convolution has stride 1, as in the code. The paper's Sec. 7.2 says stride 2, but
  only with stride 1 does each prediction depend on 70×70 pixels, as its Sec. 4 says.

At any size the discriminators have the same layers, as in the code. From 32 pixels per side up, their map of
predictions is at least 2×2. In images smaller than 70 pixels each prediction depends on most or all of the image.

In the code, the convolutions before a normalisation have biases, which the normalisation subtracts again. Here they
have none. The initial weights are N(0, 0.02), the initial biases 0, as in the code.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from igan_fast.baselines.interface import BaselineNetworks

__all__ = ["CycleGANNetworks", "Discriminator", "Generator"]


class ResidualBlock(nn.Module):
    """x + f(x), where f has two 3×3 convolutions with instance normalisation and a ReLU between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.ReflectionPad2d(1), *_normalised(nn.Conv2d(channels, channels, 3, bias=False))),
            nn.ReLU(inplace=True),
            *(nn.ReflectionPad2d(1), *_normalised(nn.Conv2d(channels, channels, 3, bias=False))),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layers(x)
        return result


class Generator(nn.Module):
    """Edits photos: two halvings, residual blocks, two doublings.

    Args:
        width: channels of the first convolution's output, doubled at each halving.
        blocks: number of residual blocks.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3)]
        layers += [*_normalised(nn.Conv2d(3, width, 7, bias=False)), nn.ReLU(inplace=True)]
        for channels in (width, 2 * width):
            halving = nn.Conv2d(channels, 2 * channels, 3, 2, padding=1, bias=False)
            layers += [*_normalised(halving), nn.ReLU(inplace=True)]
        layers += [ResidualBlock(4 * width) for _ in range(blocks)]
        for channels in (4 * width, 2 * width):
            doubling = nn.ConvTranspose2d(channels, channels // 2, 3, 2, padding=1, output_padding=1, bias=False)
            layers += [*_normalised(doubling), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        """Edit photos (N, 3, S, S): photos (N, 3, S, S) in [−1, 1]."""
        edited: Tensor = self.layers(images)
        return edited


class Discriminator(nn.Module):
    """A PatchGAN: each prediction depends on 70×70 pixels.

    Args:
        width: channels of the first convolution's output, doubled in each of the next three.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for channels, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
            convolution = nn.Conv2d(channels, 2 * channels, 4, stride, padding=1, bias=False)
            layers += [*_normalised(convolution), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Judge images (N, 3, S, S): predictions (N, 1, H, H), near 1 for photos and near 0 for edited photos, where
        H is S / 8 − 2."""
        predictions: Tensor = self.layers(images)
        return predictions


class CycleGANNetworks(BaselineNetworks):
    """CycleGAN for one attribute. Domain 0 are the photos without it, domain 1 those with it.

    Args:
        image_size: as of ``BaselineNetworks``.
        attributes: 1.
        width: channels of the first convolution of each network; the authors' is 64.

    Raises:
        ValueError: one of them has another value.

    Attributes:
        generators: ``generators[v]`` edits a photo of the other domain so that it is of domain v.
        discriminators: ``discriminators[v]`` judges images of domain v.
    """

    def __init__(self, image_size: int, attributes: int = 1, *, width: int = 64) -> None:
        super().__init__(image_size, attributes, width=width)
        if attributes != 1:
            raise ValueError(f"attributes is {attributes}; expected 1: a CycleGAN edits one attribute")
        blocks = 9 if image_size >= 256 else 6
        self.generators = nn.ModuleList(Generator(width, blocks) for _ in range(2))
        self.discriminators = nn.ModuleList(Discriminator(width) for _ in range(2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        """Edit photos by the generator of the new value. It also edits the photos that have this value already.

        Args:
            images: (N, 3, S, S) in [−1, 1].
            labels: not used.
            changes: {0: 0} removes the attribute, {0: 1} adds it.

        Returns:
            The edited photos (N, 3, S, S) in [−1, 1].

        Raises:
            ValueError: ``changes`` is another mapping.
        """
        if set(changes) != {0} or changes[0] not in (0, 1):
            raise ValueError(f"changes is {dict(changes)}; expected {{0: 0}} or {{0: 1}}")
        edited: Tensor = self.generators[int(changes[0])](images)
        return edited


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, nn.Module]:
    """A convolution, and instance normalisation without learnt scale and shift."""
    return convolution, nn.InstanceNorm2d(convolution.out_channels)
