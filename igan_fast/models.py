"""The networks of the paper (Sec. 4) on the fused operators, with the same names as in ``igan_fast.reference.models``.

Constructor arguments, outputs and ``state_dict`` are also those of the reference, so weights can be exchanged. Images
and feature maps are channels_last, the memory format in which the kernels are fastest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igan_fast import layers
from igan_fast.losses import perceptual_loss
from igan_fast.ops import backend
from igan_fast.ops.blocks import (
    Features,
    RawMap,
    are_blocks_asked_for,
    block_features,
    block_image,
    can_run_blocks,
)
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.layout import channels_first, channels_last
from igan_fast.reference import models as reference
from igan_fast.reference.layers.untouched import untouched
from igan_fast.reference.models import LEAK, Codes, DiscriminatorOutput

__all__ = ["Classifier", "Codes", "Discriminator", "DiscriminatorOutput", "FeatureMap", "Generator", "IterativeGAN"]

#: One of h¹..h⁴, detached: as a tensor, or as the raw map that it is computed from.
FeatureMap: TypeAlias = Tensor | RawMap


class Generator(reference.Generator):
    """``reference.models.Generator``, fused."""

    layers: ClassVar[Any] = layers

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Generate images (N, 3, S, S) in [−1, 1] from noise z (N, latent) and attributes c (N, A) in [0, 1]."""
        if backend.plain_only(z, c):
            return super().forward(z, c)
        return self._drawn(*self.inputs(z, c))

    def images(self, z: Tensor, c: Tensor) -> Tensor:
        """What calling G returns, but with first derivatives only. Where blocks are asked for, or are measured to be
        faster (``igan_fast.ops.blocks``), they compute it."""
        blocks: tuple[Any, ...] = (self.up1, self.up2, self.up3)
        rgb = self.to_rgb
        plain = (
            untouched(self)
            and self._compiled_call_impl is None
            and layers.are_blocks(self.norm, *blocks)
            and _is_unmodified(rgb, nn.ConvTranspose2d)
        )
        if not are_blocks_asked_for(z.device.type) or not plain or backend.plain_only(z, c):
            images: Tensor = self(z, c)
            return images
        first, films = self.inputs(z, c)
        convolutions = [(layers.settings_of(conv), conv.weight) for conv in (*(block.conv for block in blocks), rgb)]
        parameters = [t for layer in (self.norm, *blocks) for t in layer.parameters()]
        if not can_run_blocks(first, convolutions, *parameters, rgb.bias, *films, film=len(self.film) > 0):
            return self._drawn(first, films)
        norm, described = layers.norm_of(self.norm, first), [layers.block_of(block, first) for block in blocks]
        return torch.tanh(block_image(first, norm, described, rgb.weight, rgb.bias, convolutions[-1][0], films))

    def _drawn(self, first: Tensor, films: Sequence[Tensor | None]) -> Tensor:
        """The images, from what ``inputs`` returns."""
        x = self.last_map(channels_last(first), films)
        rgb = self.to_rgb
        if not _is_unmodified(rgb, nn.ConvTranspose2d):
            return torch.tanh(rgb(x))
        y = conv_act(
            x,
            rgb.weight,
            rgb.bias,
            transposed=True,
            stride=rgb.stride[0],
            padding=int(rgb.padding[0]),
            output_padding=rgb.output_padding[0],
            negative_slope=1.0,
        )
        return torch.tanh(y)


