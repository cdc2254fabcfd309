"""Convolutions and their gradients: what their choice depends on, and the calls of the chosen functions.

The choice (``choice``) is made once for each ``Problem``. Two conditions may differ between calls of one problem. Each
call checks them: whether PyTorch's own functions have to compute the result (``backend.plain_only``), and whether the
call is compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from igan_fast.ops import backend, tuning
from igan_fast.ops.constant import is_constant
from igan_fast.ops.convolution import choice, pytorch
from igan_fast.ops.convolution.plan import Plan, Problem
from igan_fast.ops.convolution.settings import ConvSettings, InputSpec
from igan_fast.ops.convolution.triton import ALWAYS, asked_for

__all__ = ["activation_gradients", "convolve", "gradients", "plan_of", "problem_of"]


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    settings: ConvSettings,
    negative_slope: float = 1.0,
    *,
    differentiable: bool = False,
) -> Tensor:
    """LeakyReLU(convolution(x, weight) + bias) by the fastest implementation.

    Args:
        x: (N, C_in, *spatial).
        weight: (C_out, C_in / groups, *kernel), or (C_in, C_out / groups, *kernel) for a transposed convolution.
        bias: (C_out,), or None.
        settings: of the convolution. ``settings.fits(x, weight, bias)`` has to be true.
        negative_slope: of the LeakyReLU: 0 is ReLU, 1 is no activation.
        differentiable: whether autograd has to record the computation. Pass False if nothing needs a gradient, and in
            an autograd function whose backward calls ``gradients``.

    Returns:
        (N, C_out, *spatial_out), in a memory format that the implementation chooses.
    """
    plan = plan_of(x, weight, bias, settings, negative_slope, differentiable=differentiable)
    return plan.run(x, weight, bias, negative_slope)


def plan_of(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    settings: ConvSettings,
    negative_slope: float = 1.0,
    *,
    differentiable: bool = False,
    constant: bool = False,
) -> Plan:
    """The plan that ``convolve`` would use for these arguments now.

    It is for callers that compute the same convolution several times, or that depend on the implementation.

    Args:
        constant: whether results that depend on the weight alone will be kept (``igan_fast.ops.constant``), although
            they are not yet.
    """
    if backend.plain_only(x, weight, bias):
        return choice.plan_of_pytorch(settings)
    problem = problem_of(x, weight, bias, settings, negative_slope, differentiable=differentiable, constant=constant)
    return choice.plan_for(problem)


def problem_of(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    settings: ConvSettings,
    negative_slope: float = 1.0,
    *,
    differentiable: bool = False,
    constant: bool = False,
) -> Problem:
    """What the choice for ``convolve`` with these arguments depends on."""
    return _problem(
        settings,
        InputSpec.of(x),
        weight,
        dtype=x.dtype,
        bias=bias is not None,
        activation=negative_slope != 1,
        differentiable=differentiable,
        constant=constant,
    )


def gradients(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor,
    settings: ConvSettings,
    input_spec: InputSpec,
    *,
    needs_input: bool,
    needs_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a convolution's input and of its weight; None for a gradient that is not needed.

    If gradients are enabled, as with ``create_graph=True``, the results are differentiable.

    Args:
        grad: the gradient of the convolution's output.
        x: the input; may be None where the weight needs no gradient.
        input_spec: of the input.
        needs_input, needs_weight: whether the input and the weight need a gradient.
    """
    if not (needs_input or needs_weight):
        return None, None  # PyTorch's function would still copy grad into its own memory format
    problem = _gradient_problem(grad, x, weight, settings, input_spec)
    plan = choice.PYTORCH_GRADIENTS if problem is None else choice.gradient_plan_for(problem)
    dx = dweight = None
    if needs_input and plan.input_gradient is not None:
        dx = plan.input_gradient(grad, weight, input_spec)
        needs_input = False
    if needs_weight and plan.weight_gradient is not None and x is not None:
        dweight = plan.weight_gradient(grad, x)
        needs_weight = False
    if needs_input or needs_weight:
        rest = pytorch.gradients(grad, x, weight, settings, input_spec, needs_input, needs_weight)
        dx, dweight = (rest[0] if needs_input else dx), (rest[1] if needs_weight else dweight)
    return dx, dweight


def activation_gradients(
    grad: Tensor,
    signs: Tensor,
    negative_slope: float,
    x: Tensor | None,
    weight: Tensor,
    settings: ConvSettings,
    input_spec: InputSpec,
    *,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
    """The gradients of input, weight and bias of LeakyReLU(convolution + bias), where an implementation computes them
    without storing the gradient of the LeakyReLU's input; else None, and ``gradients`` has to compute them from it.

    Args:
        grad: the gradient of the LeakyReLU's output.
        signs: of grad's shape, with the signs of the LeakyReLU's input, such as its output.
        negative_slope: of the LeakyReLU, 0 or more.
        needs: whether the input, the weight and the bias need a gradient.

    The other arguments are those of ``gradients``.
    """
    if (needs[2] and not needs[1]) or not any(needs):  # the bias's gradient alone is a sum
        return None
    problem = _gradient_problem(grad, x, weight, settings, input_spec)
    if problem is None:
        return None
    run = choice.activation_gradients_for(problem, needs)
    return run and run(grad, signs.to(grad.dtype), negative_slope, x, weight, input_spec, needs)


def _gradient_problem(
    grad: Tensor, x: Tensor | None, weight: Tensor, settings: ConvSettings, input_spec: InputSpec
) -> Problem | None:
    """The problem of the gradients; None if PyTorch's own functions have to compute them."""
    if backend.plain_only(grad, x, weight):
        return None
    return _problem(settings, input_spec, weight, differentiable=torch.is_grad_enabled())


def _problem(
    settings: ConvSettings,
    input_spec: InputSpec,
    weight: Tensor,
    *,
    dtype: torch.dtype | None = None,
    bias: bool = False,
    activation: bool = False,
    differentiable: bool = False,
    constant: bool = False,
) -> Problem:
    """The problem of a convolution or of its gradients.

    Args:
        dtype: of the input; None for the weight's.
    """
    differentiable = differentiable or torch.compiler.is_compiling()
    device = weight.device.type
    measured = asked_for() == "measure" and not differentiable and tuning.has_choices(device)
    return Problem(
        settings,
        native=settings.native and backend.has_native_cpu(),
        input_shape=input_spec.shape,
        weight_shape=weight.shape,
        input_dtype=weight.dtype if dtype is None else dtype,
        weight_dtype=weight.dtype,
        device=device,
        weight_contiguous=weight.is_contiguous(),
        bias=bias,
        activation=activation,
        differentiable=differentiable,
        triton=asked_for() in ALWAYS,
        measured=tuning.flags() if measured else "",
        constant=constant or is_constant(weight),
        input_contiguous=input_spec.contiguous,
    )
