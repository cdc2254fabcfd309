"""The networks of the paper (Sec. 4) on the fused operators, with the same names as in ``igan_fast.reference.models``.

Constructor arguments, outputs and ``state_dict`` are also those of the reference, so weights can be exchanged. Images
and feature maps are channels_last, the memory format in which the kernels are fastest.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igan_fast import layers
from igan_fast.ops import backend
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.convolution import ConvSettings, asked_for, convolve
from igan_fast.reference import models as reference
from igan_fast.reference.layers.untouched import untouched
from igan_fast.reference.models import LEAK, Classifier, Codes, DiscriminatorOutput

__all__ = ["Classifier", "Codes", "Discriminator", "DiscriminatorOutput", "Generator", "IterativeGAN"]


class Generator(reference.Generator):
    """``reference.models.Generator``, fused."""

    layers: ClassVar[Any] = layers

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Generate images (N, 3, S, S) in [−1, 1] from noise z (N, latent) and attributes c (N, A) in [0, 1]."""
        if backend.plain_only(z, c):
            return super().forward(z, c)
        first, films = self.inputs(z, c)
        x = self.last_map(first.contiguous(memory_format=torch.channels_last), films)
        rgb = self.to_rgb
        if not _is_unmodified(rgb, nn.ConvTranspose2d):
            return torch.tanh(rgb(x))
        options: dict[str, Any] = {
            "transposed": True,
            "stride": rgb.stride[0],
            "padding": int(rgb.padding[0]),
            "output_padding": rgb.output_padding[0],
        }
        if asked_for() != "auto":  # Triton's kernels have gradients of their own
            return torch.tanh(conv_act(x, rgb.weight, rgb.bias, negative_slope=1.0, **options))
        settings = ConvSettings.cached(2, **options)
        return torch.tanh(convolve(x, rgb.weight, rgb.bias, settings, differentiable=True))


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
        down1 = self.down1
        if backend.plain_only(x) or not _is_unmodified(down1, nn.Conv2d):
            h1 = F.leaky_relu(down1(x), LEAK)
        else:
            x = x.contiguous(memory_format=torch.channels_last)
            stride, padding = down1.stride[0], int(down1.padding[0])
            h1 = conv_act(x, down1.weight, down1.bias, stride=stride, padding=padding, negative_slope=LEAK)
        h2 = self.down2(h1)
        h3 = self.down3(h2)
        return h1, h2, h3, self.down4(h3)

    def judge(self, h4: Tensor) -> tuple[Tensor, Tensor]:
        """The source logit (N,) and the output of the shared layer (N, 1024), from the features h⁴."""
        flat = h4.flatten(1)
        return self.source(flat).squeeze(1), F.leaky_relu(self.shared(flat), LEAK)


class IterativeGAN(reference.IterativeGAN):
    """``reference.models.IterativeGAN``, fused: recognises attributes, generates faces, rebuilds and edits photos.

    Args:
        image_size, attributes, latent, width, signed_labels, film: as in the reference.
    """

    networks = (Generator, Discriminator, Classifier)

    generator: Generator
    discriminator: Discriminator


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
