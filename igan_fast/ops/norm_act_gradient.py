"""The gradients of norm_act, of any order, and its fake implementations, registered with the dispatcher."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.ops.eager import apply_function, below_autograd, call_in_backward, is_recorded, node_of
from igan_fast.ops.layout import like
from igan_fast.ops.transforms import batched, in_functorch
from igan_fast.reference.ops import accumulation_dtype, activate
from igan_fast.reference.processes import total

if TYPE_CHECKING:
    from igan_fast.reference.processes import ProcessGroup

__all__ = ["Normalization", "call", "gradient", "operators_of", "plain_gradient", "register"]

#: The eager nodes, by the namespace and the name of the operator.
_NODES: dict[tuple[str, str], type[torch.autograd.Function]] = {}


class Normalization(NamedTuple):
    """The arguments of ``norm_act_backward`` after ``grad``, in the order of the operator's schema."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor  #: (groups, C), as var: the statistics by which x was normalised
    var: Tensor
    eps: float
    negative_slope: float
    batch_statistics: bool  #: mean and var are computed from x; if False they are constants, and groups is 1
    film: Tensor | None = None


@functools.cache
def operators_of(namespace: str) -> Any:
    """The operators of one namespace, as overloads (``default``), so that PyTorch need not select one in each call."""
    operators = getattr(torch.ops, namespace)
    names = ("", "_inference", "_backward", "_update", "_statistics", "_sums", "_gradient")
    return types.SimpleNamespace(**{f"norm_act{name}": getattr(operators, f"norm_act{name}").default for name in names})


