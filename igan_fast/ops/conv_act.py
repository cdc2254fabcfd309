"""Convolution, bias and LeakyReLU in one autograd node, for a layer without normalisation, such as D's first (Sec. 4).

For the LeakyReLU's gradient the node saves only its output, whose sign is the sign of the LeakyReLU's input. If the
output may be changed in place before the backward pass (``writable``), the node saves a tensor of signs instead, one
byte for each value. The gradients are computed by differentiable functions, so they have gradients too, as a gradient
penalty needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.constant import cast
from igan_fast.ops.convolution import ConvSettings, InputSpec, activation_gradients, convolve, gradients, plan_of
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
        writable: whether the result may be changed in place before its backward pass. If False, and always where
            ``negative_slope`` is 0, the backward pass raises a RuntimeError after such a change, as it does after
            ``F.relu`` and ``F.leaky_relu_``.

    Returns:
        (N, C_out, H', W').

    Raises:
        RuntimeError, ValueError: as PyTorch's two functions.
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
        x, weight, bias = x.to(dtype), cast(weight, dtype), None if bias is None else bias.to(dtype)
    settings = ConvSettings.cached(
        2,
        transposed=transposed,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        native=native,
    )
    if not settings.fits(x, weight, bias):
        return plain()
    # The sign of the output is that of the LeakyReLU's input only for slopes of 0 and more. Without a LeakyReLU, what
    # autograd can record needs no node.
    apart = torch.compiler.is_compiling() or not negative_slope >= 0
    if apart or (negative_slope == 1 and plan_of(x, weight, bias, settings).implementation.composite):
        return activate(convolve(x, weight, bias, settings, differentiable=True), negative_slope)
    y: Tensor = ConvAct.apply(x, weight, bias, settings, negative_slope, writable)  # type: ignore[no-untyped-call]
    return y


class ConvAct(torch.autograd.Function):
    """The autograd node of ``conv_act``.

    It saves x only if the weight needs a gradient. The second derivatives do not need x otherwise, because the gradient
    of x does not depend on x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: ConvSettings,
        negative_slope: float,
        writable: bool,
    ) -> Tensor:
        y = convolve(x, weight, bias, settings, negative_slope)
        signs = None if negative_slope == 1 else y
        if signs is not None and writable and negative_slope and any(ctx.needs_input_grad):
            signs = y > 0
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, signs)
        ctx.settings, ctx.negative_slope, ctx.input_spec = settings, negative_slope, InputSpec.of(x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, signs = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = needs = ctx.needs_input_grad[:3]
        if signs is not None:
            fused = activation_gradients(
                grad, signs.detach(), ctx.negative_slope, x, weight, ctx.settings, ctx.input_spec, needs=needs
            )
            if fused is not None:
                return *fused, *[None] * 3
        # Detached: the slope is constant for positive and for negative values, so its derivative is 0.
        dz = grad if signs is None else before_activation(grad, signs.detach().to(grad.dtype), ctx.negative_slope)
        dx, dweight = gradients(
            dz, x, weight, ctx.settings, ctx.input_spec, needs_input=needs_x, needs_weight=needs_weight
        )
        dbias = dz.sum([0, *range(2, dz.dim())]) if needs_bias else None
        return dx, dweight, dbias, *[None] * 3


def before_activation(grad: Tensor, signs: Tensor, negative_slope: float) -> Tensor:
    """The gradient of a LeakyReLU's input.

    Args:
        grad: the gradient of the LeakyReLU's output.
        signs: a tensor with the signs of the LeakyReLU's input, for example the LeakyReLU's output.
        negative_slope: of the LeakyReLU, 0 or more.
    """
    gradient: Tensor = (
        torch.ops.aten.leaky_relu_backward(grad, signs, negative_slope, True)
        if negative_slope
        else torch.ops.aten.threshold_backward(grad, signs, 0)
    )
    return gradient
