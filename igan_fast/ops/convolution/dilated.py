"""Dilated convolutions as ordinary convolutions of interleaved images, for minimal filtering on the CPU.

With dilation d, a filter reads every d-th row and every d-th column. So each of the d × d images that consist of every
d-th row and column is convolved separately, by the same filter without dilation: the same sums (Yu et al. 2017,
"Dilated residual networks", arXiv 1705.09914, and TensorFlow's ``space_to_batch``). The images become a larger batch,
for which there are faster kernels. This costs a copy of each feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops.convolution.plan import Convolve, Implementation, InputGradient, Problem, WeightGradient
from igan_fast.ops.convolution.settings import ConvSettings, InputSpec
from igan_fast.ops.convolution.winograd import Winograd
from igan_fast.ops.layout import channels_first, channels_last, no_view

__all__ = ["Dilated"]

_WINOGRAD = Winograd()

#: With fewer channels the copies probably cost more than what the faster kernels gain (an estimate).
MIN_CHANNELS = 128


class _Inner(NamedTuple):
    """The convolution of the interleaved images.

    Attributes:
        problem: that convolution.
        dilation: of the original one.
        size: height and width of the original output.
    """

    problem: Problem
    dilation: int
    size: Sequence[int]

    @property
    def spec(self) -> InputSpec:
        return InputSpec(self.problem.input_shape, contiguous=False)


class Dilated(Implementation):
    """Convolutions of the same dilation in both directions, whose padding is a multiple of it, and their gradients."""

    name = "dilated"
    purpose = f"a dilated convolution of {MIN_CHANNELS} or more channels, as images for minimal filtering"
    devices = ("cpu",)
    own_kernels = True

    def convolve(self, problem: Problem) -> Convolve | None:
        inner = _inner(problem)
        compute = None if inner is None else _WINOGRAD.convolve(inner.problem)
        if inner is None or compute is None:
            return None

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float) -> Tensor:
            y = compute(_parted(x.detach(), inner.dilation), weight, bias, negative_slope)
            return no_view(_joined(y, inner.dilation, inner.size))

        return run

    def input_gradient(self, problem: Problem) -> InputGradient | None:
        inner = _inner(problem)
        compute = None if inner is None else _WINOGRAD.input_gradient(inner.problem)
        if inner is None or compute is None:
            return None

        def run(grad: Tensor, weight: Tensor, input_spec: InputSpec) -> Tensor:
            parts = compute(_parted(grad.detach(), inner.dilation), weight, inner.spec)
            dx = _joined(parts, inner.dilation, input_spec.shape[2:])
            return channels_first(dx) if input_spec.contiguous else no_view(dx)

        return run

    def weight_gradient(self, problem: Problem) -> WeightGradient | None:
        inner = _inner(problem)
        compute = None if inner is None else _WINOGRAD.weight_gradient(inner.problem)
        if inner is None or compute is None:
            return None

        def run(grad: Tensor, x: Tensor) -> Tensor:
            return compute(_parted(grad.detach(), inner.dilation), _parted(x.detach(), inner.dilation))

        return run


def _inner(problem: Problem) -> _Inner | None:
    """The convolution of the interleaved images; None where there is none, or it gains nothing."""
    settings, shape = problem.settings, problem.input_shape
    dilation = settings.dilation[0]
    if not (
        len(shape) == len(problem.weight_shape) == 4
        and min(shape) > 0
        and dilation > 1
        and settings.dilation == [dilation] * 2
        and settings.stride == [1, 1]
        and all(padding % dilation == 0 for padding in settings.padding)
        and not settings.transposed
        and min(problem.weight_shape[:2]) >= MIN_CHANNELS
    ):
        return None
    size = settings.output_size(shape, problem.weight_shape)
    if min(size) < 1:
        return None
    undilated = ConvSettings.cached(
        2, padding=[padding // dilation for padding in settings.padding], groups=settings.groups, native=settings.native
    )
    sides = [-(-side // dilation) for side in shape[2:]]
    inner_shape = torch.Size((shape[0] * dilation**2, shape[1], *sides))
    return _Inner(problem._replace(settings=undilated, input_shape=inner_shape), dilation, size)


def _parted(x: Tensor, dilation: int) -> Tensor:
    """The interleaved images of x (N, C, H, W): (N · dilation², C, ⌈H / dilation⌉, ⌈W / dilation⌉), channels_last.
    Zeros are added where H and W are no multiples of the dilation."""
    x = channels_last(x)
    batch, channels, height, width = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    x = F.pad(x, (0, columns * dilation - width, 0, rows * dilation - height))
    parts = x.permute(0, 2, 3, 1).reshape(batch, rows, dilation, columns, dilation, channels).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)


def _joined(parts: Tensor, dilation: int, size: Sequence[int]) -> Tensor:
    """The image (N, C, H, W) of height and width ``size`` whose ``_parted`` images these are, channels_last."""
    _, channels, rows, columns = parts.shape
    split = parts.permute(0, 2, 3, 1).reshape(-1, dilation, dilation, rows, columns, channels)
    joined = split.permute(0, 3, 1, 4, 2, 5).reshape(-1, rows * dilation, columns * dilation, channels)
    image = joined.permute(0, 3, 1, 2)[:, :, : size[0], : size[1]]
    return image.contiguous(memory_format=torch.channels_last)