def call(namespace: str, name: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> Any:
    """Call ``norm_act`` or ``norm_act_inference`` of a namespace, differentiable. ``rest`` ends with the film."""
    if torch.compiler.is_compiling():
        return getattr(getattr(torch.ops, namespace), name)(x, weight, bias, *rest)
    if is_recorded(x, weight, bias, rest[-1]):
        return apply_function(_NODES[namespace, name], x, weight, bias, *rest)
    return below_autograd(getattr(operators_of(namespace), name), x, weight, bias, *rest)


def register(namespace: str) -> None:
    """Register the fake implementations and the gradients of the operators of one of the dispatcher's namespaces."""
    operators = operators_of(namespace)
    library = f"{namespace}::norm_act"
    torch.library.register_fake(library)(_fake_norm_act)
    torch.library.register_fake(f"{library}_inference")(lambda x, *_: torch.empty_like(x))
    torch.library.register_fake(f"{library}_backward")(_fake_backward)
    torch.library.register_fake(f"{library}_update")(lambda *_: None)

    def backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return tuple([None] * ctx.inputs)
        *saved, film = ctx.saved_tensors
        _, weight, bias, _, _ = saved
        dx, dweight, dbias, dfilm = gradient(operators, grad, *saved, ctx.eps, ctx.slope, ctx.batch_statistics, film)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        return (
            dx if needs_x else None,
            dweight.to(weight.dtype) if weight is not None and needs_weight else None,
            dbias.to(bias.dtype) if bias is not None and needs_bias else None,
            *[None] * (ctx.inputs - 4),
            dfilm.to(film.dtype) if film is not None and ctx.needs_input_grad[ctx.inputs - 1] else None,
        )

    for name, setup_context in (("norm_act", _save_norm_act), ("norm_act_inference", _save_inference)):
        torch.library.register_autograd(f"{namespace}::{name}", backward, setup_context=setup_context)
        _NODES[namespace, name] = node_of(getattr(operators, name), backward, setup_context)
    torch.library.register_autograd(f"{library}_backward", _second_backward, setup_context=_save_backward)


def gradient(operators: Any, grad: Tensor, *normalization: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and film. All but that of x are float32, or float64 if x is. Without film, its
    gradient is an empty tensor.

    The operator ``norm_act_backward`` computes them. PyTorch's own functions do so for batched gradients (``batched``).

    Args:
        operators: the dispatcher's operators of one namespace.
        grad: the gradient of the operator's result, in any memory layout.
        normalization: the fields of ``Normalization``, in their order.
    """
    if batched(grad):
        return plain_gradient(grad, Normalization(*normalization))
    found: tuple[Tensor, Tensor, Tensor, Tensor] = call_in_backward(
        operators.norm_act_backward, like(grad, normalization[0]), *normalization
    )
    return found


def plain_gradient(
    grad: Tensor, n: Normalization, process_group: ProcessGroup | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients computed by PyTorch's own functions, which can be differentiated and transformed.

    The statistics of a batch are recomputed from x, because the gradient of x also depends on x through them.

    Args:
        process_group: the processes whose statistics are combined; None for this process alone.
    """
    groups = n.mean.shape[0] if n.batch_statistics else 1
    shape = (groups, n.x.shape[0] // groups, n.x.shape[1], math.prod(n.x.shape[2:]))
    over = (1, 3)
    values, grads = (t.to(accumulation_dtype(n.x)).reshape(shape) for t in (n.x, grad))

    def mean_of(t: Tensor) -> Tensor:
        if process_group is None:
            return t.mean(over, keepdim=True)
        count = total(torch.full((), shape[1] * shape[3], dtype=torch.float64, device=t.device), process_group)
        return total(t.sum(over, keepdim=True), process_group) / count

    if n.batch_statistics and process_group is not None:
        mean = mean_of(values)
        var = mean_of((values - mean).square())
    elif n.batch_statistics:
        var, mean = torch.var_mean(values, over, correction=0, keepdim=True)
    else:
        var, mean = n.var.view(-1, 1), n.mean.view(-1, 1)
    invstd = (var + n.eps).rsqrt()
    normalised = (values - mean) * invstd
    scale = normalised.new_ones(()) if n.weight is None else n.weight.to(values.dtype).view(-1, 1)
    z = normalised * scale if n.bias is None else normalised * scale + n.bias.to(values.dtype).view(-1, 1)
    dfilm = values.new_empty((0,))
    if n.film is not None:
        activated = activate(z, n.negative_slope)
        dfilm = torch.cat([(grads * activated).sum(3), grads.sum(3)], 2).reshape(n.film.shape)
        scales, _ = n.film.to(values.dtype).reshape(*shape[:2], 2 * shape[2], 1).chunk(2, 2)
        grads = grads * (1 + scales)
    if n.negative_slope == 0:
        passed = torch.where(z <= 0, torch.zeros_like(grads), grads)
    else:
        passed = torch.where(z > 0, grads, grads * n.negative_slope)
    d = passed * scale
    if n.batch_statistics:
        d = d - mean_of(d) - normalised * mean_of(d * normalised)
    dx = (d * invstd).reshape(n.x.shape).to(n.x.dtype)
    return dx, (passed * normalised).sum((0, *over)), passed.sum((0, *over)), dfilm


def _fake_norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    negative_slope: float,
    groups: int,
    film: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty((groups, x.shape[1]), dtype=accumulation_dtype(x))
    return torch.empty_like(x), mean, torch.empty_like(mean)


def _fake_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = Normalization(*arguments)
    x = n.x
    dweight = x.new_empty((x.shape[1],), dtype=accumulation_dtype(x))
    dfilm = dweight.new_empty((0,) if n.film is None else n.film.shape)
    return torch.empty_like(x), dweight, torch.empty_like(dweight), dfilm


def _save_norm_act(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, ctx.eps, ctx.slope, _, film = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, mean, var, film)
    ctx.batch_statistics, ctx.inputs = True, len(inputs)


def _save_inference(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, mean, var, ctx.eps, ctx.slope, film = inputs
    # Copies, because training may change the running statistics in place before the backward.
    statistics = (t.to(accumulation_dtype(x), copy=True).reshape(-1, x.shape[1]) for t in (mean, var))
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, *statistics, film)
    ctx.batch_statistics, ctx.inputs = False, len(inputs)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, *arguments = inputs
    n = Normalization(*arguments)
    ctx.save_for_backward(grad, n.x, n.weight, n.bias, n.film, n.mean, n.var)
    ctx.settings = n.eps, n.negative_slope, n.batch_statistics
    ctx.set_materialize_grads(False)
    if n.film is None:
        ctx.mark_non_differentiable(output[3])


def _second_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of the gradient: autograd differentiates ``plain_gradient``. With ``create_graph=True`` the result
    is differentiable too."""
    *saved, mean, var = ctx.saved_tensors
    exists = [t is not None for t in saved]

    def first(*tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        grad, x, weight, bias, film = (next(left) if there else None for there in exists)
        if grad is None or x is None:
            raise AssertionError("grad and x are tensors")
        return plain_gradient(grad, Normalization(x, weight, bias, mean, var, *ctx.settings)._replace(film=film))

    found = iter(_vector_jacobian_product(first, [t for t in saved if t is not None], upstream))
    *others, dfilm = (next(found) if there else None for there in exists)
    return (*others, *[None] * 5, dfilm)


def _vector_jacobian_product(
    function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], upstream: Sequence[Tensor | None]
) -> Sequence[Tensor | None]:
    """The gradients of the function's inputs, from ``upstream``, the gradients of its results."""
    if in_functorch():  # torch.func does not allow requires_grad_() inside
        found: Any = torch.func.vjp(function, *inputs)
        results, pull_back = found
        weights = (
            torch.zeros_like(y) if up is None else up.to(y.dtype) for y, up in zip(results, upstream, strict=True)
        )
        pulled: Sequence[Tensor] = pull_back(tuple(weights))
        return pulled
    needs_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [_graph_input(t, connected=needs_graph) for t in inputs]
        results = function(*leaves)
        chosen = [(y, up.to(y.dtype)) for y, up in zip(results, upstream, strict=True) if up is not None]
        if not chosen:
            return [None] * len(inputs)
        outputs, gradients = [y for y, _ in chosen], [up for _, up in chosen]
        return torch.autograd.grad(outputs, leaves, gradients, create_graph=needs_graph, allow_unused=True)


def _graph_input(t: Tensor, *, connected: bool) -> Tensor:
    """t as a tensor that autograd can differentiate with respect to. If ``connected``, it stays connected to the graph
    of t; else it is a leaf."""
    return t.view_as(t) if connected and t.requires_grad else t.detach().requires_grad_()
