"""Choices by measurement without a GPU, with timers that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from igan_fast.ops import tuning
from igan_fast.ops.convolution import asking_for

__all__ = ["DEVICE_NAME", "Clock", "Turns", "measuring"]

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


@contextmanager
def measuring(
    monkeypatch: pytest.MonkeyPatch, timer: Callable[[Callable[[], Any]], float], name: str = DEVICE_NAME
) -> Iterator[None]:
    """Inside the block, the CPU is a device with choices, which are measured by ``timer``."""
    monkeypatch.setattr(tuning, "has_choices", lambda device: True)
    monkeypatch.setattr(tuning, "may_measure", lambda device: True)
    monkeypatch.setattr(tuning, "device_name", lambda: name)
    monkeypatch.setattr(tuning, "_seconds", timer)
    with asking_for("measure"):
        yield
