"""A training run takes fewer threads beside busy programs, and says so."""

from __future__ import annotations

import pytest
import torch

from igan_fast import _start
from igan_fast.app import neighbours
from igan_fast.cores import Cores
from igan_fast.train.config import TrainConfig


def test_fewer_threads_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(neighbours, "free_cores", lambda: Cores(4, 1.1))
    monkeypatch.setattr(_start, "THREADS_GIVEN", False)
    config = TrainConfig(device="cpu")
    with pytest.warns(UserWarning, match=r"keep 1\.1 of 4 cores busy: this run takes 3 threads instead of 4, now and"):
        assert neighbours.beside_others(config, continued=False) == TrainConfig(device="cpu", threads=3)
    faster = r"keep 1\.1 of 4 cores busy; --threads 3 would be faster beside them than 4"
    with pytest.warns(UserWarning, match=faster):
        assert neighbours.beside_others(config, continued=True) == config
    given = TrainConfig(device="cpu", threads=4)
    with pytest.warns(UserWarning, match=faster):
        assert neighbours.beside_others(given, continued=False) == given
    monkeypatch.setattr(_start, "THREADS_GIVEN", True)
    with pytest.warns(UserWarning, match=faster):
        assert neighbours.beside_others(config, continued=False) == config


@pytest.mark.parametrize(("busy", "threads"), [(0.4, None), (3.9, 1), (1.0, 3), (2.0, 2)])
def test_nothing_is_said_where_nothing_is_gained(
    busy: float, threads: int | None, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(neighbours, "free_cores", lambda: Cores(4, busy))
    config = TrainConfig(device="cpu", threads=threads)
    assert neighbours.beside_others(config, continued=False) == config
    assert not recwarn.list
