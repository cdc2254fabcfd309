"""Convolution, bias and LeakyReLU in one autograd node: D's first layer, which has no normalisation (Sec. 4).

Only the result is saved: its sign is that of what the LeakyReLU was given. On a CPU the LeakyReLU runs in the
convolution's last step, and the gradient of an image of few channels is found in sub-pixel form. The gradients are
linear in what comes from above, and made of operators that autograd knows: they have gradients of their own, which a
gradient penalty asks for.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops.epilogue import convolve_with_epilogue, has_epilogue
from igan_fast.ops.subpixel import conv_transpose2d

__all__ = ["conv_act"]


def conv_act(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 2, padding: int = 2, negative_slope: float = 0.2
) -> Tensor:
    """``F.leaky_relu(F.conv2d(x, weight, bias, stride, padding), negative_slope)``.

    Args:
        x: (N, C_in, H, W).
        weight: (C_out, C_in, K, K).
        bias: (C_out,), or None.
        negative_slope: above 0, or autograd runs through PyTorch's own two operators.
    """
    if torch.compiler.is_compiling() or not negative_slope > 0:
        return F.leaky_relu(F.conv2d(x, weight, bias, stride, padding), negative_slope)
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    y: Tensor = _ConvAct.apply(x, weight, bias, stride, padding, negative_slope)  # type: ignore[no-untyped-call]
    return y


class _ConvAct(torch.autograd.Function):
    """Saves x only where the weights need a gradient, which is enough for the second derivatives too: the gradient of x
    does not depend on x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, slope: float
    ) -> Tensor:
        geometry = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
        if has_epilogue(x):
            y = convolve_with_epilogue(x, weight, bias, geometry, slope)
        else:
            y = F.leaky_relu_(torch.ops.aten.convolution(x, weight, bias, *geometry), slope)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, y)
        ctx.settings, ctx.shape = (geometry, stride, padding, slope), x.shape
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        geometry, stride, padding, slope = ctx.settings
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        # Detached: the side of the bend that y is on has no derivative, and is not to be followed for one.
        dz = torch.ops.aten.leaky_relu_backward(grad, y.detach(), slope, True)
        dx = dweight = None
        if needs_x:
            # What the convolution left over of the height and of the width; they differ where one is odd.
            extra = [ctx.shape[d] - ((dz.shape[d] - 1) * stride - 2 * padding + weight.shape[d]) for d in (2, 3)]
            if extra[0] == extra[1]:
                dx = conv_transpose2d(dz, weight, stride, padding, extra[0])
            else:
                dx = F.conv_transpose2d(dz, weight, None, stride, padding, extra)
        if needs_weight:
            _, dweight, _none = torch.ops.aten.convolution_backward(
                dz, x, weight, None, *geometry, (False, True, False)
            )
        return dx, dweight, dz.sum((0, 2, 3)) if needs_bias else None, None, None, None
