"""The choice of the implementation that computes a convolution or its gradients. It is made only here.

The choice is made once for each ``Problem``, and then cached. Two conditions may differ between calls of one problem.
Each call checks them: whether PyTorch's own functions have to compute the result (``backend.plain_only``), and whether
the call is compiled."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.constant import is_constant
from igan_fast.ops.convolution import measured, pytorch
from igan_fast.ops.convolution.dilated import Dilated
from igan_fast.ops.convolution.direct import Direct
from igan_fast.ops.convolution.few_channels import FewChannels
from igan_fast.ops.convolution.onednn import OneDNN
from igan_fast.ops.convolution.plan import (
    ActivationGradients,
    Implementation,
    InputGradient,
    Plan,
    Problem,
    WeightGradient,
)
from igan_fast.ops.convolution.settings import ConvSettings, InputSpec
from igan_fast.ops.convolution.subpixel import Subpixel
from igan_fast.ops.convolution.triton import ALWAYS, Triton, asked_for
from igan_fast.ops.convolution.triton_images import TritonImages
from igan_fast.ops.convolution.winograd import Winograd

__all__ = [
    "IMPLEMENTATIONS",
    "activation_gradients",
    "candidates",
    "chosen",
    "convolve",
    "gradients",
    "plan_of",
    "problem_of",
]

#: In the order in which they are tried. PyTorch's convolution computes the problems that none of them can.
IMPLEMENTATIONS: tuple[Implementation, ...] = (
    TritonImages(),
    Triton(),
    Winograd(),
    Dilated(),
    Direct(),
    Subpixel(),
    OneDNN(),
    FewChannels(),
)

_PYTORCH = pytorch.PyTorch()

#: Those that are compared with the others by measurement, where that is asked for.
_ON_DEMAND = [each for each in IMPLEMENTATIONS if each.on_demand]


class _GradientPlan(NamedTuple):
    """The functions that were chosen for the gradients of a problem; None for PyTorch's. Then their implementations."""

    input_gradient: InputGradient | None
    weight_gradient: WeightGradient | None
    of_input: Implementation = _PYTORCH
    of_weight: Implementation = _PYTORCH


