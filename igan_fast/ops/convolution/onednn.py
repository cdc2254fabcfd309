"""oneDNN's convolutions that end in a LeakyReLU, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend

__all__ = ["convolve_with_epilogue", "has_epilogue"]

_HAS_EPILOGUE = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def has_epilogue(x: Tensor) -> bool:
    """Whether there is one for x.

    Not for a compiler or a tensor without data: PyTorch gives the transposed one's result the input's channels there.
    """
    return (
        _HAS_EPILOGUE
        and not torch.compiler.is_compiling()
        and not backend.plain_only(x)
        and x.device.type == "cpu"
        and x.dim() == 4
        and x.dtype in (torch.float32, torch.bfloat16)
        and (x.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def convolve_with_epilogue(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, ...], slope: float
) -> Tensor:
    """LeakyReLU of ``aten::convolution(x, weight, bias, *geometry)``, outside of autograd's sight."""
    stride, padding, dilation, transposed, output_padding, groups = geometry
    # Not its ReLU, which makes a 0 of a NaN.
    epilogue = ("leaky_relu", [slope], "") if slope else ("none", [], "")
    if transposed:
        y: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
            x, weight, bias, padding, output_padding, stride, dilation, groups, *epilogue
        )
    else:
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, dilation, groups, *epilogue)
    return y if slope else y.relu_()
