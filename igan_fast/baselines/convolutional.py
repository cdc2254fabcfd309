"""What DCGAN, CGAN and AC-GAN have in common: G, DCGAN's D, and the module that holds both.

In these three, G draws images from noise, and c enters G and D in different ways:

======  =================================================  ======================================
Name    How c enters G                                     How c enters D
======  =================================================  ======================================
DCGAN   not at all                                         not at all
CGAN    beside z and beside the input of each convolution  beside the input of each layer
AC-GAN  beside z                                           not at all: D has to recognise c
======  =================================================  ======================================

The noise is uniform on [−1, 1] in all three, as in DCGAN and in the iterative GAN (Sec. 4). So all of them can generate
from the same noise.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from igan_fast.baselines.interface import BaselineNetworks

__all__ = ["LEAK", "Discriminator", "Generator", "NoiseNetworks", "initialise"]

#: Negative slope of every LeakyReLU (DCGAN, Sec. 4; AC-GAN, Appendix A).
LEAK = 0.2


class Generator(nn.Module):
    """G: noise and attributes → image. Linear to S/16×S/16, then four 5×5 stride-2 transposed convolutions.

    Each layer but the last is followed by batch normalisation and ReLU, the last one by tanh. The first layer has no
    batch normalisation where ``normalise_first`` is False.

    Args:
        image_size: side S of the square images in pixels, a multiple of 16 from 32 up.
        channels: of the four feature maps that enter the transposed convolutions.
        latent: size of the noise z.
        attributes: number A of attributes beside z; 0 where c does not enter G.
        repeat_labels: whether c also enters each transposed convolution, as A constant feature maps beside its input.
        normalise_first: whether the first feature map is normalised.
        bias: whether the layers without a normalisation have a bias.
    """

    def __init__(
        self,
        image_size: int,
        channels: Sequence[int],
        *,
        latent: int,
        attributes: int = 0,
        repeat_labels: bool = False,
        normalise_first: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.attributes, self.repeat_labels = attributes, repeat_labels
        self.first_map = (channels[0], image_size // 16, image_size // 16)
        flat = channels[0] * (image_size // 16) ** 2
        self.project = nn.Linear(latent + attributes, flat, bias=bias and not normalise_first)
        self.first = nn.Sequential(*([nn.BatchNorm2d(channels[0])] if normalise_first else []), nn.ReLU())
        beside = attributes if repeat_labels else 0
        self.up = nn.ModuleList(
            nn.Sequential(_up(below + beside, above, bias=False), nn.BatchNorm2d(above), nn.ReLU())
            for below, above in itertools.pairwise(channels)
        )
        self.to_rgb = _up(channels[-1] + beside, 3, bias=bias)
        initialise(self)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Generate images.

        Args:
            z: noise (N, latent), uniform on [−1, 1] in training.
            c: attributes (N, A), 0 and 1; not used where ``attributes`` is 0.

        Returns:
            Images (N, 3, S, S) in [−1, 1].
        """
        c = c.to(z.dtype)
        x = self.first(self.project(torch.cat([z, c], 1) if self.attributes else z).unflatten(1, self.first_map))
        for block in self.up:
            x = block(_beside(x, c) if self.repeat_labels else x)
        return torch.tanh(self.to_rgb(_beside(x, c) if self.repeat_labels else x))


