"""Normalisation and LeakyReLU in one operator.

Forward it saves the input and the statistics, nothing else: the normalised values are found again, and with them the
side of the LeakyReLU that each was on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.layout import channels_first, channels_last
from igan_fast.reference import ops as reference

__all__ = ["norm_act"]

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    negative_slope: float = 0.2,
    groups: int = 1,
    average_groups: bool = False,
    impl: str = "auto",
) -> Tensor:
    """Normalise each channel, then LeakyReLU: ``F.leaky_relu(F.batch_norm(x, ...), negative_slope)``.

    ``groups`` splits the batch into that many contiguous parts, each normalised by statistics of its own: 1 is batch
    normalisation, N is instance normalisation, 2 is "real and fake in one call, normalised apart". The running
    statistics end as after ``groups`` successive calls, or move once where ``average_groups``.

    Args:
        x: (N, C, *spatial), float16, bfloat16, float32 or float64, in any memory layout.
        weight, bias: (C,), or None for 1 and 0; of the dtype of ``x``, or float32 where that is a half type.
        running_mean, running_var: (C,), updated in place when ``training``; used instead of the batch's own statistics
            when not. None: the batch's own statistics always.
        momentum: weight of the new batch in the running statistics (its unbiased variance, as torch has it).
        negative_slope: 0 is ReLU, 1 is no activation.
        average_groups: the running statistics move once, by the mean of what each group asks for, as
            ``nn.InstanceNorm2d`` has it.
        impl: "auto", "native", "triton" or "reference".

    Returns:
        A tensor of the shape, dtype and memory format of ``x``. Statistics are taken in float32 or wider, exactly for
        data far from zero, in a fixed order: the same input gives the same bits.

    Raises:
        ValueError: a shape, dtype or device that does not fit ``x``; ``groups`` that does not divide N; one value per
            channel while the batch's own statistics are needed; an unknown ``impl``.
        RuntimeError: ``impl`` names an implementation that cannot run these tensors; the message says why.
    """
    namespace = backend.namespace(impl, x.device, (x.dtype,))
    if namespace is None or x.dim() < 2 or x.numel() == 0:
        return reference.norm_act(
            x,
            weight,
            bias,
            running_mean,
            running_var,
            training=training,
            momentum=momentum,
            eps=eps,
            negative_slope=negative_slope,
            groups=groups,
            average_groups=average_groups,
        )
    check_arguments(x, x.shape[1], weight, bias, running_mean, running_var, groups)
    operators = getattr(torch.ops, namespace)
    x = dense(x)
    if not training and running_mean is not None:
        y: Tensor = operators.norm_act_inference(x, weight, bias, running_mean, running_var, eps, negative_slope)
        return y
    count = check_count(x, groups)
    y, mean, var = operators.norm_act(x, weight, bias, eps, negative_slope, groups)
    if training and running_mean is not None:
        mean, var = (of_groups(t.detach(), average_groups) for t in (mean, var))
        operators.norm_act_update(running_mean, running_var, mean, var, count, momentum)
    return y


def check_arguments(
    x: Tensor,
    channels: int,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    groups: int,
) -> None:
    """Raise a ValueError that names the argument which does not fit x (N, …) or the channels to be normalised."""
    if groups < 1 or x.shape[0] % groups:
        raise ValueError(f"groups is {groups}; expected a positive divisor of the batch size {x.shape[0]}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var: one is None; expected both or neither")
    half = x.dtype in (torch.float16, torch.bfloat16)
    for name, tensor in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        if tensor is None:
            continue
        if tensor.dim() != 1 or tensor.shape[0] != channels:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected ({channels},), one per channel")
        if tensor.dtype != x.dtype and not (half and tensor.dtype == torch.float32):
            raise ValueError(f"{name} is {tensor.dtype} for an x of {x.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}; expected {x.device}, as x")


def check_count(x: Tensor, groups: int) -> int:
    """Values per channel and group; as torch, a ValueError where there is only one."""
    count = x.numel() // (x.shape[1] * groups)
    if count == 1:
        size = torch.Size((x.shape[0] // groups, *x.shape[1:]))
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")
    return count


def of_groups(statistics: Tensor, average: bool) -> Tensor:
    """The groups' means or variances (groups, C) as the running statistics are to see them."""
    return statistics.mean(0, keepdim=True) if average else statistics


