"""The choice between Triton's convolutions and the others by measurement, with a timer that is made up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from measuring import Turns, measuring
from oracles import error
from torch import Tensor

from igan_fast.ops import tuning
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.convolution import ConvSettings, InputSpec, asking_for, choice, measured, plan_of
from igan_fast.ops.convolution.plan import Implementation, Problem


class Marked(Implementation):
    """Stands for Triton's: the convolution by PyTorch's functions, and a note of each call."""

    name = "marked"
    own_kernels = True
    on_demand = True

    def __init__(self) -> None:
        self.calls: list[str] = []

    def convolve(self, problem: Problem) -> Any:
        if not problem.triton:
            return None
        settings = problem.settings

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
            self.calls.append("convolution")
            return F.leaky_relu(F.conv2d(x, weight, bias, settings.stride, settings.padding), slope)

        return run

    def _gradient(self, problem: Problem, name: str, which: int) -> Any:
        if not problem.triton:
            return None

        def run(grad: Tensor, given: Tensor, spec: InputSpec | None = None) -> Tensor:
            self.calls.append(name)
            x, weight = (torch.zeros(shape) for shape in (problem.input_shape, problem.weight_shape))
            x, weight = (x, given) if spec is not None else (given, weight)
            mask = (which == 0, which == 1, False)
            return torch.ops.aten.convolution_backward(grad, x, weight, None, *problem.settings.arguments, mask)[which]

        return run

    def input_gradient(self, problem: Problem) -> Any:
        return self._gradient(problem, "input gradient", 0)

    def weight_gradient(self, problem: Problem) -> Any:
        return self._gradient(problem, "weight gradient", 1)

    def activation_gradients(self, problem: Problem) -> Any:
        if not problem.triton:
            return None

        def run(grad: Tensor, signs: Tensor, slope: float, x: Any, weight: Tensor, spec: Any, needs: Any) -> Any:
            self.calls.append(f"fused {needs}")
            before = torch.where(signs > 0, grad, slope * grad)
            x = torch.zeros(spec.shape) if x is None else x
            mask = (needs[0], needs[1], False)
            dx, dweight, _ = torch.ops.aten.convolution_backward(
                before, x, weight, None, *problem.settings.arguments, mask
            )
            return dx, dweight, before.sum((0, 2, 3)) if needs[2] else None

        return run


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Marked:
    """The implementation instead of Triton's."""
    ours = Marked()
    monkeypatch.setattr(choice, "IMPLEMENTATIONS", (ours,))
    monkeypatch.setattr(choice, "_ON_DEMAND", [ours])
    return ours


SETTINGS = ConvSettings.cached(2, stride=2, padding=2)


def leaves() -> list[Tensor]:
    shapes = (2, 3, 8, 6), (4, 3, 5, 5), (4,)
    return [torch.randn(shape).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("faster", [True, False])
def test_each_computation_is_measured_once_and_then_taken(
    marked: Marked, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    timer, given, state = Turns(0.5 if faster else 1.5), leaves(), torch.get_rng_state()
    with measuring(monkeypatch, timer):
        for later in (False, True, True):
            marked.calls.clear()
            y = conv_act(*given)
            expected = F.leaky_relu(F.conv2d(*(t.double() for t in given), 2, 2), 0.2)
            assert error(y, expected) < 1e-5
            found, wanted = (torch.autograd.grad(z.sum(), given) for z in (y, expected))
            assert all(error(a, e) < 1e-4 for a, e in zip(found, wanted, strict=True))
            if later:
                assert marked.calls == (["convolution", "fused (True, True, True)"] if faster else [])
        assert torch.equal(torch.get_rng_state(), state)  # of the random numbers that belong to a run none was drawn
        assert timer.turns == 2 * 4  # the convolution, two gradients, and both before the LeakyReLU
        assert plan_of(*given, SETTINGS, 0.2).implementation.own_kernels is faster


def test_while_a_graph_is_recorded_only_a_known_choice_is_taken(
    marked: Marked, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer, (x, weight, bias) = Turns(0.5), leaves()

    def name(recording: bool, x: Tensor = x) -> str:
        monkeypatch.setattr(tuning, "may_measure", lambda device: not recording)
        return plan_of(x, weight, bias, SETTINGS, 0.2).implementation.name

    with measuring(monkeypatch, timer):
        assert name(recording=True) != "marked"
        assert timer.turns == 0
        assert name(recording=False) == "marked"
        assert name(recording=True) == "marked"
        assert name(recording=True, x=x[:1]) != "marked"
        assert timer.turns == 2


def test_what_autograd_or_a_compiler_records_has_no_choice(marked: Marked, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = leaves()
    with measuring(monkeypatch, Turns(0.5)):
        assert plan_of(x, weight, bias, SETTINGS, 0.2, differentiable=True).implementation.name != "marked"
        (dx,) = torch.autograd.grad(conv_act(x, weight, bias).sum(), x, create_graph=True)
        torch.autograd.grad(dx.square().sum(), weight)
    assert "input gradient" not in marked.calls


def test_plans_of_one_mode_are_not_taken_in_another(marked: Marked, monkeypatch: pytest.MonkeyPatch) -> None:
    given = leaves()

    def name() -> str:
        return plan_of(*given, SETTINGS, 0.2).implementation.name

    before = name()
    with measuring(monkeypatch, Turns(0.5)):
        assert name() == "marked"
        with asking_for("auto"):
            assert name() == before != "marked"
        with asking_for("triton"):
            assert name() == "marked"
        assert choice._kept.cache_info().currsize == 0  # nor are they kept
    assert choice._kept.cache_info().currsize == 0
    assert name() == before


@contextmanager
def precision(value: str) -> Iterator[None]:
    """Inside the block, cuDNN's convolutions of float32 numbers have this precision."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = value
    try:
        yield
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def test_a_plan_is_measured_again_for_another_precision(marked: Marked, monkeypatch: pytest.MonkeyPatch) -> None:
    given, timer = leaves(), Turns(0.5)
    with measuring(monkeypatch, timer):
        for value, turns in (("ieee", 2), ("tf32", 4), ("ieee", 4)):
            with precision(value):
                plan_of(*given, SETTINGS, 0.2)
            assert timer.turns == turns


def test_problems_that_differ_in_speed_have_choices_of_their_own() -> None:
    settings = ConvSettings(2, stride=2, padding=2)
    shapes = torch.Size((2, 3, 8, 8)), torch.Size((4, 3, 5, 5))
    problem = Problem(settings, False, *shapes, torch.float32, torch.float32, "cuda", False, True, True, False)
    others = [
        problem._replace(settings=ConvSettings(2, stride=2, padding=1)),
        problem._replace(input_shape=torch.Size((3, 3, 8, 8))),
        problem._replace(input_dtype=torch.bfloat16),
        problem._replace(bias=False),
        problem._replace(activation=False),
    ]
    keys = {measured._key("convolution", each) for each in [problem, *others]}
    assert len(keys) == 1 + len(others)
    assert measured._key("weight gradient", problem) not in keys
    same = problem._replace(settings=ConvSettings(2, stride=2, padding=2))
    assert measured._key("convolution", same) in keys
    with precision("tf32" if torch.backends.cudnn.conv.fp32_precision != "tf32" else "ieee"):
        assert measured._key("convolution", problem) not in keys
    with torch.backends.cudnn.flags(benchmark=not torch.backends.cudnn.benchmark):
        assert measured._key("convolution", problem) not in keys
