"""Transposed convolution to few channels as an ordinary convolution and a pixel shuffle, on the CPU.

A transposed convolution of stride s computes s × s interleaved outputs. Each is an ordinary convolution of the input
with every s-th tap of the kernel (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?",
arXiv 1609.07009). The transposed 5×5 convolution of stride 2 to 3 channels is therefore a 3×3 convolution to
2 · 2 · 3 = 12 channels and a pixel shuffle: the same sums, in a shape that oneDNN computes twice as fast. In float32
``direct`` is faster still, but autograd and compilers cannot record it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops.constant import derived
from igan_fast.ops.convolution.plan import Convolve, Implementation, InputGradient, Problem
from igan_fast.ops.convolution.settings import InputSpec

__all__ = ["MAX_CHANNELS", "Subpixel"]

#: With more output channels the transposed convolution is as fast or faster (measured).
MAX_CHANNELS = 4


class _Phases(NamedTuple):
    """The division of a kernel's taps among the ``stride`` × ``stride`` interleaved outputs (phases).

    In one dimension, output stride · i + p is the sum over t of tap k = p + padding + stride · t times input i − t.

    Attributes:
        taps: of each phase in each direction: t = −last … last.
        last: the padding of the ordinary convolution.
        before, after: zeros to be added to the kernel at either end, so that each phase has all its taps.
    """

    stride: int
    taps: int
    last: int
    before: int
    after: int


class Subpixel(Implementation):
    """Transposed convolutions to at most ``MAX_CHANNELS`` channels without a LeakyReLU after them.

    The input gradient of a convolution with at most ``MAX_CHANNELS`` input channels is such a transposed convolution.

    The output of the transposed convolution has to be ``stride`` times as large as its input.
    """

    name = "subpixel"
    purpose = f"a transposed convolution to at most {MAX_CHANNELS} channels, without a LeakyReLU, as an ordinary one"
    devices = ("cpu",)
    composite = True

    def convolve(self, problem: Problem) -> Convolve | None:
        settings = problem.settings
        if not settings.transposed or problem.activation:
            return None
        phases = _phases_of(problem, settings.output_padding)
        if phases is None:
            return None

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float) -> Tensor:
            return _convolve(x, weight, bias, phases)

        return run

    def input_gradient(self, problem: Problem) -> InputGradient | None:
        settings = problem.settings
        if settings.transposed or settings.stride[0] == 1:  # with only one phase there is no gain (measured)
            return None
        output_size = settings.output_size(problem.input_shape, problem.weight_shape)
        # The number of rows and of columns at the end of the input that the convolution does not read.
        rest = [
            side + 2 * padding - kernel - (out - 1) * stride
            for side, padding, kernel, out, stride in zip(
                problem.input_shape[2:],
                settings.padding,
                problem.weight_shape[2:],
                output_size,
                settings.stride,
                strict=True,
            )
        ]
        phases = _phases_of(problem, rest)
        if phases is None:
            return None

        def run(grad: Tensor, weight: Tensor, input_spec: InputSpec) -> Tensor:
            return _convolve(grad, weight, None, phases)

        return run


def _phases_of(problem: Problem, output_padding: Sequence[int]) -> _Phases | None:
    """The phases of a transposed convolution with the problem's weight, stride and padding; None if this implementation
    does not support it."""
    settings, weight_shape = problem.settings, problem.weight_shape
    if not (
        problem.device == "cpu"
        and len(problem.input_shape) == len(weight_shape) == 4
        and weight_shape[1] <= MAX_CHANNELS
        and weight_shape[2] == weight_shape[3]
        and settings.groups == 1
        and settings.dilation == [1, 1]
        and settings.stride[0] == settings.stride[1]
        and settings.padding[0] == settings.padding[1]
        and output_padding[0] == output_padding[1]
    ):
        return None
    kernel, stride, padding = weight_shape[2], settings.stride[0], settings.padding[0]
    last = (kernel - 1 - padding) // stride
    first = -((padding + stride - 1) // stride)
    if kernel + output_padding[0] != stride + 2 * padding or first != -last:
        return None
    before, after = -(padding + stride * first), padding + stride * (last + 1) - kernel
    return _Phases(stride, last - first + 1, last, before, after)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, phases: _Phases) -> Tensor:
    """The transposed convolution of x (N, C_in, H, W) with weight (C_in, C_out, K, K): (N, C_out, stride · H,
    stride · W)."""
    stride, taps, last, before, after = phases
    c_in, c_out = weight.shape[:2]

    def by_phase() -> Tensor:
        padded = F.pad(weight, (before, after, before, after)).reshape(c_in, c_out, taps, stride, taps, stride)
        # A convolution uses the taps in the reverse order of a transposed convolution.
        return padded.flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(c_out * stride * stride, c_in, taps, taps)

    kernels = derived(("subpixel", phases), (weight,), by_phase)
    biases = None if bias is None else bias.repeat_interleave(stride * stride)
    return F.pixel_shuffle(F.conv2d(x, kernels, biases, padding=last), stride)
