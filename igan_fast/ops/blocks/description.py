"""What a network of blocks consists of, and its maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from igan_fast.ops.convolution import ConvSettings
from igan_fast.reference.ops import activate

__all__ = ["Block", "Features", "Norm", "RawMap"]


class Norm(NamedTuple):
    """A normalisation by the batch's statistics, and the LeakyReLU after it: arguments of ``norm_act``."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    momentum: float
    eps: float
    negative_slope: float
    groups: int


class Block(NamedTuple):
    """A convolution without bias, and the normalisation of its output."""

    settings: ConvSettings
    conv_weight: Tensor
    norm: Norm

    def output_shape(self, shape: Sequence[int]) -> torch.Size:
        """The shape of the output for an input of this shape."""
        channels = self.settings.channels(self.conv_weight)[1]
        return torch.Size((shape[0], channels, *self.settings.output_size(shape, self.conv_weight.shape)))


class RawMap(NamedTuple):
    """A feature map (N, C, H, W): LeakyReLU((y − mean) · scale + shift), or y itself where there is no ``affine``."""

    y: Tensor
    affine: Tensor | None = None
    """(groups, 3, C): mean, scale and shift of each group of images."""
    negative_slope: float = 1.0

    def first(self, images: int) -> RawMap:
        """The map of the first images, which are whole groups."""
        affine = self.affine
        if affine is not None:
            affine = affine[: affine.shape[0] * images // self.y.shape[0]]
        return RawMap(self.y[:images], affine, self.negative_slope)

    def activation(self) -> Tensor:
        """The feature map, computed by PyTorch's functions."""
        if self.affine is None:
            return self.y
        mean, scale, shift = (t[:, None, :, None, None] for t in self.affine.unbind(1))
        by_group = self.y.to(mean.dtype).view(len(mean), -1, *self.y.shape[1:])
        z = (by_group - mean) * scale + shift
        return activate(z, self.negative_slope).flatten(0, 1).to(self.y.dtype)


class Features(NamedTuple):
    """The result of ``block_features``."""

    last: Tensor
    """The activation of the last block."""
    maps: list[RawMap]
    """x and the maps of all blocks, detached."""
    distance: Tensor | None
    """Σ mean|mapᵢ − targetᵢ|, where there are targets."""