class Discriminator(reference.Discriminator):
    """``reference.models.Discriminator``, fused. Its two halves can be called separately: ``features``, ``judge``."""

    layers: ClassVar[Any] = layers

    def forward(self, x: Tensor) -> DiscriminatorOutput:
        """The source logit, the shared layer and the features h¹..h⁴ of images (N, 3, S, S) in [−1, 1]."""
        features = self.features(x)
        source, shared = self.judge(features[-1])
        return DiscriminatorOutput(source=source, shared=shared, features=features)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The features h¹..h⁴ of images (N, 3, S, S): the outputs of D's four convolutional layers."""
        h1 = self._first(x)
        h2 = self.down2(h1)
        h3 = self.down3(h2)
        return h1, h2, h3, self.down4(h3)

    def read(self, x: Tensor, *, twice: bool = False) -> tuple[Tensor, list[FeatureMap]]:
        """The features h⁴ of images (N, 3, S, S), and h¹..h⁴, detached, as ``perceptual`` takes them. Where blocks are
        asked for, or are measured to be faster (``igan_fast.ops.blocks``), they compute them.

        Args:
            twice: whether h⁴ needs second derivatives, which blocks do not have.
        """
        if not twice and self._runs_blocks(x):
            found = self._by_blocks(x)
            return found.last, [*found.maps]
        features = self.features(x)
        return features[-1], [h.detach() for h in features]

    def perceptual(self, x: Tensor, maps: Sequence[FeatureMap]) -> Tensor:
        """Σᵢ mean|hⁱ(x) − hⁱ| (Sec. 3.3.2) of images x (N, 3, S, S), with first derivatives only.

        Args:
            maps: h¹..h⁴ of other images, as ``read`` returns them.
        """
        if self._runs_blocks(x):
            found = self._by_blocks(x, [h if isinstance(h, RawMap) else RawMap(h) for h in maps])
            assert found.distance is not None
            return found.distance
        return perceptual_loss(self.features(x), [h.activation() if isinstance(h, RawMap) else h for h in maps])

    def _first(self, x: Tensor) -> Tensor:
        """The features h¹ of images."""
        down1 = self.down1
        if backend.plain_only(x) or not _is_unmodified(down1, nn.Conv2d):
            return F.leaky_relu(down1(x), LEAK)
        x = x.contiguous(memory_format=torch.channels_last)
        stride, padding = down1.stride[0], int(down1.padding[0])
        return conv_act(x, down1.weight, down1.bias, stride=stride, padding=padding, negative_slope=LEAK)

    def _runs_blocks(self, x: Tensor) -> bool:
        """Whether blocks are asked for, and can compute the features h²..h⁴ of images from h¹."""
        down: tuple[Any, ...] = (self.down2, self.down3, self.down4)
        if not are_blocks_asked_for(x.device.type):
            return False
        if not _is_unmodified(self.down1, nn.Conv2d) or not layers.are_blocks(*down):
            return False
        convolutions = [(layers.settings_of(conv), conv.weight) for conv in (self.down1, *(each.conv for each in down))]
        return can_run_blocks(x, convolutions, *(t for each in down for t in each.parameters()))

    def _by_blocks(self, x: Tensor, targets: Sequence[RawMap] | None = None) -> Features:
        h1, down = self._first(x), (self.down2, self.down3, self.down4)
        return block_features(h1, [layers.block_of(each, h1) for each in down], targets)

    def judge(self, h4: Tensor) -> tuple[Tensor, Tensor]:
        """The source logit (N,) and the output of the shared layer (N, 1024), from the features h⁴."""
        flat = channels_first(h4).flatten(1)
        return self.source(flat).squeeze(1), F.leaky_relu(self.shared(flat), LEAK)


class Classifier(reference.Classifier):
    """``reference.models.Classifier``, fused."""

    layers: ClassVar[Any] = layers


class IterativeGAN(reference.IterativeGAN):
    """``reference.models.IterativeGAN``, fused: recognises attributes, generates faces, rebuilds and edits photos.

    Args:
        image_size, attributes, latent, width, signed_labels, film: as in the reference.
    """

    networks = (Generator, Discriminator, Classifier)

    generator: Generator
    discriminator: Discriminator
    classifier: Classifier


def _is_unmodified(conv: nn.Module, kind: type[nn.Conv2d | nn.ConvTranspose2d]) -> bool:
    """Whether the operators may compute ``conv`` from its weight, without calling the module. It must be an instance of
    ``kind`` with PyTorch's ``forward`` and without hooks. It must pad with zeros, have equal settings for height and
    width, and have no dilation or groups."""
    return (
        isinstance(conv, kind)
        and type(conv).forward is kind.forward
        and untouched(conv)
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
        and not isinstance(conv.padding, str)
        and all(len(set(pair)) == 1 for pair in (conv.stride, conv.padding, conv.output_padding))
    )
