"""oneDNN's convolutions on the CPU that apply the LeakyReLU in the convolution's last step.

PyTorch's convolution calls oneDNN too, and adds the bias there, but an activation is a separate pass over the output. A
ReLU (slope 0) is a separate pass here too, because oneDNN's ReLU turns NaN into 0."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from igan_fast.ops.convolution import pytorch
from igan_fast.ops.convolution.plan import Convolve, Implementation, Problem

__all__ = ["OneDNN"]

#: With fewer outputs, PyTorch's LeakyReLU finds them in the cache, and takes no longer than this operator's call.
MIN_OUTPUTS = 1 << 20

_IS_AVAILABLE = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class OneDNN(Implementation):
    """Convolutions and transposed convolutions of four-dimensional float32 and bfloat16 tensors.

    PyTorch's convolution computes these cases: those without a LeakyReLU, and those of few outputs. Contiguous inputs
    and a kernel of one pixel in float32, which it computes as a matrix product, up to twice as fast. A transposed
    convolution with a contiguous weight, which is slower here at 1×1 pixels, and no faster at other sizes (measured).
    Under a compiler, a transposed convolution would get the wrong number of output channels, because PyTorch's fake
    implementation of this operator is wrong.
    """

    name = "onednn"
    purpose = f"a convolution of {MIN_OUTPUTS:,} or more outputs with its LeakyReLU, in float32 or bfloat16"
    devices = ("cpu",)

    def convolve(self, problem: Problem) -> Convolve | None:
        settings = problem.settings
        if not (
            _IS_AVAILABLE
            and problem.device == "cpu"
            and len(problem.input_shape) == 4
            and problem.activation
            and not (settings.transposed and problem.weight_contiguous)
            and not _is_product(problem)
            and _takes(problem.input_dtype)
            and _outputs(problem) >= MIN_OUTPUTS
        ):
            return None
        stride, padding, dilation, transposed, output_padding, groups = settings.arguments
        plain = functools.partial(pytorch.convolve, settings)

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float) -> Tensor:
            if not negative_slope:
                return plain(x, weight, bias, 0.0)
            epilogue = "leaky_relu", [negative_slope], ""
            if transposed:
                y: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
                    x, weight, bias, padding, output_padding, stride, dilation, groups, *epilogue
                )
            else:
                y = torch.ops.mkldnn._convolution_pointwise(
                    x, weight, bias, padding, stride, dilation, groups, *epilogue
                )
            return y

        return run


def _is_product(problem: Problem) -> bool:
    """Whether PyTorch computes the convolution as a matrix product."""
    return (
        problem.input_contiguous and problem.input_dtype == torch.float32 and math.prod(problem.weight_shape[2:]) == 1
    )


def _outputs(problem: Problem) -> int:
    settings, shape = problem.settings, problem.weight_shape
    channels = shape[1] * settings.groups if settings.transposed else shape[0]
    return problem.input_shape[0] * channels * math.prod(settings.output_size(problem.input_shape, shape))


def _takes(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
