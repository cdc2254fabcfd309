"""Convolutions by Winograd's minimal filtering, on the CPU. The kernels are in csrc/cpu/winograd.

Minimal filtering computes a tile of neighbouring outputs together. It needs fewer multiplications than a direct sum for
each output: 1.4 to 4 times fewer for the filters here. Lavin and Gray describe it for 3×3 filters of stride 1 (2016,
"Fast algorithms for convolutional neural networks", arXiv 1509.09308). The example is one tile of F(2, 3): 2 outputs
of a filter of 3 taps in one dimension. The input is d = (1, 2, 3, 4), and the filter is w = (1, 0, 2).

    direct sums       1·1 + 2·0 + 3·2 = 7 and 2·1 + 3·0 + 4·2 = 10, with 6 multiplications

    input transform   (d₀ − d₂, d₁ + d₂, d₂ − d₁, d₃ − d₁)               = (−2, 5, 1, 2)
    filter transform  (w₀, (w₀ + w₁ + w₂) / 2, (w₀ − w₁ + w₂) / 2, w₂)   = (1, 1.5, 1.5, 2)
    4 products        m = their elementwise products                     = (−2, 7.5, 1.5, 4)
    output transform  (m₀ + m₁ + m₂, m₁ − m₂ + m₃)                       = (7, 10)

In two dimensions each transform runs along the rows and then along the columns: 16 products instead of 36 for 2 × 2
outputs. For each of the 16 products, the sum over the channels is a matrix product over all tiles. The filter transform
is computed once for all tiles. A filter of stride 2 is the sum of two filters of stride 1. One has the even taps and
reads the even positions of the input, the other has the odd taps and reads the odd positions. For 5 taps these are
F(2, 3) and F(2, 2), with 4 + 3 products instead of 10.

The input gradient of a convolution is a transposed convolution. Minimal filtering computes it and the weight gradient
in the same way. Each computation has a large feature map (the input of a convolution, the output of a transposed one)
and a small feature map.

These are the differences from a float64 result, relative to its largest value. Tiles of 2 outputs: about 3e-7 (weight
gradient: up to 1.4e-6). Tiles of 4 outputs: about 2e-6 (weight gradient: up to 4e-6). Direct sums in float32: about
3e-7. A NaN or Inf in the input reaches all outputs of the tiles that read it. These are a few more outputs than with
direct sums, and never those of another image.

Feature maps and weights of half types are read and written as such. Transforms, products and sums are float32, so that
a result has the error of one rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.convolution.filters import filter_of
from igan_fast.ops.convolution.plan import Convolve, Implementation, InputGradient, Problem, WeightGradient
from igan_fast.ops.convolution.settings import InputSpec
from igan_fast.ops.convolution.winograd_costs import (
    FEWEST,
    HALF_TYPES,
    INSTRUCTION_SET,
    MARGIN,
    TILES,
    Work,
    best_tile,
    counted,
    is_predicted,
    is_small,
    seconds_of,
)
from igan_fast.ops.layout import channels_first, no_view, rows_of_channels

__all__ = ["FILTERS", "Winograd"]

#: Kernel size and stride of the filters that the C++ extension has kernels for.
FILTERS = ((5, 2), (4, 2), (3, 1), (3, 2))

#: With fewer input or output channels the transforms cost more than the multiplications that they save.
MIN_CHANNELS = 16


class _Call(NamedTuple):
    """The arguments of ``torch.ops.igan_fast.winograd_conv`` that do not change from call to call.

    Attributes:
        size: height and width of the output.
        channels: of the output.
        tile: the outputs of a tile in each direction. A transposed convolution has ``stride`` times as many.
    """

    size: Sequence[int]
    channels: int
    kernel: int
    stride: int
    padding: int
    transposed: bool
    tile: int


class Winograd(Implementation):
    """Convolutions and transposed convolutions with the kernel sizes and strides of ``FILTERS``, and their gradients.

    The outputs of convolutions are channels_last. An input gradient has the memory format of the input.
    """

    name = "winograd"
    purpose = "minimal filtering"
    devices = ("cpu",)
    own_kernels = True

    def convolve(self, problem: Problem) -> Convolve | None:
        settings = problem.settings
        tile = _tile(problem, "transposed" if settings.transposed else "convolution")
        if tile is None:
            return None
        size = settings.output_size(problem.input_shape, problem.weight_shape)
        call = _call_of(problem, size, tile, transposed=settings.transposed)

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float) -> Tensor:
            bias = None if bias is None else bias.detach().float().contiguous()
            return _convolve(x, weight, bias, negative_slope, call)

        return run

    def why(self, problem: Problem, computation: str, *, taken: bool) -> str:
        """The predicted times, or the condition that is not met."""
        obstacle = _obstacle(problem)
        if obstacle is not None:
            return obstacle
        if is_small(_work(problem)):
            return f"only with {FEWEST:,} or more multiplications"
        kind = counted(problem.settings.transposed, computation)
        layout = {"kept": problem.constant, "channels_last": not problem.weight_contiguous}
        direct, *ways = (f"{1e3 * seconds:.3g} ms" for seconds in seconds_of(_work(problem), kind, **layout))
        tiles = ", ".join(f"{time} with tiles of {tile} × {tile}" for tile, time in zip(TILES, ways, strict=True))
        predicted = f"on one core ({INSTRUCTION_SET}) predicted {tiles}, {direct} by PyTorch's convolution"
        return f"{self.purpose}; {predicted}" if taken else f"{predicted}, of which {MARGIN:.0%} is the limit"

    def seconds(self, problem: Problem, computation: str) -> tuple[float, float] | None:
        """The predicted times, ours and PyTorch's, both with a weight of the problem's memory format."""
        if _obstacle(problem) is not None:
            return None
        kind = counted(problem.settings.transposed, computation)
        direct, *ways = seconds_of(
            _work(problem), kind, kept=problem.constant, channels_last=not problem.weight_contiguous
        )
        return min(ways), direct

    def input_gradient(self, problem: Problem) -> InputGradient | None:
        transposed = not problem.settings.transposed
        tile = _tile(problem, "transposed" if transposed else "convolution")
        if tile is None:
            return None
        call = _call_of(problem, problem.input_shape[2:], tile, transposed=transposed)

        def run(grad: Tensor, weight: Tensor, input_spec: InputSpec) -> Tensor:
            dx = _convolve(grad, weight, None, 1.0, call)
            return channels_first(dx) if input_spec.contiguous else dx

        return run

    def weight_gradient(self, problem: Problem) -> WeightGradient | None:
        tile = _tile(problem, "weight_gradient")
        if tile is None:
            return None
        settings, kernel = problem.settings, problem.weight_shape[2]
        stride, padding, transposed = settings.stride[0], settings.padding[0], settings.transposed

        def run(grad: Tensor, x: Tensor) -> Tensor:
            large, small = (grad, x) if transposed else (x, grad)
            gradient: Tensor = torch.ops.igan_fast.winograd_conv_weight_gradient(
                rows_of_channels(large), rows_of_channels(small), kernel, stride, padding, tile
            )
            return gradient

        return run


def _obstacle(problem: Problem) -> str | None:
    """Why the kernels cannot compute the convolution and its gradients; None if they can."""
    settings, weight_shape = problem.settings, problem.weight_shape
    if problem.device != "cpu" or not problem.native:
        return "its kernels are those of the C++ extension for CPUs"
    dtype = problem.input_dtype
    if dtype != problem.weight_dtype or dtype not in (torch.float32, *HALF_TYPES):
        return "only in float32, bfloat16 and float16"
    if not is_predicted(dtype):
        return f"only where the speed of this CPU's products in {str(dtype).removeprefix('torch.')} was measured"
    if not len(problem.input_shape) == len(weight_shape) == 4:
        return "only with two spatial dimensions"
    if settings.groups != 1 or settings.dilation != [1, 1]:
        return "only without groups and dilation"
    kernel, stride, padding = weight_shape[2], settings.stride[0], settings.padding[0]
    if not (kernel == weight_shape[3] and settings.stride == [stride] * 2 and settings.padding == [padding] * 2):
        return "only with the same kernel size, stride and padding in both directions"
    if (kernel, stride) not in FILTERS:
        known = ", ".join(f"{size}×{size} of stride {by}" for size, by in FILTERS)
        return f"only with the kernels {known}"
    limit = stride if settings.transposed else 1
    if not (0 <= padding < kernel and all(0 <= extra < limit for extra in settings.output_padding)):
        return "only with a padding below the kernel size"
    if min(weight_shape[:2]) < MIN_CHANNELS:
        return f"only with {MIN_CHANNELS} or more channels on both sides"
    if problem.input_shape[1] != weight_shape[0 if settings.transposed else 1]:
        return "the weight is for other channels"
    if min(problem.input_shape) < 1 or min(settings.output_size(problem.input_shape, weight_shape)) < 1:
        return "the output is empty"
    return None


def _tile(problem: Problem, computation: str) -> int | None:
    """The size of the tiles for one of ``winograd_costs.COMPUTATIONS``; None where PyTorch's own convolution is faster,
    or the kernels cannot compute it."""
    if _obstacle(problem) is not None:
        return None
    return best_tile(_work(problem), computation, kept=problem.constant, channels_last=not problem.weight_contiguous)


def _work(problem: Problem) -> Work:
    settings, weight_shape = problem.settings, problem.weight_shape
    given, result = problem.input_shape[2:], settings.output_size(problem.input_shape, weight_shape)
    large, small = (result, given) if settings.transposed else (given, result)
    return Work(
        batch=problem.input_shape[0],
        large=large,
        small=small,
        large_channels=weight_shape[1],
        small_channels=weight_shape[0],
        kernel=weight_shape[2],
        stride=settings.stride[0],
        dtype=problem.input_dtype,
    )


def _call_of(problem: Problem, size: Sequence[int], tile: int, *, transposed: bool) -> _Call:
    """The call of the kernel that computes an output of height and width ``size``."""
    return _Call(
        size=list(size),
        channels=problem.weight_shape[1 if transposed else 0],
        kernel=problem.weight_shape[2],
        stride=problem.settings.stride[0],
        padding=problem.settings.padding[0],
        transposed=transposed,
        tile=tile,
    )


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float, call: _Call) -> Tensor:
    size, channels, kernel, stride, padding, transposed, tile = call
    kind = ("winograd", stride, transposed, tile)
    filter = filter_of(weight, kind, lambda: _transform_filter(weight, stride, transposed, tile))
    y: Tensor = torch.ops.igan_fast.winograd_conv(
        rows_of_channels(x), filter, size, channels, kernel, stride, padding, bias, negative_slope, transposed, tile
    )
    return no_view(y.permute(0, 3, 1, 2))


def _transform_filter(weight: Tensor, stride: int, transposed: bool, tile: int) -> Tensor:
    filter: Tensor = torch.ops.igan_fast.winograd_filter(weight.detach(), stride, transposed, tile)
    return filter


def register(namespace: str) -> None:
    """Register the fake implementations of the operators, which only the native namespace has."""
    if namespace != backend.NATIVE:
        return

    def convolved(x: Tensor, filter: Tensor, size: Sequence[int], channels: int, *_: Any) -> Tensor:
        return x.new_empty((x.shape[0], *size, channels))

    def gradient(large: Tensor, small: Tensor, kernel: int, stride: int, padding: int, tile: int) -> Tensor:
        return large.new_empty((small.shape[3], large.shape[3], kernel, kernel))

    torch.library.register_fake(f"{namespace}::winograd_conv")(convolved)
    torch.library.register_fake(f"{namespace}::winograd_conv_weight_gradient")(gradient)


backend.on_load(register)
