"""Linear layers on the CPU, by the fastest of MKL, oneDNN and, for few rows, a kernel of this package.

PyTorch's ``F.linear`` calls MKL's matrix product in float32. For large weights oneDNN's is faster. ``linear_limits``
says from which sizes on, for the forward pass and for each gradient. ``few_rows`` computes layers without gradients
whose input has few rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops import backend, few_rows
from igan_fast.ops.constant import cast, is_constant
from igan_fast.ops.linear_limits import COMPUTATIONS, gains, limits_of, pays
from igan_fast.ops.transforms import batched, overridable

__all__ = ["linear", "product"]


@overridable
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear(x, weight, bias)``.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,), or None.

    Returns:
        (..., out).

    Raises:
        RuntimeError: as ``F.linear``.
    """
    dtype = few_rows.dtype_of(x, weight, bias)
    if dtype is not None:
        return few_rows.multiply(x, weight, bias, dtype)
    if not _applies(x, weight, bias):
        if is_constant(weight) and torch.is_autocast_enabled(x.device.type):
            weight = cast(weight, torch.get_autocast_dtype(x.device.type))
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        y: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    else:
        y = _forward(rows, weight, bias)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], weight.shape[0])


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weightᵀ + bias by oneDNN, for matrices of any strides, outside of autograd."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _applies(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN can compute the layer, and is faster in the forward pass or for a gradient that may follow."""
    if (
        torch.compiler.is_compiling()
        or backend.plain_only(x, weight, bias)  # before any size: torch.jit.trace warns of decisions by sizes
        or weight.dim() != 2
        or not gains(weight.shape[1], weight.shape[0])
        or x.dim() < 2
        or x.shape[-1] != weight.shape[1]
        or torch.is_autocast_enabled("cpu")
        or (bias is not None and bias.shape != weight.shape[:1])
        or any(t.dtype != torch.float32 or t.device.type != "cpu" for t in (x, weight, bias) if t is not None)
    ):
        return False
    batch = x.numel() // weight.shape[1]
    computations = COMPUTATIONS if torch.is_grad_enabled() else COMPUTATIONS[:1]
    return any(pays(batch, weight.shape[1], weight.shape[0], limits_of(each)) for each in computations)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if pays(x.shape[0], weight.shape[1], weight.shape[0], limits_of("forward")):
        return product(x.detach(), weight.detach(), None if bias is None else bias.detach())
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """The autograd node of ``linear``. It saves x only if the weight needs a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        return _forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = None if weight is None else _product_of("input_gradient", grad, weight)
        dweight = None if x is None else _product_of("weight_gradient", grad.t() if not batched(grad) else grad.mT, x)
        return dx, dweight, grad.sum(0) if ctx.needs_input_grad[2] else None


def _product_of(computation: str, a: Tensor, b: Tensor) -> Tensor:
    """a @ b, one of the gradients of a layer. PyTorch's product where the result has to be differentiable."""
    if torch.is_grad_enabled() or batched(a, b):
        return a @ b
    # The layer's batch is the rows of the input's gradient, and the shared side of the weight's.
    batch, outputs = a.shape if computation == "input_gradient" else a.t().shape
    return product(a, b.t()) if pays(batch, b.shape[1], outputs, limits_of(computation)) else a @ b
