"""StarGAN's generator and discriminator (Choi et al., CVPR 2018; code: yunjey/stargan).

The layers are those of the tables in the paper's appendix (arXiv:1711.09020, Sec. 7.2). Where the authors' code and
their paper differ, these networks follow the code:

* The discriminator has 6 layers at any size, as in the code. The paper's table depends on the size only in the last
  map. An image with fewer than 64 pixels per side cannot be halved 6 times. There the discriminator has as many layers
  as halve it to one pixel (5 for 32 and 48).
* The code's normalisation also counts running statistics. It never uses them: the authors edit photos in training mode.
  Here normalisation has no running statistics, so training and eval mode are the same.

The initial weights are PyTorch's defaults, as in the code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from igan_fast.baselines.interface import BaselineNetworks

__all__ = ["Discriminator", "Generator", "StarGANNetworks"]

RESIDUAL_BLOCKS = 6

#: Upper limit of the discriminator's strided convolutions.
DISCRIMINATOR_LAYERS = 6


class ResidualBlock(nn.Module):
    """x + f(x), where f has two 3×3 convolutions with instance normalisation and a ReLU between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.InstanceNorm2d(channels, affine=True)),
            nn.ReLU(inplace=True),
            *(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.InstanceNorm2d(channels, affine=True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layers(x)
        return result


class Generator(nn.Module):
    """Edits photos: two halvings, six residual blocks, two doublings.

    Each label is a further channel of the photo, with the same value at every pixel.

    Args:
        attributes: number A of attributes.
        width: channels of the first convolution's output, doubled at each halving.
    """

    def __init__(self, attributes: int, width: int) -> None:
        super().__init__()
        layers = _normalised(nn.Conv2d(3 + attributes, width, 7, padding=3, bias=False))
        for channels in (width, 2 * width):
            layers += _normalised(nn.Conv2d(channels, 2 * channels, 4, 2, padding=1, bias=False))
        layers += [ResidualBlock(4 * width) for _ in range(RESIDUAL_BLOCKS)]
        for channels in (4 * width, 2 * width):
            layers += _normalised(nn.ConvTranspose2d(channels, channels // 2, 4, 2, padding=1, bias=False))
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 7, padding=3, bias=False), nn.Tanh())

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Edit photos (N, 3, S, S) to have the labels (N, A): photos (N, 3, S, S) in [−1, 1]."""
        maps = labels.to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[2:])
        edited: Tensor = self.layers(torch.cat([images, maps], dim=1))
        return edited


class Discriminator(nn.Module):
    """Judges whether images are photos, and recognises their attributes.

    Args:
        image_size: side S of the images.
        attributes: number A of attributes.
        width: channels of the first layer's output, doubled in each further layer.
    """

    def __init__(self, image_size: int, attributes: int, width: int) -> None:
        super().__init__()
        count = min(DISCRIMINATOR_LAYERS, image_size.bit_length() - 1)
        layers: list[nn.Module] = []
        channels = 3
        for layer in range(count):
            layers += [nn.Conv2d(channels, width << layer, 4, 2, padding=1), nn.LeakyReLU(0.01)]
            channels = width << layer
        self.features = nn.Sequential(*layers)
        self.source = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
        self.labels = nn.Conv2d(channels, attributes, image_size >> count, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Judge images (N, 3, S, S).

        Returns:
            The source map (N, 1, H, W), higher for photos, where H and W are S / 64 rounded down, at least 1; and the
            label logits (N, A).
        """
        features = self.features(images)
        return self.source(features), self.labels(features).flatten(1)


class StarGANNetworks(BaselineNetworks):
    """StarGAN: one generator and one discriminator for all attributes.

    Args:
        image_size, attributes: as of ``BaselineNetworks``.
        width: channels of the first convolution of both networks; the authors' is 64.
    """

    def __init__(self, image_size: int, attributes: int, *, width: int = 64) -> None:
        super().__init__(image_size, attributes, width=width)
        self.generator = Generator(attributes, width)
        self.discriminator = Discriminator(image_size, attributes, width)

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        """Edit photos: the generator gets their labels with the changes, as in the authors' code.

        Args:
            images: (N, 3, S, S) in [−1, 1].
            labels: their attributes (N, A), 0 and 1.
            changes: the new values, 0 or 1, by the index of the attribute. Without a change the photos are rebuilt.

        Returns:
            The edited photos (N, 3, S, S) in [−1, 1].

        Raises:
            ValueError: ``changes`` names an attribute that does not exist, or has another value.
        """
        target = labels.clone()
        for index, value in changes.items():
            if not 0 <= index < self.attributes or value not in (0, 1):
                raise ValueError(f"changes has {index}: {value}; expected 0 or 1 for 0 to {self.attributes - 1}")
            target[:, index] = value
        edited: Tensor = self.generator(images, target)
        return edited


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """A convolution, instance normalisation with learnt scale and shift, and a ReLU."""
    return [convolution, nn.InstanceNorm2d(convolution.out_channels, affine=True), nn.ReLU(inplace=True)]
