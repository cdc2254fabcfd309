"""The computation of a fused normalisation: one call, forward and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.fusion.activation import gradient_and_slope
from igan_fast.fusion.autograd import apply_with_anchor, gradients_of_anchor
from igan_fast.fusion.deferred import Deferred
from igan_fast.fusion.expectation import Expectation
from igan_fast.fusion.result import Result, clones
from igan_fast.fusion.watched import guard
from igan_fast.ops import norm_act_processes
from igan_fast.ops.eager import below_autograd, is_recorded
from igan_fast.ops.norm_act import of_groups
from igan_fast.ops.norm_act_gradient import Normalization, gradient, operators_of
from igan_fast.reference.ops import accumulation_dtype

if TYPE_CHECKING:
    from igan_fast.reference.processes import ProcessGroup

__all__ = ["NormCall", "RunningUpdate", "Shared", "Statistics", "normalize"]

#: Mean and variance per channel.
Statistics = tuple[Tensor, Tensor]
#: Running mean, running variance and momentum.
RunningUpdate = tuple[Tensor, Tensor, float]


class Shared(NamedTuple):
    """The statistics of a call are those of the batches of several processes.

    values: the number of values in each channel of all batches, (1,).
    """

    values: Tensor
    process_group: ProcessGroup


class NormCall(NamedTuple):
    """The settings of one call.

    namespace: of the operators in ``torch.ops``.
    expectation: of the module that is called.
    groups: number of parts of the batch that are normalised separately.
    slope: negative slope of the expected activation; None where none is expected.
    statistics: the mean and the variance to normalise by; None for those of the batch.
    update: the running statistics to update by those of the batch; None for no update.
    average_groups: the running statistics are updated once, by the mean over the groups (instance normalisation).
    late_update: empty at first. Instance normalisation stores the batch's mean and variance here, and updates the
        running statistics after the autograd node is recorded, as PyTorch does. When checkpointing repeats the call, it
        stops as soon as it has the saved tensors, so it does not update the statistics again.
    shared: ``statistics`` are those of this batch and of the batches of other processes; None for any others.
    """

    namespace: str
    expectation: Expectation
    groups: int
    eps: float
    slope: float | None
    statistics: Statistics | None
    update: RunningUpdate | None
    average_groups: bool
    late_update: list[Tensor]
    shared: Shared | None = None


def normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, call: NormCall) -> Tensor:
    """The normalisation's result; a Deferred if an activation is expected. Updates the running statistics."""
    if is_recorded(x, weight, bias):
        y = apply_with_anchor(_Normalize, x, weight, bias, call)
    else:
        y, _, _ = _normalize(x, weight, bias, call)
    if call.late_update:
        _update(x, call, *call.late_update)
    return y


def _normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, call: NormCall) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and the mean and variance that x was normalised by."""
    y, mean, var = _norm_act(x, weight, bias, call.statistics, call, 1.0 if call.slope is None else call.slope)
    if call.update is not None:
        if call.average_groups:
            call.late_update.extend((mean, var))
        else:
            _update(x, call, mean, var)
    if call.slope is None:
        return y, mean, var
    weight, bias, *statistics = clones(weight, bias, *(call.statistics or ()))

    def plain() -> Tensor:
        return _norm_act(x, weight, bias, statistics or None, call, 1.0)[0]

    return guard(Deferred(y, Result(call.expectation, (x,), plain, y, call.slope))), mean, var


def _norm_act(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: Any, call: NormCall, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x normalised and activated with ``slope``, and the mean and variance that it was normalised by."""
    operators = operators_of(call.namespace)
    if statistics is None:
        result: tuple[Tensor, Tensor, Tensor] = below_autograd(
            operators.norm_act, x, weight, bias, call.eps, slope, call.groups
        )
        return result
    mean, var = statistics
    if x.numel() == 0:  # of one of several processes
        return below_autograd(torch.empty_like, x), mean, var
    return below_autograd(operators.norm_act_inference, x, weight, bias, mean, var, call.eps, slope), mean, var


def _update(x: Tensor, call: NormCall, mean: Tensor, var: Tensor) -> None:
    """Update the running statistics by the batch's mean and variance."""
    if call.update is None:
        raise AssertionError("there are no running statistics to update")
    running_mean, running_var, momentum = call.update
    new = (of_groups(t, call.average_groups) for t in (mean, var))
    count = x.numel() // (x.shape[1] * call.groups)
    operators_of(call.namespace).norm_act_update(running_mean, running_var, *new, count, momentum)


class _Normalize(torch.autograd.Function):
    """The normalisation's autograd node. If the activation's node passes a gradient and a slope to it
    (``gradient_and_slope``), its backward pass computes the gradient of both operations."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, call: NormCall
    ) -> tuple[Tensor, Tensor | None]:
        y, mean, var = _normalize(x, weight, bias, call)
        # Clone the bias: PyTorch's normalisation does not save it, so it may change in place before the backward pass.
        ctx.save_for_backward(x, weight, None if bias is None else bias.clone(), mean, var)
        ctx.call = call
        ctx.set_materialize_grads(False)
        return y, None if call.slope is None else x.new_empty(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, anchor: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, var = ctx.saved_tensors
        if grad is None:
            return gradients_of_anchor(ctx, anchor, x, weight, bias)
        call: NormCall = ctx.call
        grad, slope = gradient_and_slope(grad, call.expectation)
        if call.statistics is not None:
            dtype = accumulation_dtype(x)
            mean, var = mean.to(dtype).view(1, -1), var.to(dtype).view(1, -1)
        operators = operators_of(call.namespace)
        own_statistics = call.statistics is None or call.shared is not None
        arguments = (grad, x, weight, bias, mean, var, call.eps, slope, own_statistics)
        if call.shared is not None:
            normalization = Normalization(*arguments[1:])
            dx, dweight, dbias, _ = norm_act_processes.gradient(operators, grad, normalization, *call.shared)
        else:
            dx, dweight, dbias, _ = gradient(operators, *arguments)
        needs = ctx.needs_input_grad
        return (
            dx if needs[0] else None,
            _in_dtype_of(weight, dweight) if needs[1] else None,
            _in_dtype_of(bias, dbias) if needs[2] else None,
            None,
        )


def _in_dtype_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    return gradient if gradient.dtype == parameter.dtype else gradient.to(parameter.dtype)