class Discriminator(nn.Module):
    """DCGAN's D: image → source logit. Four 5×5 stride-2 convolutions to w, 2w, 4w, 8w channels, then Linear.

    Each convolution is followed by batch normalisation (but not the first) and LeakyReLU. No layer has a bias.

    Args:
        image_size: as ``Generator``.
        width: channels w of the first feature map.
        attributes: number A of attributes that enter each layer beside its input, as constant feature maps in the
            convolutions; 0 where c does not enter D.
    """

    def __init__(self, image_size: int, width: int, *, attributes: int = 0) -> None:
        super().__init__()
        self.attributes = attributes
        channels = (3, width, 2 * width, 4 * width, 8 * width)
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(below + attributes, above, 5, stride=2, padding=2, bias=False),
                *([] if below == 3 else [nn.BatchNorm2d(above)]),
                nn.LeakyReLU(LEAK),
            )
            for below, above in itertools.pairwise(channels)
        )
        self.source = nn.Linear(8 * width * (image_size // 16) ** 2 + attributes, 1, bias=False)
        initialise(self)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Judge images.

        Args:
            x: images (N, 3, S, S) in [−1, 1].
            c: their attributes (N, A), 0 and 1; not used where ``attributes`` is 0.

        Returns:
            (N,): logits of the probability that the image is a real photo.

        Raises:
            ValueError: c is omitted where it enters D.
        """
        flat = self.features(x, c)[-1].flatten(1)
        if self.attributes and c is not None:
            flat = torch.cat([flat, c.to(flat.dtype)], dim=1)
        logits: Tensor = self.source(flat)
        return logits.squeeze(1)

    def features(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:
        """The activations of all convolutional layers: (N, w·2ⁱ⁻¹, S/2ⁱ, S/2ⁱ) for i from 1 to 4.

        Args:
            x, c: as of ``forward``.

        Raises:
            ValueError: as ``forward``.
        """
        if self.attributes and c is None:
            raise ValueError(f"c is None; expected the {self.attributes} attributes of each image")
        maps = []
        for block in self.down:
            x = block(_beside(x, c) if self.attributes and c is not None else x)
            maps.append(x)
        return tuple(maps)


class NoiseNetworks(BaselineNetworks):
    """G and D of a baseline that generates images from noise. A derived class makes them in its ``__init__``.

    Args:
        image_size, attributes: as of ``BaselineNetworks``.
        width: channels of the largest feature maps of DCGAN and CGAN, S/2 pixels wide: of the last ones of G and the
            first ones of D. The other maps of the networks are proportional to it.

    Raises:
        ValueError: ``image_size`` is not a multiple of 16 from 32 up, or another size is not positive.
        TypeError: a size is not a whole number.

    Attributes:
        latent: size of the noise z.
    """

    latent: int = 100

    generator: Generator
    discriminator: nn.Module

    def __init__(self, image_size: int, attributes: int, *, width: int = 64) -> None:
        _check_sizes(image_size, attributes, width)
        super().__init__(image_size, attributes, width=width)

    def draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the noise of n images.

        Args:
            generator: a generator on the CPU.

        Returns:
            z (n, latent), uniform on [−1, 1), with the dtype and on the device of the networks. The values are those of
            float32 numbers drawn on the CPU, whatever the dtype and the device.
        """
        weight = self.generator.project.weight
        return (torch.rand(n, self.latent, generator=generator) * 2 - 1).to(weight.device, weight.dtype)

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        """Generate images (N, 3, S, S) in [−1, 1].

        Args:
            z: noise (N, latent), uniform on [−1, 1].
            c: attributes (N, A), 0 and 1. DCGAN does not use their values.

        Raises:
            ValueError: z or c has another shape.
        """
        expected = {"z": (z, (len(z), self.latent)), "c": (c, (len(z), self.attributes))}
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
        images: Tensor = self.generator(z, c)
        return images


def initialise(network: nn.Module) -> None:
    """Weights ~ N(0, 0.02) and biases 0, as in DCGAN (Sec. 4) and AC-GAN (Appendix A). Weights of normalisations ~
    N(1, 0.02), as in the code of DCGAN's authors."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(part.weight, 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.02)


def _up(below: int, above: int, *, bias: bool) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles height and width."""
    return nn.ConvTranspose2d(below, above, 5, stride=2, padding=2, output_padding=1, bias=bias)


def _beside(x: Tensor, c: Tensor) -> Tensor:
    """The feature maps x (N, C, H, W) and, for each attribute of c (N, A), a map of its value: (N, C + A, H, W)."""
    return torch.cat([x, c.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)


def _check_sizes(image_size: int, attributes: int, width: int) -> None:
    sizes = {"image_size": image_size, "attributes": attributes, "width": width}
    for name, value in sizes.items():
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} is {value!r}; expected a whole number")
        if operator.index(value) < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    if image_size < 32 or image_size % 16:
        raise ValueError(f"image_size is {image_size}; expected a multiple of 16 from 32 up")