def dense(x: Tensor) -> Tensor:
    """x as the kernels take it: contiguous or with channels last in memory; copied where it is neither."""
    if x.is_contiguous() or _is_channels_last(x):
        return x
    return x.contiguous()


def like(grad: Tensor, x: Tensor) -> Tensor:
    """A gradient in the memory layout of the dense x."""
    if x.is_contiguous():
        return channels_first(grad) if x.dim() == 4 else grad.contiguous()
    if x.dim() == 4:
        return channels_last(grad)
    if x.dim() in _CHANNELS_LAST:
        return grad.contiguous(memory_format=_CHANNELS_LAST[x.dim()])
    return grad.movedim(1, -1).contiguous().movedim(-1, 1)


def _is_channels_last(x: Tensor) -> bool:
    if x.dim() in _CHANNELS_LAST:
        return x.is_contiguous(memory_format=_CHANNELS_LAST[x.dim()])
    return x.dim() > 2 and x.movedim(1, -1).is_contiguous()


def register(namespace: str) -> None:
    """Give the dispatcher's operators of one namespace their shapes without data, and their gradients."""
    operators = getattr(torch.ops, namespace)
    library = f"{namespace}::norm_act"
    torch.library.register_fake(library)(_fake_norm_act)
    torch.library.register_fake(f"{library}_inference")(_fake_inference)
    torch.library.register_fake(f"{library}_backward")(_fake_backward)
    torch.library.register_fake(f"{library}_update")(_fake_update)

    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, var = ctx.saved_tensors
        dx, dweight, dbias = operators.norm_act_backward(
            like(grad, x), x, weight, bias, mean, var, ctx.eps, ctx.slope, ctx.batch_statistics
        )
        return (
            dx if ctx.needs_input_grad[0] else None,
            dweight.to(weight.dtype) if weight is not None and ctx.needs_input_grad[1] else None,
            dbias.to(bias.dtype) if bias is not None and ctx.needs_input_grad[2] else None,
            *[None] * (ctx.inputs - 3),
        )

    torch.library.register_autograd(library, backward, setup_context=_save_norm_act)
    torch.library.register_autograd(f"{library}_inference", backward, setup_context=_save_inference)
    torch.library.register_autograd(f"{library}_backward", _second_backward, setup_context=_save_backward)


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
    """The gradient's own gradient, as autograd finds it through the reference; with a graph where a third is wanted."""
    wants_graph = torch.is_grad_enabled()
    grad, x, weight, bias, mean, var = ctx.saved_tensors
    with torch.enable_grad():
        given = [grad, x, weight, bias]
        leaves = [None if t is None else _cut(t, connected=wants_graph) for t in given]
        grad_, x_, weight_, bias_ = leaves
        if grad_ is None or x_ is None:
            raise AssertionError("grad and x are tensors")
        if ctx.batch_statistics:
            statistics: dict[str, Any] = {"training": True, "groups": mean.shape[0]}
        else:
            statistics = {"training": False, "running_mean": mean[0], "running_var": var[0]}
        y = reference.norm_act(x_, weight_, bias_, eps=ctx.eps, negative_slope=ctx.slope, **statistics)
        firsts = [t for t in (x_, weight_, bias_) if t is not None]
        first = torch.autograd.grad(y, firsts, grad_, create_graph=True)
        wanted = [up for up, t in zip(upstream, (x_, weight_, bias_), strict=True) if t is not None]
        chosen = [(f, up.to(f.dtype)) for f, up in zip(first, wanted, strict=True) if up is not None]
        inputs = [t for t in leaves if t is not None]
        outputs, weights = [f for f, _ in chosen], [up for _, up in chosen]
        seconds = iter(torch.autograd.grad(outputs, inputs, weights, create_graph=wants_graph, allow_unused=True))
    return (*(next(seconds) if t is not None else None for t in leaves), *[None] * 5)


def _cut(t: Tensor, *, connected: bool) -> Tensor:
    """t where a graph of its own begins; ``connected``: behind which t's own graph is still found."""
    return t.view_as(t) if connected and t.requires_grad else t.detach().requires_grad_()


backend.on_load(register)
