"""How long an iteration takes: by a clock that the iterations themselves advance."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from igan_fast.app.paper import iteration_times as module
from igan_fast.app.paper.iteration_times import busy_machine, iteration_times, measured_seconds, undisturbed
from igan_fast.cores import Cores
from igan_fast.train import TrainConfig
from igan_fast.train.run_config import RunConfig


class Clock:
    """A machine that does nothing but the iterations of fake methods, and how long each takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[str] = []
        self.counts: dict[str, int] = {}

    def __call__(self) -> float:
        return self.now

    def method(self, name: str, period: int, cost: Callable[[int], float]) -> Any:
        """What ``make_method`` makes. ``cost`` gets the number of the iteration, from 1."""

        def iterate() -> None:
            self.counts[name] = self.counts.get(name, 0) + 1
            self.now += cost(self.counts[name])
            if self.turns[-1:] != [name]:
                self.turns.append(name)

        return SimpleNamespace(period=period, iterate=iterate)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def measure(
    methods: dict[str, Any], clock: Clock, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> dict[str, list[float]]:
    configs: dict[str, RunConfig] = {name: TrainConfig(device="cpu", data=name) for name in methods}
    made = lambda config, store: methods[config.data]  # noqa: E731
    monkeypatch.setattr(module, "make_method", made)
    stores: Any = lambda config: None  # noqa: E731
    return iteration_times(configs, stores, clock=clock, **more)


def test_an_iteration_is_measured_over_whole_periods(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth iteration takes 11 seconds, the others one."""
    methods = {"a": clock.method("a", 5, lambda count: 1.0 if count % 5 else 11.0)}
    found = measure(methods, clock, monkeypatch, seconds=40.0)
    assert found == {"a": [3.0] * 5}  # 75 seconds: at least one period in each turn
    assert clock.counts == {"a": 30}  # the first five fill a turn of eight seconds


def test_what_is_slow_only_once_is_not_measured(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time that the fifth iteration does its own work, this is compiled."""
    cost = lambda count: 1000.0 if count in (1, 5) else 2.0 if count % 5 == 0 else 0.5  # noqa: E731
    found = measure({"a": clock.method("a", 5, cost)}, clock, monkeypatch, seconds=7.0, warm_up=3)
    assert found == {"a": [0.8] * 5}


def test_methods_of_short_periods_are_warmed_up_too(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = lambda count: 1000.0 if count <= 3 else 2.0  # noqa: E731
    found = measure({"a": clock.method("a", 2, cost)}, clock, monkeypatch, seconds=1.0, warm_up=3)
    assert found == {"a": [2.0] * 5}
    assert clock.counts == {"a": 14}


def test_warming_up_takes_as_long_as_a_turn(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here memory is taken in the first 5 seconds, which is longer than three iterations."""
    cost = lambda count: 1.0 if count <= 5 else 0.5  # noqa: E731
    found = measure({"a": clock.method("a", 1, cost)}, clock, monkeypatch, seconds=25.0, rounds=5)
    assert set(found["a"]) == {0.5}
    assert len(found["a"]) == 50
    assert clock.counts == {"a": 55}


def test_the_methods_take_turns(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a machine that is slow for a while is slow for all of them: here from second 20 to 40."""

    def cost(seconds: float) -> Callable[[int], float]:
        return lambda count: seconds * (10 if 20 <= clock.now < 40 else 1)

    methods = {"a": clock.method("a", 1, cost(0.5)), "b": clock.method("b", 1, cost(0.25))}
    found = measure(methods, clock, monkeypatch, seconds=25.0, rounds=5, warm_up=0)
    assert clock.turns == ["a", "b"] * 5
    assert (set(found["a"]), set(found["b"])) == ({0.5, 5.0}, {0.25, 2.5})
    assert (statistics.median(found["a"]), statistics.median(found["b"])) == (0.5, 0.25)


def test_a_period_that_takes_longer_than_all_the_time_is_measured_once_in_each_turn(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"a": clock.method("a", 16, lambda count: 10.0), "b": clock.method("b", 1, lambda count: 1.0)}
    found = measure(methods, clock, monkeypatch, seconds=15.0)
    assert found == {"a": [10.0] * 5, "b": [1.0] * 15}


def test_what_runs_beside_for_a_while_hardly_changes_the_time_taken_for_an_iteration() -> None:
    quiet = [2.0, 2.0, 2.1, 2.0, 2.1]
    assert undisturbed(quiet) == 2.0
    assert undisturbed([2.0, 5.0, 2.1, 2.0, 4.0]) == 2.0
    assert undisturbed([1.0, 2.0]) == 1.25
    assert undisturbed([3.0]) == 3.0


def test_quick_measures_one_period_without_warming_up(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {"a": clock.method("a", 3, lambda count: 2.0)}
    assert measure(methods, clock, monkeypatch, seconds=0.0, rounds=1, warm_up=0) == {"a": [2.0]}
    assert clock.counts == {"a": 3}


@pytest.mark.parametrize(("minutes", "seconds"), [(0.1, 15), (5, 15), (8, 24), (20, 60), (600, 60)])
def test_longer_trainings_are_measured_for_longer(minutes: float, seconds: float) -> None:
    assert measured_seconds(minutes) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("cores", "threads", "said"),
    [
        (Cores(2, 1.2), 2, "other programs keep 1.2 of 2 cores busy"),
        (Cores(2, 0.3), 2, ""),
        (Cores(8, 3.0), 4, ""),  # five are free
        (Cores(2, 1.9), 1, ""),
    ],
)
def test_other_programs_are_named(cores: Cores, threads: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_cores", lambda: cores)
    found = busy_machine(TrainConfig(device="cpu", threads=threads))
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_a_gpu_needs_no_free_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_cores", lambda: Cores(2, 2.0))
    monkeypatch.setattr(module, "resolve_device", lambda device: torch.device("cuda"))
    assert busy_machine(TrainConfig(device="cuda")) == ""


MEASURED = """
import resource, sys
from pathlib import Path
import torch
from igan_fast.app.paper.iteration_times import iteration_times
from igan_fast.baselines.config import BaselineConfig
from igan_fast.train.run import open_data

config = BaselineConfig(
    method="cgan", device="cpu", threads=1, drawn_count=8, image_size=32, width=4, batch_size=4, impl=sys.argv[1],
    cache=Path(sys.argv[2]),
)
store = open_data(config)[0]
found = iteration_times({"cgan": config}, lambda config: store, seconds=0.0, rounds=1)
assert len(found["cgan"]) == 1 and found["cgan"][0] > 0
torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(10_000_000)
print(torch.get_num_threads(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns freed memory at once")
def test_an_iteration_is_measured_in_a_process_set_up_for_training(tmp_path: Path) -> None:
    """Tensors of 40 MB, as CGAN has them at 64², get the memory of earlier ones: no page fault for each 4 KiB."""

    def faults(impl: str) -> int:
        command = [sys.executable, "-c", MEASURED, impl, str(tmp_path)]
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        threads, count = map(int, finished.stdout.split()[-2:])
        assert threads == 1
        return count

    assert faults("auto") < 100
