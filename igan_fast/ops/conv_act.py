"""Convolution, bias and LeakyReLU in one autograd node: what has no normalisation, as D's first layer (Sec. 4).

Only the result is saved: its sign is that of what the LeakyReLU was given. Where somebody may write into the result
before the backward, as PyTorch's LeakyReLU allows, it is the sign alone, a byte for each value more. On a CPU the
LeakyReLU runs in the convolution's last step, and the gradient of an image of few channels is found in sub-pixel form.
The gradients are linear in what comes from above, and made of operators that autograd knows: they have gradients of
their own, which a gradient penalty asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.epilogue import convolve_with_epilogue, has_epilogue
from igan_fast.ops.geometry import Geometry, Given
from igan_fast.ops.subpixel import FEW_CHANNELS, conv_transpose2d
from igan_fast.ops.transforms import overridable
from igan_fast.reference.ops import activate

__all__ = ["ConvAct", "before_activation", "conv_act"]


@overridable
def conv_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    transposed: bool = False,
    stride: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 2,
    output_padding: int | Sequence[int] = 0,
    negative_slope: float = 0.2,
    writable: bool = False,
) -> Tensor:
    """``F.leaky_relu(F.conv2d(x, weight, bias, stride, padding), negative_slope)``, or with ``F.conv_transpose2d``.

    Args:
        x: (N, C_in, H, W).
        weight: (C_out, C_in, K, K), or (C_in, C_out, K, K) where ``transposed``.
        bias: (C_out,), or None.
        stride, padding, output_padding: one number, or one for height and one for width.
        negative_slope: 0 is ReLU, 1 is no activation.
        writable: the result may be changed in place before its gradient is asked for, unless ``negative_slope`` is 0.
            Where not, PyTorch raises a RuntimeError there, as after ``F.relu`` and ``F.leaky_relu_``.
    """
    tensors = (x, weight, bias)
    native = backend.namespace("auto", x.device, (x.dtype,), tensors) == backend.NATIVE

    def plain() -> Tensor:
        if transposed:
            return activate(F.conv_transpose2d(x, weight, bias, stride, padding, output_padding), negative_slope)
        return activate(F.conv2d(x, weight, bias, stride, padding), negative_slope)

    if backend.plain_only(*tensors) or x.is_meta or x.dim() != 4 or weight.dim() != 4:
        return plain()
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    geometry = Geometry(
        2,
        transposed=transposed,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        native=native,
    )
    if not geometry.fits(x, weight, bias):
        return plain()
    if torch.compiler.is_compiling() or not negative_slope >= 0:
        return activate(torch.ops.aten.convolution(x, weight, bias, *geometry.arguments), negative_slope)
    y: Tensor = ConvAct.apply(x, weight, bias, geometry, negative_slope, writable)  # type: ignore[no-untyped-call]
    return y


class ConvAct(torch.autograd.Function):
    """Saves x only where the weights need a gradient, which is enough for the second derivatives too: the gradient of x
    does not depend on x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, slope: float, writable: bool
    ) -> Tensor:
        if geometry.has_kernel(x, weight):
            y = geometry.convolve(x, weight, bias, slope)
        elif has_epilogue(x):
            y = convolve_with_epilogue(x, weight, bias, geometry.arguments, slope)
        else:
            y = _activate(torch.ops.aten.convolution(x, weight, bias, *geometry.arguments), slope)
        side = None if slope == 1 else y
        if side is not None and writable and slope and any(ctx.needs_input_grad):
            side = y > 0
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, side)
        ctx.settings, ctx.given = (geometry, slope), Given.of(x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, side = ctx.saved_tensors
        geometry, slope = ctx.settings
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        # Detached: the side of the bend that y is on has no derivative, and is not to be followed for one.
        dz = grad if side is None else before_activation(grad, side.detach().to(grad.dtype), slope)
        dx = _image_gradient(dz, weight, ctx.given.shape, geometry) if needs_x else None
        other, dweight = geometry.gradients(dz, x, weight, needs_x and dx is None, needs_weight, ctx.given)
        return other if dx is None else dx, dweight, dz.sum((0, 2, 3)) if needs_bias else None, *[None] * 3


def _activate(z: Tensor, slope: float) -> Tensor:
    if slope == 1:
        return z
    return F.leaky_relu_(z, slope) if slope else F.relu_(z)


def before_activation(grad: Tensor, side: Tensor, slope: float) -> Tensor:
    """The gradient before a LeakyReLU, from that behind it; ``side`` has the signs of its input, as its result has."""
    gradient: Tensor = (
        torch.ops.aten.leaky_relu_backward(grad, side, slope, True)
        if slope
        else torch.ops.aten.threshold_backward(grad, side, 0)
    )
    return gradient


def _image_gradient(dz: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor | None:
    """The gradient of an image of few channels, where the sub-pixel form gives it."""
    (stride, across), (padding, sideways) = geometry.stride, geometry.padding
    if geometry.transposed or weight.shape[1] > FEW_CHANNELS or stride != across or padding != sideways:
        return None
    # What the convolution left over of the height and of the width; they differ where one is odd.
    extra = [shape[d] - ((dz.shape[d] - 1) * stride - 2 * padding + weight.shape[d]) for d in (2, 3)]
    return conv_transpose2d(dz, weight, stride, padding, extra[0]) if extra[0] == extra[1] else None
