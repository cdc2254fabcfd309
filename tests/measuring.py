"""Choices by measurement without a GPU, with timers that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor

from igan_fast import models
from igan_fast.ops import tuning
from igan_fast.ops.convolution import asking_for, choice
from igan_fast.ops.convolution.plan import Implementation, Problem

__all__ = ["DEVICE_NAME", "Clock", "Exact", "FirstIs", "Turns", "give_choices", "measuring", "offer_exact"]

DEVICE_NAME = "H100"


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


class Turns:
    """Of the two sides, the one whose turn is first takes ``triton`` seconds, and the other one second. Both are
    computed. What is measured inside of a call takes its own turns."""

    def __init__(self, triton: float) -> None:
        self.triton, self.turns = triton, 0
        self._calls = [0]  # of each measurement that is going on, one inside of the other

    def __call__(self, call: Callable[[], Any]) -> float:
        self.turns += 1
        self._calls[-1] += 1
        first = self._calls[-1] % 2 == 1
        self._calls.append(0)
        try:
            call()
        finally:
            self._calls.pop()
        return self.triton if first else 1.0


class Exact(Implementation):
    """Stands for Triton's: convolutions in float64, so that other bits tell whether it was taken."""

    name = "exact"
    own_kernels = True
    on_demand = True

    def convolve(self, problem: Problem) -> Any:
        if not problem.triton or problem.settings.transposed or len(problem.input_shape) != 4:
            return None

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
            given = [None if t is None else t.double() for t in (x, weight, bias)]
            y = F.conv2d(*given, problem.settings.stride, problem.settings.padding)  # type: ignore[arg-type]
            return F.leaky_relu(y, slope).to(x.dtype)

        return run


class FirstIs:
    """Takes no time. Each first of two sides is Triton's: it is the faster one, or the slower."""

    def __init__(self, *, faster: bool) -> None:
        self.faster, self.turns = faster, 0

    def __call__(self, call: Callable[[], Any]) -> float:
        self.turns += 1
        return 1.0 if (self.turns % 2 == 1) == self.faster else 2.0


def give_choices(
    monkeypatch: pytest.MonkeyPatch, timer: Callable[[Callable[[], Any]], float], name: str = DEVICE_NAME
) -> None:
    """Make the CPU a device of this name with choices, which are measured by ``timer``."""
    monkeypatch.setattr(tuning, "has_choices", lambda device: True)
    monkeypatch.setattr(tuning, "may_measure", lambda device: True)
    monkeypatch.setattr(tuning, "device_name", lambda: name)
    monkeypatch.setattr(tuning, "_seconds", timer)


@contextmanager
def measuring(
    monkeypatch: pytest.MonkeyPatch, timer: Callable[[Callable[[], Any]], float], name: str = DEVICE_NAME
) -> Iterator[None]:
    """Inside the block, it has choices, and they are asked for."""
    give_choices(monkeypatch, timer, name)
    with asking_for("measure"):
        yield


def offer_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``Exact`` take the place of Triton's convolutions, without networks of blocks, which the interpreter computes
    slowly."""
    ours = Exact()
    monkeypatch.setattr(choice, "IMPLEMENTATIONS", (ours, *choice.IMPLEMENTATIONS))
    monkeypatch.setattr(choice, "_ON_DEMAND", [ours])
    monkeypatch.setattr(models, "are_blocks_asked_for", lambda device: False)
