"""What is timed for the choice between Triton's convolutions and the others (``igan_fast.ops.tuning``), where
``IGAN_FAST_CONVOLUTION=measure`` or ``igan-fast train --tune measure`` asks for it.

Each computation of a problem (the convolution, its gradients) is timed on tensors of its own. Compiled code and what
autograd records have no choice: Triton's convolutions are not among the functions that can be recorded.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.ops import tuning
from igan_fast.ops.convolution import pytorch
from igan_fast.ops.convolution.plan import ActivationGradients, Convolve, InputGradient, Problem, WeightGradient
from igan_fast.ops.convolution.settings import InputSpec

__all__ = [
    "faster_activation_gradients",
    "faster_convolution",
    "faster_input_gradient",
    "faster_weight_gradient",
]

#: The slope of the LeakyReLU in what is timed; its value does not matter.
_SLOPE = 0.2


def faster_convolution(problem: Problem, triton: Convolve, other: Convolve) -> bool:
    """Whether ``triton`` is the choice for the convolution with its bias and activation."""
    slope = _SLOPE if problem.activation else 1.0

    def call(run: Convolve) -> Callable[[], Any]:
        return lambda: run(given().x, given().weight, given().bias, slope)

    given = _once(problem)
    return _is_faster("convolution", problem, call(triton), call(other))


def faster_input_gradient(problem: Problem, triton: InputGradient, other: InputGradient | None) -> bool:
    """Whether ``triton`` is the choice for the input gradient. None is PyTorch's function."""

    def call(run: InputGradient | None) -> Callable[[], Any]:
        return lambda: _input_gradient(problem, run, given(), given().grad)

    given = _once(problem)
    return _is_faster("input gradient", problem, call(triton), call(other))


def faster_weight_gradient(problem: Problem, triton: WeightGradient, other: WeightGradient | None) -> bool:
    """Whether ``triton`` is the choice for the weight gradient. None is PyTorch's function."""

    def call(run: WeightGradient | None) -> Callable[[], Any]:
        return lambda: _weight_gradient(problem, run, given(), given().grad)

    given = _once(problem)
    return _is_faster("weight gradient", problem, call(triton), call(other))


def faster_activation_gradients(
    problem: Problem,
    triton: ActivationGradients,
    input_gradient: InputGradient | None,
    weight_gradient: WeightGradient | None,
    needs: tuple[bool, bool, bool],
) -> bool:
    """Whether ``triton`` is the choice for the gradients before a LeakyReLU, instead of the LeakyReLU's gradient in a
    pass of its own and the two functions. None is PyTorch's function."""

    def ours() -> None:
        t = given()
        triton(t.grad, t.signs, _SLOPE, t.x, t.weight, t.spec, needs)

    def apart() -> None:
        t = given()
        before = torch.ops.aten.leaky_relu_backward(t.grad, t.signs, _SLOPE, True)
        if needs[0]:
            _input_gradient(problem, input_gradient, t, before)
        if needs[1]:
            _weight_gradient(problem, weight_gradient, t, before)
        if needs[2]:
            before.sum((0, 2, 3))

    given = _once(problem)
    return _is_faster(f"gradients before an activation {needs}", problem, ours, apart)


class _Given(NamedTuple):
    """Tensors of a problem's shapes."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    grad: Tensor
    signs: Tensor
    spec: InputSpec


def _once(problem: Problem) -> Callable[[], _Given]:
    """The tensors of a problem, made at the first call: a choice that is known needs none."""

    @functools.cache
    def given() -> _Given:
        generator = torch.Generator(problem.device).manual_seed(0)  # the global one belongs to the run

        def random(*shape: int, last: bool = True) -> Tensor:
            t = torch.randn(shape, generator=generator, device=problem.device, dtype=problem.input_dtype)
            return t.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

        settings, weight_shape = problem.settings, problem.weight_shape
        channels = weight_shape[1 if settings.transposed else 0]
        out = problem.input_shape[0], channels, *settings.output_size(problem.input_shape, weight_shape)
        x, weight = random(*problem.input_shape), random(*weight_shape, last=not problem.weight_contiguous)
        bias = torch.zeros(channels, device=problem.device, dtype=problem.input_dtype) if problem.bias else None
        return _Given(x, weight, bias, random(*out), random(*out), InputSpec.of(x))

    return given


def _input_gradient(problem: Problem, run: InputGradient | None, given: _Given, grad: Tensor) -> None:
    if run is not None:
        run(grad, given.weight, given.spec)
    else:
        pytorch.gradients(grad, given.x, given.weight, problem.settings, given.spec, True, False)


def _weight_gradient(problem: Problem, run: WeightGradient | None, given: _Given, grad: Tensor) -> None:
    if run is not None:
        run(grad, given.x)
    else:
        pytorch.gradients(grad, given.x, given.weight, problem.settings, given.spec, False, True)


def _is_faster(part: str, problem: Problem, triton: Callable[[], Any], other: Callable[[], Any]) -> bool:
    with torch.no_grad(), torch.autocast(problem.device, enabled=False):
        return tuning.is_triton_faster(_key(part, problem), triton, other, problem.device)


def _key(part: str, problem: Problem) -> str:
    """All that the speed of a computation depends on, except for the device and the versions."""
    values = part, tuning.flags(), problem.settings.arguments, *problem[1:]
    return json.dumps([value if isinstance(value, bool) else str(value) for value in values])