_PYTORCH_GRADIENTS = _GradientPlan(None, None)


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
        return Plan(settings, _PYTORCH, functools.partial(pytorch.convolve, settings))
    problem = problem_of(x, weight, bias, settings, negative_slope, differentiable=differentiable, constant=constant)
    return (_kept if _is_decided(problem) else _choose)(problem)


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
    compiling = torch.compiler.is_compiling()
    return Problem(
        settings,
        native=settings.native and backend.has_native_cpu(),
        input_shape=x.shape,
        weight_shape=weight.shape,
        input_dtype=x.dtype,
        weight_dtype=weight.dtype,
        device=x.device.type,
        weight_contiguous=weight.is_contiguous(),
        bias=bias is not None,
        activation=negative_slope != 1,
        differentiable=differentiable or compiling,
        triton=asked_for() in ALWAYS,
        measured=_is_measured(x.device.type, differentiable or compiling),
        constant=constant or is_constant(weight),
        input_contiguous=x.is_contiguous(),
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
    plan = _PYTORCH_GRADIENTS
    if problem is not None:
        plan = (_kept_gradients if _is_decided(problem) else _choose_gradients)(problem)
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
    run = (_kept_fused if _is_decided(problem) else _choose_fused)(problem, needs)
    return run and run(grad, signs.to(grad.dtype), negative_slope, x, weight, input_spec, needs)


def chosen(problem: Problem) -> dict[str, Implementation]:
    """The implementations that compute a convolution and its gradients, by the names of ``Implementation``'s methods.

    Args:
        problem: of the convolution.
    """
    backward = problem._replace(bias=False, activation=False, input_dtype=problem.weight_dtype)
    plan = _choose_gradients(backward)
    forward = _choose(problem).implementation
    return {"convolve": forward, "input_gradient": plan.of_input, "weight_gradient": plan.of_weight}


def candidates(problem: Problem) -> list[Implementation]:
    """The implementations that can be taken for a problem on its device, in the order in which they are tried."""
    asked = problem.triton or problem.measured
    return [each for each in _candidates(problem) if problem.device in each.devices and (asked or not each.on_demand)]


def _gradient_problem(
    grad: Tensor, x: Tensor | None, weight: Tensor, settings: ConvSettings, input_spec: InputSpec
) -> Problem | None:
    """The problem of the gradients; None if PyTorch's own functions have to compute them."""
    if backend.plain_only(grad, x, weight):
        return None
    differentiable = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return Problem(
        settings,
        native=settings.native and backend.has_native_cpu(),
        input_shape=input_spec.shape,
        weight_shape=weight.shape,
        input_dtype=weight.dtype,
        weight_dtype=weight.dtype,
        device=weight.device.type,
        weight_contiguous=weight.is_contiguous(),
        bias=False,
        activation=False,
        differentiable=differentiable,
        triton=asked_for() in ALWAYS,
        measured=_is_measured(weight.device.type, differentiable),
        constant=is_constant(weight),
        input_contiguous=input_spec.contiguous,
    )


def _is_measured(device: str, differentiable: bool) -> bool:
    return asked_for() == "measure" and not differentiable and measured.has_choices(device)


def _is_decided(problem: Problem) -> bool:
    """Whether a choice that is made now may be kept. A compiler cannot trace the cache, and a choice that cannot be
    measured now may be another later."""
    if torch.compiler.is_compiling():
        return False
    return not problem.measured or measured.may_measure(problem.device)


def _candidates(problem: Problem) -> list[Implementation]:
    """All implementations; if autograd or a compiler has to record the computation, those that it can record."""
    return [each for each in IMPLEMENTATIONS if each.composite or not problem.differentiable]


def _choose(problem: Problem) -> Plan:
    if problem.measured:
        return _faster_plan(problem._replace(measured=False))
    for implementation in _candidates(problem):
        run = implementation.convolve(problem)
        if run is not None:
            return Plan(problem.settings, implementation, run)
    return Plan(problem.settings, _PYTORCH, _PYTORCH.convolve(problem))


def _faster_plan(problem: Problem) -> Plan:
    other, asked = _choose(problem), problem._replace(triton=True)
    for implementation in _ON_DEMAND:
        run = implementation.convolve(asked)
        if run is not None:
            faster = measured.faster_convolution(problem, run, other.run)
            return Plan(problem.settings, implementation, run) if faster else other
    return other


def _choose_gradients(problem: Problem) -> _GradientPlan:
    if problem.measured:
        return _faster_gradients(problem._replace(measured=False))
    found = _PYTORCH_GRADIENTS
    for each in _candidates(problem):
        if found.input_gradient is None and (dx := each.input_gradient(problem)) is not None:
            found = found._replace(input_gradient=dx, of_input=each)
        if found.weight_gradient is None and (dweight := each.weight_gradient(problem)) is not None:
            found = found._replace(weight_gradient=dweight, of_weight=each)
    return found


def _faster_gradients(problem: Problem) -> _GradientPlan:
    other, asked = _choose_gradients(problem), problem._replace(triton=True)
    found = other
    for implementation in _ON_DEMAND:
        dx, dweight = implementation.input_gradient(asked), implementation.weight_gradient(asked)
        if dx is not None and measured.faster_input_gradient(problem, dx, other.input_gradient):
            found = found._replace(input_gradient=dx, of_input=implementation)
        if dweight is not None and measured.faster_weight_gradient(problem, dweight, other.weight_gradient):
            found = found._replace(weight_gradient=dweight, of_weight=implementation)
        if dx is not None or dweight is not None:
            break
    return found


def _choose_fused(problem: Problem, needs: tuple[bool, bool, bool]) -> ActivationGradients | None:
    asked = problem._replace(triton=problem.triton or problem.measured, measured=False)
    found = (each.activation_gradients(asked) for each in _candidates(asked))
    run = next((each for each in found if each is not None), None)
    if run is not None and problem.measured:
        apart = _choose_gradients(problem)[:2]
        unmeasured = problem._replace(measured=False)
        return run if measured.faster_activation_gradients(unmeasured, run, *apart, needs) else None
    return run


_kept = functools.lru_cache(maxsize=1024)(_choose)
_kept_gradients = functools.lru_cache(maxsize=1024)(_choose_gradients)
_kept_fused = functools.lru_cache(maxsize=1024)(_choose_fused)
