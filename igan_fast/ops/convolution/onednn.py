"""oneDNN's convolutions on the CPU that add the bias and apply the LeakyReLU in the convolution's last step.

PyTorch's own convolution calls oneDNN too, but applies an activation in a pass of its own over the output."""

from __future__ import annotations

import torch
from torch import Tensor

from igan_fast.ops.convolution.plan import Convolve, Implementation, Problem

__all__ = ["OneDNN"]

_IS_AVAILABLE = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class OneDNN(Implementation):
    """Convolutions and transposed convolutions of four-dimensional float32 and bfloat16 tensors.

    Three cases are left to PyTorch's convolution. Without a bias and an activation there is nothing to apply in the
    last step. A transposed convolution with a contiguous weight is slower here at 1×1 pixels, and no faster elsewhere
    (measured). Under a compiler the output of the transposed convolution would get the wrong number of channels,
    because PyTorch's shape function for it is wrong.
    """

    name = "onednn"

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
            # Not oneDNN's ReLU, which makes 0 of a NaN.
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
