"""oneDNN's convolutions on the CPU that add the bias and apply the LeakyReLU in the convolution's last step.

PyTorch's convolution calls oneDNN too, but applies an activation in a separate pass over the output. A ReLU (slope 0)
is a separate pass here too, because oneDNN's ReLU turns NaN into 0."""

from __future__ import annotations

import torch
from torch import Tensor

from igan_fast.ops.convolution.plan import Convolve, Implementation, Problem

__all__ = ["OneDNN"]

_IS_AVAILABLE = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class OneDNN(Implementation):
    """Convolutions and transposed convolutions of four-dimensional float32 and bfloat16 tensors.

    PyTorch's convolution computes three other cases. Without a bias and an activation there is nothing to apply in the
    last step. A transposed convolution with a contiguous weight is slower here at 1×1 pixels, and no faster at other
    sizes (measured). Under a compiler, a transposed convolution would get the wrong number of output channels, because
    PyTorch's fake implementation of this operator is wrong.
    """

    name = "onednn"
    purpose = "a convolution with its bias and LeakyReLU, in float32 or bfloat16"
    devices = ("cpu",)

    def convolve(self, problem: Problem) -> Convolve | None:
        settings = problem.settings
        if not (
            _IS_AVAILABLE
            and problem.device == "cpu"
            and len(problem.input_shape) == 4
            and (problem.bias or problem.activation)
            and not (settings.transposed and problem.weight_contiguous)
            and _takes(problem.input_dtype)
        ):
            return None
        stride, padding, dilation, transposed, output_padding, groups = settings.arguments

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float) -> Tensor:
            # Do not use oneDNN's ReLU, which turns NaN into 0.
            epilogue = ("leaky_relu", [negative_slope], "") if negative_slope else ("none", [], "")
            if transposed:
                y: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
                    x, weight, bias, padding, output_padding, stride, dilation, groups, *epilogue
                )
            else:
                y = torch.ops.mkldnn._convolution_pointwise(
                    x, weight, bias, padding, stride, dilation, groups, *epilogue
                )
            return y if negative_slope else y.relu_()

        return run


def _takes(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
