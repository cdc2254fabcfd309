"""The choice of the implementation that computes a convolution or its gradients. It is made only here.

The choice is made once for each ``Problem``, and then kept in this process. ``asking_for`` changes what the choice is
made among; the choices before are then forgotten."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

from igan_fast.ops import tuning
from igan_fast.ops.convolution import measured, pytorch, triton
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
from igan_fast.ops.convolution.settings import ConvSettings
from igan_fast.ops.convolution.subpixel import Subpixel
from igan_fast.ops.convolution.triton import Triton
from igan_fast.ops.convolution.triton_images import TritonImages
from igan_fast.ops.convolution.winograd import Winograd
from igan_fast.ops.convolution.winograd_1d import Winograd1d

__all__ = [
    "IMPLEMENTATIONS",
    "PYTORCH_GRADIENTS",
    "GradientPlan",
    "activation_gradients_for",
    "asking_for",
    "candidates",
    "chosen",
    "gradient_plan_for",
    "plan_for",
    "plan_of_pytorch",
    "start_measuring",
]

#: In the order in which they are tried. PyTorch's convolution computes the problems that none of them can.
IMPLEMENTATIONS: tuple[Implementation, ...] = (
    TritonImages(),
    Triton(),
    Winograd(),
    Dilated(),
    Winograd1d(),
    Direct(),
    Subpixel(),
    OneDNN(),
    FewChannels(),
)

_PYTORCH = pytorch.PyTorch()

#: Those that are compared with the others by measurement, where that is asked for.
_ON_DEMAND = [each for each in IMPLEMENTATIONS if each.on_demand]


class GradientPlan(NamedTuple):
    """The functions that were chosen for the gradients of a problem; None for PyTorch's. Then their implementations."""

    input_gradient: InputGradient | None
    weight_gradient: WeightGradient | None
    of_input: Implementation = _PYTORCH
    of_weight: Implementation = _PYTORCH


PYTORCH_GRADIENTS = GradientPlan(None, None)


@contextmanager
def asking_for(choice: str) -> Iterator[None]:
    """Inside the block, in all threads, convolutions and blocks are chosen as if the environment variable
    ``IGAN_FAST_CONVOLUTION`` had this value.

    At its beginning and at its end this process forgets all choices that it has made; measured ones stay on disk. What
    was recorded before, as in a CUDA graph, stays as it is.

    Args:
        choice: one of ``triton.CHOICES``.

    Raises:
        ValueError: it is none of them.
    """
    before = triton.ask_for(choice)
    try:
        start_measuring()
        yield
    finally:
        triton.ask_for(before)
        start_measuring()


def start_measuring(known: Mapping[str, Mapping[str, str]] | None = None, agree: tuning.Agree | None = None) -> None:
    """Forget all choices that this process has made, and take others first: those of a run that goes on.

    Args:
        known, agree: as of ``tuning.start``.
    """
    for kept in (_kept, _kept_gradients, _kept_fused):
        kept.cache_clear()
    tuning.start(known, agree)


def plan_for(problem: Problem) -> Plan:
    """The choice for a convolution with its bias and activation."""
    return (_kept if _is_decided(problem) else _choose)(problem)


def plan_of_pytorch(settings: ConvSettings) -> Plan:
    """For tensors for which PyTorch's own functions have to compute the result."""
    return Plan(settings, _PYTORCH, functools.partial(pytorch.convolve, settings))


def gradient_plan_for(problem: Problem) -> GradientPlan:
    """The choice for the gradients of a convolution."""
    return (_kept_gradients if _is_decided(problem) else _choose_gradients)(problem)


def activation_gradients_for(problem: Problem, needs: tuple[bool, bool, bool]) -> ActivationGradients | None:
    """The choice for the gradients before a LeakyReLU, from that of its output; None if they are computed in two
    steps."""
    return (_kept_fused if _is_decided(problem) else _choose_fused)(problem, needs)


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


def _is_decided(problem: Problem) -> bool:
    """Whether a choice that is made now may be kept. A compiler cannot trace the cache, and a choice that cannot be
    measured now may be another later."""
    if torch.compiler.is_compiling():
        return False
    return not problem.measured or tuning.may_measure(problem.device)


def _candidates(problem: Problem) -> list[Implementation]:
    """All implementations; if autograd or a compiler has to record the computation, those that it can record."""
    return [each for each in IMPLEMENTATIONS if each.composite or not problem.differentiable]


def _choose(problem: Problem) -> Plan:
    if problem.measured:
        return _faster_plan(problem._replace(measured=""))
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


def _choose_gradients(problem: Problem) -> GradientPlan:
    if problem.measured:
        return _faster_gradients(problem._replace(measured=""))
    found = PYTORCH_GRADIENTS
    for each in _candidates(problem):
        if found.input_gradient is None and (dx := each.input_gradient(problem)) is not None:
            found = found._replace(input_gradient=dx, of_input=each)
        if found.weight_gradient is None and (dweight := each.weight_gradient(problem)) is not None:
            found = found._replace(weight_gradient=dweight, of_weight=each)
    return found


def _faster_gradients(problem: Problem) -> GradientPlan:
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
    asked = problem._replace(triton=problem.triton or bool(problem.measured), measured="")
    found = (each.activation_gradients(asked) for each in _candidates(asked))
    run = next((each for each in found if each is not None), None)
    if run is not None and problem.measured:
        apart = _choose_gradients(problem)[:2]
        unmeasured = problem._replace(measured="")
        return run if measured.faster_activation_gradients(unmeasured, run, *apart, needs) else None
    return run


_kept = functools.lru_cache(maxsize=1024)(_choose)
_kept_gradients = functools.lru_cache(maxsize=1024)(_choose_gradients)
_kept_fused = functools.lru_cache(maxsize=1024)(_choose_fused)
