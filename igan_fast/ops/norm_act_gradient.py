"""The gradients of norm_act, of every order, and its shapes without data: what the dispatcher is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from igan_fast.ops.layout import like
from igan_fast.ops.transforms import batched, in_functorch

__all__ = ["gradient", "register"]


def register(namespace: str) -> None:
    """Give the dispatcher's operators of one namespace their shapes without data, and their gradients."""
    operators = getattr(torch.ops, namespace)
    library = f"{namespace}::norm_act"
    torch.library.register_fake(library)(_fake_norm_act)
    torch.library.register_fake(f"{library}_inference")(_fake_inference)
    torch.library.register_fake(f"{library}_backward")(_fake_backward)
    torch.library.register_fake(f"{library}_update")(_fake_update)

    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = *ctx.saved_tensors, ctx.eps, ctx.slope, ctx.batch_statistics
        weight, bias = saved[1:3]
        dx, dweight, dbias = gradient(operators, grad, *saved)
        return (
            dx if ctx.needs_input_grad[0] else None,
            dweight.to(weight.dtype) if weight is not None and ctx.needs_input_grad[1] else None,
            dbias.to(bias.dtype) if bias is not None and ctx.needs_input_grad[2] else None,
            *[None] * (ctx.inputs - 3),
        )

    torch.library.register_autograd(library, backward, setup_context=_save_norm_act)
    torch.library.register_autograd(f"{library}_inference", backward, setup_context=_save_inference)
    torch.library.register_autograd(f"{library}_backward", _second_backward, setup_context=_save_backward)


def gradient(
    operators: Any,
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    negative_slope: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of x, weight and bias: by one of the dispatcher's operators, and by PyTorch's own under a transform.

    Args:
        operators: the dispatcher's, of one namespace.
        mean, var: (groups, C), the statistics that x was normalised by: its own where ``batch_statistics``.
    """
    arguments = x, weight, bias, mean, var, eps, negative_slope, batch_statistics
    if batched(grad):
        return _plain_gradient(grad, *arguments)
    found: tuple[Tensor, Tensor, Tensor] = operators.norm_act_backward(like(grad, x), *arguments)
    return found


def _plain_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    negative_slope: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula itself, in functions that every transform knows. The batch's statistics are taken again, since x's
    gradient is a function of x through them too."""
    parts = (mean.shape[0] if batch_statistics else 1, -1, x.shape[1], x[0, 0].numel())
    over = (1, 3)
    values, grads = (t.to(_compute_dtype(x)).reshape(parts) for t in (x, grad))
    if batch_statistics:
        var, mean = torch.var_mean(values, over, correction=0, keepdim=True)
    else:
        var, mean = var.view(-1, 1), mean.view(-1, 1)
    invstd = (var + eps).rsqrt()
    normalised = (values - mean) * invstd
    scale = normalised.new_ones(()) if weight is None else weight.to(values.dtype).view(-1, 1)
    z = normalised * scale if bias is None else normalised * scale + bias.to(values.dtype).view(-1, 1)
    if negative_slope == 0:
        passed = torch.where(z <= 0, torch.zeros_like(grads), grads)
    else:
        passed = torch.where(z > 0, grads, grads * negative_slope)
    d = passed * scale
    if batch_statistics:
        d = d - d.mean(over, keepdim=True) - normalised * (d * normalised).mean(over, keepdim=True)
    dx = (d * invstd).reshape(x.shape).to(x.dtype)
    return dx, (passed * normalised).sum((0, *over)), passed.sum((0, *over))


def _fake_norm_act(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, negative_slope: float, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty((groups, x.shape[1]), dtype=_compute_dtype(x))
    return torch.empty_like(x), mean, torch.empty_like(mean)


def _fake_inference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, negative_slope: float
) -> Tensor:
    return torch.empty_like(x)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    negative_slope: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dweight = x.new_empty((x.shape[1],), dtype=_compute_dtype(x))
    return torch.empty_like(x), dweight, torch.empty_like(dweight)


def _fake_update(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, count: int, momentum: float
) -> None:
    return None


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _save_norm_act(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, ctx.eps, ctx.slope, _ = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(x, weight, bias, mean, var)
    ctx.batch_statistics, ctx.inputs = True, len(inputs)


def _save_inference(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, mean, var, ctx.eps, ctx.slope = inputs
    # Of their own: training may go on, and change the running statistics in place, before the backward.
    statistics = (t.to(_compute_dtype(x), copy=True).unsqueeze(0) for t in (mean, var))
    ctx.save_for_backward(x, weight, bias, *statistics)
    ctx.batch_statistics, ctx.inputs = False, len(inputs)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    grad, x, weight, bias, mean, var, ctx.eps, ctx.slope, ctx.batch_statistics = inputs
    ctx.save_for_backward(grad, x, weight, bias, mean, var)


def _second_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient's own gradient, as autograd finds it through the formula; with a graph where a third is wanted."""
    *given, mean, var = ctx.saved_tensors
    there = [t is not None for t in given]

    def first(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left = iter(tensors)
        grad, x, weight, bias = (next(left) if is_there else None for is_there in there)
        if grad is None or x is None:
            raise AssertionError("grad and x are tensors")
        return _plain_gradient(grad, x, weight, bias, mean, var, ctx.eps, ctx.slope, ctx.batch_statistics)

    pulled = iter(_pulled_back(first, [t for t in given if t is not None], upstream))
    return (*(next(pulled) if is_there else None for is_there in there), *[None] * 5)


def _pulled_back(
    function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], upstream: Sequence[Tensor | None]
) -> Sequence[Tensor | None]:
    """The gradients of the inputs, from those of the function's results."""
    if in_functorch():  # which allows no leaves of our own
        found: Any = torch.func.vjp(function, *inputs)
        results, pull_back = found
        weights = (
            torch.zeros_like(y) if up is None else up.to(y.dtype) for y, up in zip(results, upstream, strict=True)
        )
        pulled: Sequence[Tensor] = pull_back(tuple(weights))
        return pulled
    wants_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [_cut(t, connected=wants_graph) for t in inputs]
        results = function(*leaves)
        chosen = [(y, up.to(y.dtype)) for y, up in zip(results, upstream, strict=True) if up is not None]
        outputs, wanted = [y for y, _ in chosen], [up for _, up in chosen]
        return torch.autograd.grad(outputs, leaves, wanted, create_graph=wants_graph, allow_unused=True)


def _cut(t: Tensor, *, connected: bool) -> Tensor:
    """t where a graph of its own begins; ``connected``: behind which t's own graph is still found."""
    return t.view_as(t) if connected and t.requires_grad else t.detach().requires_grad_()
