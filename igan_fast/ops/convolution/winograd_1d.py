"""Convolutions of sequences by Winograd's minimal filtering, on the CPU. The kernels are in csrc/cpu/winograd_1d.

``winograd`` explains minimal filtering. Here a tile has 4 outputs in one dimension: of a filter of 3 taps it takes 6
multiplications instead of 12, of one of 5 taps 8 instead of 20. A longer filter is the sum of filters of 4 or 5 taps,
which share the transforms of their inputs and outputs.

With stride s, every s-th value is a channel of its own, and so is every s-th tap: with s times as many channels the
stride is 1. A filter of 41 taps and stride 4 has 11 taps then. With dilation d, every d-th value is a sequence of its
own: d sequences are interleaved. Groups are computed one after the other.

A filter that has more than one tap in only one of its dimensions is one of sequences, too. An image (H, W) is W
interleaved sequences for a filter (5, 1), and so are the volumes (T, H, W) of a video for a filter along the time.

These are the differences from a float64 result, relative to its largest value: about 2e-6 (5 taps: 4e-6; weight
gradient: up to 8e-6 over many thousand values). A NaN or Inf in the input reaches all outputs of the tiles that read
it: a few more than with direct sums, and never those of another image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.convolution import winograd_1d_costs
from igan_fast.ops.convolution.filters import filter_of
from igan_fast.ops.convolution.plan import Convolve, Implementation, InputGradient, Problem, WeightGradient
from igan_fast.ops.convolution.settings import InputSpec
from igan_fast.ops.convolution.winograd_1d_costs import Work, is_faster, seconds_of
from igan_fast.ops.convolution.winograd_costs import FEWEST, INSTRUCTION_SET, MARGIN, counted
from igan_fast.ops.layout import no_view

__all__ = ["MIN_CHANNELS", "Winograd1d", "filtered_dimension"]

#: With fewer input or output channels the transforms cost more than the multiplications that they save.
MIN_CHANNELS = 8


class _Call(NamedTuple):
    """The arguments of ``torch.ops.igan_fast.winograd_1d_conv`` that do not change from call to call.

    Attributes:
        length, channels: of the output.
        kernel, stride, groups: of the convolution.
        padding: in values of the sequences, as they lie in memory.
        interleaved: the number of sequences that lie in turn.
    """

    length: int
    channels: int
    kernel: int
    stride: int
    padding: int
    interleaved: int
    groups: int


class Winograd1d(Implementation):
    """Convolutions and transposed convolutions along one dimension, and their gradients. All tensors are contiguous."""

    name = "winograd_1d"
    purpose = "minimal filtering of sequences"
    devices = ("cpu",)
    own_kernels = True
    contiguous = True

    def convolve(self, problem: Problem) -> Convolve | None:
        settings = problem.settings
        if not _is_taken(problem, "convolve"):
            return None
        size, transposed = settings.output_size(problem.input_shape, problem.weight_shape), settings.transposed
        call = _call_of(problem, size, transposed=transposed)

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float) -> Tensor:
            bias = None if bias is None else bias.detach().contiguous()
            return _convolve(x, weight, bias, negative_slope, call, size, transposed=transposed)

        return run

    def input_gradient(self, problem: Problem) -> InputGradient | None:
        if not _is_taken(problem, "input_gradient"):
            return None
        size, transposed = problem.input_shape[2:], not problem.settings.transposed
        call = _call_of(problem, size, transposed=transposed)

        def run(grad: Tensor, weight: Tensor, input_spec: InputSpec) -> Tensor:
            return _convolve(grad, weight, None, 1.0, call, size, transposed=transposed)

        return run

    def weight_gradient(self, problem: Problem) -> WeightGradient | None:
        if not _is_taken(problem, "weight_gradient"):
            return None
        shape, transposed = problem.weight_shape, problem.settings.transposed
        settings = _call_of(problem, problem.input_shape[2:], transposed=transposed)[2:]

        def run(grad: Tensor, x: Tensor) -> Tensor:
            large, small = (grad, x) if transposed else (x, grad)
            gradient: Tensor = torch.ops.igan_fast.winograd_1d_weight_gradient(
                _sequences(large), _sequences(small), *settings
            )
            return no_view(gradient.view(shape))

        return run

    def why(self, problem: Problem, computation: str, *, taken: bool) -> str:
        """The predicted times, or the condition that is not met."""
        obstacle = _obstacle(problem)
        if obstacle is not None:
            return obstacle
        ours, pytorchs = seconds_of(
            _work(problem), counted(problem.settings.transposed, computation), kept=problem.constant
        )
        predicted = f"on one core ({INSTRUCTION_SET}) predicted {1e3 * ours:.3g} ms"
        predicted = f"{predicted}, {1e3 * pytorchs:.3g} ms by PyTorch's convolution"
        return f"{self.purpose}; {predicted}" if taken else f"{predicted}, of which {MARGIN:.0%} is the limit"

    def seconds(self, problem: Problem, computation: str) -> tuple[float, float] | None:
        if _obstacle(problem) is not None:
            return None
        return seconds_of(_work(problem), counted(problem.settings.transposed, computation), kept=problem.constant)


def filtered_dimension(kernel: Sequence[int], stride: Sequence[int]) -> int | None:
    """The spatial dimension along which a filter of sequences has its taps; None if it is not one."""
    longer = [dimension for dimension, size in enumerate(kernel) if size != 1]
    if len(longer) != 1 or any(step != 1 for dimension, step in enumerate(stride) if dimension not in longer):
        return None
    return longer[0]


def _obstacle(problem: Problem) -> str | None:
    """Why the kernels cannot compute the convolution and its gradients; None if they can."""
    settings, shape, weight_shape = problem.settings, problem.input_shape, problem.weight_shape
    if problem.device != "cpu" or not problem.native:
        return "its kernels are those of the C++ extension for CPUs"
    if not problem.input_dtype == problem.weight_dtype == torch.float32:
        return "only in float32"
    if not len(shape) == len(weight_shape) >= 3:
        return "only with a spatial dimension"
    dimension = filtered_dimension(weight_shape[2:], settings.stride)
    if dimension is None:
        return "only with more than one tap in exactly one dimension, and a stride in no other"
    if settings.stride[dimension] > 1 and settings.dilation[dimension] > 1:
        return "only with either a stride or a dilation"
    others = [each for each in range(len(settings.padding)) if each != dimension]
    if any(settings.padding[each] or settings.output_padding[each] for each in others):
        return "only with a padding of the dimension of the taps"
    if any(side != 1 for side in shape[2 : 2 + dimension]):
        return "only where the taps' dimension is the first of more than one value"
    if not (problem.input_contiguous and problem.weight_contiguous):
        return "only with a contiguous input and weight"
    if min(weight_shape[0] // settings.groups, weight_shape[1]) < MIN_CHANNELS:
        return f"only with {MIN_CHANNELS} or more channels on both sides of a group"
    if weight_shape[0] % settings.groups or shape[1] != _channels(problem)[0 if settings.transposed else 1]:
        return "the weight is for other channels"
    if min(shape) < 1 or min(settings.output_size(shape, weight_shape)) < 1:
        return "the output is empty"
    if winograd_1d_costs.direct_counts(_work(problem))[1] < FEWEST:
        return f"only with {FEWEST:,} or more multiplications"
    return None


def _is_taken(problem: Problem, computation: str) -> bool:
    if _obstacle(problem) is not None:
        return False
    return is_faster(_work(problem), counted(problem.settings.transposed, computation), kept=problem.constant)


def _channels(problem: Problem) -> tuple[int, int]:
    """Those of the small and of the large sequences."""
    return problem.weight_shape[0], problem.weight_shape[1] * problem.settings.groups


def _work(problem: Problem) -> Work:
    settings, weight_shape = problem.settings, problem.weight_shape
    given = math.prod(problem.input_shape[2:])
    result = math.prod(settings.output_size(problem.input_shape, weight_shape))
    large, small = (result, given) if settings.transposed else (given, result)
    call = _call_of(problem, problem.input_shape[2:], transposed=settings.transposed)
    small_channels, large_channels = _channels(problem)
    return Work(
        batch=problem.input_shape[0],
        large=large,
        small=small,
        large_channels=large_channels,
        small_channels=small_channels,
        kernel=call.kernel,
        stride=call.stride,
        interleaved=call.interleaved,
        groups=call.groups,
        padding=call.padding,
    )


def _call_of(problem: Problem, size: Sequence[int], *, transposed: bool) -> _Call:
    """The call of the kernel that computes an output of this spatial size."""
    settings = problem.settings
    dimension = filtered_dimension(problem.weight_shape[2:], settings.stride)
    assert dimension is not None
    step = math.prod(problem.input_shape[3 + dimension :])  # from one value to the next one of that dimension
    return _Call(
        length=math.prod(size),
        channels=_channels(problem)[1 if transposed else 0],
        kernel=problem.weight_shape[2 + dimension],
        stride=settings.stride[dimension],
        padding=step * settings.padding[dimension],
        interleaved=step * settings.dilation[dimension],
        groups=settings.groups,
    )


def _sequences(x: Tensor) -> Tensor:
    """x (N, C, *spatial) as (N, C, T), contiguous and detached."""
    x = x.detach().contiguous()
    return x if x.dim() == 3 else x.view(*x.shape[:2], -1)


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    negative_slope: float,
    call: _Call,
    size: Sequence[int],
    *,
    transposed: bool,
) -> Tensor:
    settings = call.stride, call.groups, transposed

    def transform() -> Tensor:
        filter: Tensor = torch.ops.igan_fast.winograd_1d_filter(_sequences(weight), *settings)
        return filter

    filter = filter_of(weight, ("winograd_1d", *settings), transform)
    if filter.dim() > 3:  # the weight itself
        filter = _sequences(filter)
    y: Tensor = torch.ops.igan_fast.winograd_1d_conv(_sequences(x), filter, *call, bias, negative_slope, transposed)
    return y if len(size) == 1 else no_view(y.view(*y.shape[:2], *size))


def register(namespace: str) -> None:
    """Register the fake implementations of the operators, which only the native namespace has."""
    if namespace != backend.NATIVE:
        return

    def convolved(x: Tensor, filter: Tensor, length: int, channels: int, *_: Any) -> Tensor:
        return x.new_empty((x.shape[0], channels, length))

    def gradient(
        large: Tensor, small: Tensor, kernel: int, stride: int, padding: int, interleaved: int, groups: int
    ) -> Tensor:
        return large.new_empty((small.shape[1], large.shape[1] // groups, kernel))

    torch.library.register_fake(f"{namespace}::winograd_1d_conv")(convolved)
    torch.library.register_fake(f"{namespace}::winograd_1d_weight_gradient")(gradient)


backend.on_load(register)
