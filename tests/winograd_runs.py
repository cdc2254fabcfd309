"""Counts what Winograd's kernels compute: PyTorch's convolutions are as right, so that a result does not tell."""

from __future__ import annotations

import math
from typing import Any

import pytest

from igan_fast.fusion import ways
from igan_fast.ops.convolution import choice, winograd, winograd_costs

__all__ = ["count_winograd"]


def count_winograd(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which each run of a function of ``Winograd`` adds its name. It runs for each problem that it can solve,
    however small, and no plans are kept meanwhile."""
    for limits in (winograd_costs, ways):
        monkeypatch.setattr(limits, "MARGIN", math.inf)
    monkeypatch.setattr(ways, "TRAINING_MARGIN", math.inf)
    monkeypatch.setattr(winograd_costs, "FEWEST", 0)
    runs: list[str] = []
    for name in ("convolve", "input_gradient", "weight_gradient"):
        choose = getattr(winograd.Winograd, name)

        def counted(self: Any, problem: Any, name: str = name, choose: Any = choose) -> Any:
            run = choose(self, problem)
            return run and (lambda *arguments: runs.append(name) or run(*arguments))

        monkeypatch.setattr(winograd.Winograd, name, counted)
    monkeypatch.setattr(choice, "_kept", choice._choose)
    monkeypatch.setattr(choice, "_kept_gradients", choice._choose_gradients)
    return runs
