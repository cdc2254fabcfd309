"""The choice between Triton's convolutions and the others by measurement, with a timer that is made up."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import error
from torch import Tensor

from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.convolution import ConvSettings, InputSpec, dispatch, measured, plan_of, triton
from igan_fast.ops.convolution.measured import OTHER, TRITON, Choices
from igan_fast.ops.convolution.plan import Implementation, Problem


class Clock:
    """A timer that knows how long each call takes, and counts what it is asked for."""

    def __init__(self, **seconds: float | Exception) -> None:
        self.seconds, self.asked = seconds, 0

    def __call__(self, call: Callable[[], Any]) -> float:
        self.asked += 1
        found = self.seconds[call()]
        if isinstance(found, Exception):
            raise found
        return found


def chosen(choices: Choices, key: str = "key", *, measure: bool = True) -> str:
    return choices.faster(key, lambda: "triton", lambda: "other", measure=measure)


FAILED = RuntimeError("CUDA out of memory")


@pytest.mark.parametrize(
    ("of_triton", "of_other", "expected"),
    [(1, 2, TRITON), (2, 1, OTHER), (1, 1, OTHER), (FAILED, 1, OTHER), (1, FAILED, TRITON), (FAILED, FAILED, OTHER)],
)
def test_the_faster_is_chosen(of_triton: Any, of_other: Any, expected: str) -> None:
    clock = Clock(triton=of_triton, other=of_other)
    choices = Choices(None, clock)
    assert [chosen(choices) for _ in range(3)] == [expected] * 3
    assert clock.asked == 2


def test_an_error_of_the_program_is_not_hidden() -> None:
    with pytest.raises(TypeError):
        chosen(Choices(None, Clock(triton=TypeError("wrong"), other=1)))


def test_what_may_not_be_measured_is_not_remembered() -> None:
    choices = Choices(None, Clock(triton=1, other=2))
    assert chosen(choices, measure=False) == OTHER
    assert chosen(choices) == TRITON
    assert chosen(choices, measure=False) == TRITON


def test_a_choice_is_kept_for_later_processes(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    chosen(Choices(folder, Clock(triton=1, other=2)))
    later = Clock(triton=2, other=1)
    assert chosen(Choices(folder, later), measure=False) == TRITON
    assert chosen(Choices(folder, later)) == TRITON
    assert later.asked == 0
    assert chosen(Choices(folder, later), "another key") == OTHER
    assert later.asked == 2
    assert len(list(folder.iterdir())) == 2  # no temporary file is left


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": "key"}', '{"key": "other", "chosen": "triton"}'])
def test_a_damaged_choice_is_measured_again_and_replaced(tmp_path: Path, text: str) -> None:
    chosen(Choices(tmp_path, Clock(triton=2, other=1)))
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert chosen(Choices(tmp_path, Clock(triton=1, other=2))) == TRITON
    assert json.loads(file.read_text()) == {"key": "key", "chosen": TRITON}
    file.write_bytes(b"\xff\xfe")
    assert chosen(Choices(tmp_path, Clock(triton=2, other=1))) == OTHER


def test_of_two_processes_that_measure_both_take_the_choice_of_the_first(tmp_path: Path) -> None:
    first, second = Choices(tmp_path, Clock(triton=1, other=2)), Choices(tmp_path, Clock(triton=2, other=1))

    def measured_meanwhile() -> str:
        assert chosen(first) == TRITON
        return "other"

    assert second.faster("key", lambda: "triton", measured_meanwhile, measure=True) == TRITON
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    choices = Choices(file / "folder", Clock(triton=1, other=2))
    with pytest.warns(UserWarning, match="file/folder: the choices of convolutions cannot be kept there"):
        assert chosen(choices) == TRITON
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen(choices) == TRITON
        assert chosen(choices, "another key") == TRITON
    assert file.read_text() == "kept"


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


class Watch:
    """Of the two sides, the one whose turn is first takes ``triton`` seconds, and both are computed."""

    def __init__(self, triton: float) -> None:
        self.triton, self.turns = triton, 0

    def __call__(self, call: Callable[[], Any]) -> float:
        call()
        self.turns += 1
        return self.triton if self.turns % 2 else 1.0


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Marked]:
    """The implementation instead of Triton's, where measuring is asked for and possible on a CPU."""
    ours = Marked()
    monkeypatch.setattr(triton, "_CHOICE", "measure")
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", (ours,))
    monkeypatch.setattr(dispatch, "_ON_DEMAND", [ours])
    monkeypatch.setattr(measured, "has_choices", lambda device: True)
    monkeypatch.setattr(measured, "may_measure", lambda device: True)
    caches = dispatch._kept, dispatch._kept_gradients, dispatch._kept_fused
    for cache in caches:
        cache.cache_clear()
    yield ours
    for cache in caches:
        cache.cache_clear()


def with_timer(monkeypatch: pytest.MonkeyPatch, timer: Any) -> None:
    choices = Choices(None, timer)
    monkeypatch.setattr(measured, "_present", lambda: choices)


def leaves() -> list[Tensor]:
    shapes = (2, 3, 8, 6), (4, 3, 5, 5), (4,)
    return [torch.randn(shape).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("faster", [True, False])
def test_each_computation_is_measured_once_and_then_taken(
    marked: Marked, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    watch = Watch(0.5 if faster else 1.5)
    with_timer(monkeypatch, watch)
    given = leaves()
    state = torch.get_rng_state()
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
    assert watch.turns == 2 * 4  # the convolution, two gradients, and both before the LeakyReLU
    assert plan_of(*given, ConvSettings.cached(2, stride=2, padding=2), 0.2).implementation.own_kernels is faster


def test_while_a_graph_is_recorded_only_a_known_choice_is_taken(
    marked: Marked, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(0.5)
    with_timer(monkeypatch, watch)
    x, weight, bias = leaves()
    settings = ConvSettings.cached(2, stride=2, padding=2)

    def name(recording: bool, x: Tensor = x) -> str:
        monkeypatch.setattr(measured, "may_measure", lambda device: not recording)
        return plan_of(x, weight, bias, settings, 0.2).implementation.name

    assert name(recording=True) != "marked"
    assert watch.turns == 0
    assert name(recording=False) == "marked"
    assert name(recording=True) == "marked"
    assert name(recording=True, x=x[:1]) != "marked"
    assert watch.turns == 2


def test_what_autograd_or_a_compiler_records_has_no_choice(marked: Marked, monkeypatch: pytest.MonkeyPatch) -> None:
    with_timer(monkeypatch, Watch(0.5))
    x, weight, bias = leaves()
    settings = ConvSettings.cached(2, stride=2, padding=2)
    assert plan_of(x, weight, bias, settings, 0.2, differentiable=True).implementation.name != "marked"
    (dx,) = torch.autograd.grad(conv_act(x, weight, bias).sum(), x, create_graph=True)
    torch.autograd.grad(dx.square().sum(), weight)
    assert "input gradient" not in marked.calls


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
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = "tf32" if before != "tf32" else "ieee"
        assert measured._key("convolution", problem) not in keys
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def test_devices_and_versions_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setenv("IGAN_FAST_CACHE", str(tmp_path))
    folders = set()
    for name, version in (("H100", "1"), ("H200", "1"), ("H100", "2"), ("H100", "1")):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index, name=name: name)
        monkeypatch.setattr(torch, "__version__", version)
        folder = measured._choices_of.__wrapped__(0)._folder
        assert folder is not None
        assert folder.parent == tmp_path / "convolutions"
        folders.add(folder)
    assert len(folders) == 3
