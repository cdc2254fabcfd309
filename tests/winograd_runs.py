"""Counts what Winograd's kernels compute: PyTorch's convolutions are as right, so that a result does not tell."""

from __future__ import annotations

import math
from typing import Any

import pytest

from igan_fast.fusion import ways
from igan_fast.ops.convolution import choice, winograd, winograd_1d, winograd_1d_costs, winograd_costs

__all__ = ["count_winograd", "keep_no_plan", "take_winograd", "take_winograd_1d"]


def keep_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The implementation of each convolution is chosen anew in each call."""
    monkeypatch.setattr(choice, "_kept", choice._choose)
    monkeypatch.setattr(choice, "_kept_gradients", choice._choose_gradients)


def take_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of images compute each problem that they can solve, however small, and no plan is kept."""
    monkeypatch.setattr(winograd_costs, "MARGIN", math.inf)
    monkeypatch.setattr(winograd_costs, "FEWEST", 0)
    keep_no_plan(monkeypatch)


def take_winograd_1d(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of sequences compute each problem that they can solve, however small, and no plan is kept."""
    monkeypatch.setattr(winograd_1d_costs, "MARGIN", math.inf)
    monkeypatch.setattr(winograd_1d, "FEWEST", 0)
    keep_no_plan(monkeypatch)


def count_winograd(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which each run of a function of ``Winograd`` adds its name. It runs for each problem that it can solve,
    however small, and no plans are kept meanwhile."""
    take_winograd(monkeypatch)
    for margin in ("MARGIN", "TRAINING_MARGIN"):
        monkeypatch.setattr(ways, margin, math.inf)
    runs: list[str] = []
    for name in ("convolve", "input_gradient", "weight_gradient"):
        choose = getattr(winograd.Winograd, name)

        def counted(self: Any, problem: Any, name: str = name, choose: Any = choose) -> Any:
            run = choose(self, problem)
            return run and (lambda *arguments: runs.append(name) or run(*arguments))

        monkeypatch.setattr(winograd.Winograd, name, counted)
    return runs
