"""PyTorch's own convolutions, for all problems that no other implementation computes."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops.convolution.plan import Convolve, Implementation, Problem
from igan_fast.ops.convolution.settings import ConvSettings, InputSpec
from igan_fast.ops.layout import CHANNELS_LAST
from igan_fast.ops.transforms import batched

__all__ = ["PyTorch", "activate_", "convolve", "gradients"]

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED_CONVOLUTIONS = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


class PyTorch(Implementation):
    """PyTorch's convolution, then its LeakyReLU."""

    name = "pytorch"
    purpose = "PyTorch's own convolution"

    def convolve(self, problem: Problem) -> Convolve:
        return functools.partial(convolve, problem.settings)


def convolve(
    settings: ConvSettings, x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float = 1.0
) -> Tensor:
    """The convolution, then the LeakyReLU, which overwrites the convolution's output."""
    if settings.transposed:
        z = _TRANSPOSED_CONVOLUTIONS[x.dim()](
            x,
            weight,
            bias,
            settings.stride,
            settings.padding,
            settings.output_padding,
            settings.groups,
            settings.dilation,
        )
    else:
        z = _CONVOLUTIONS[x.dim()](
            x, weight, bias, settings.stride, settings.padding, settings.dilation, settings.groups
        )
    return activate_(z, negative_slope)


def activate_(z: Tensor, negative_slope: float) -> Tensor:
    """LeakyReLU in place. A slope of 0 is computed as ReLU, because 0 · −∞ would be NaN."""
    if negative_slope == 1:
        return z
    return F.leaky_relu_(z, negative_slope) if negative_slope else F.relu_(z)


def gradients(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor,
    settings: ConvSettings,
    input_spec: InputSpec,
    needs_input: bool,
    needs_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the input and of the weight (None if not needed), by one call of PyTorch's function.

    Args:
        x: the input; may be None where the weight needs no gradient.
    """
    if x is None:  # PyTorch uses only the memory format of x, and returns the gradient in that format
        last = CHANNELS_LAST.get(grad.dim(), torch.contiguous_format)
        is_last = not batched(grad) and grad.is_contiguous(memory_format=last)
        memory_format = last if is_last else torch.contiguous_format
        x = torch.empty(input_spec.shape, dtype=weight.dtype, device=weight.device, memory_format=memory_format)
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, *settings.arguments, (needs_input, needs_weight, False)
    )
    return dx, dweight
