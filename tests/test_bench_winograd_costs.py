"""``bench.winograd_costs``: constants from measured times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))
bench = pytest.importorskip("bench.winograd_costs")


def samples(costs, noise=0.0):
    torch.manual_seed(0)
    counts = (10 ** (torch.rand(30, len(costs), dtype=torch.float64) * 4)).tolist()
    factors = (1 + noise * torch.randn(30, dtype=torch.float64)).tolist()
    times = [sum(a * b for a, b in zip(costs, row, strict=True)) * 1e-9 for row in counts]
    return [bench.Sample(row, time * factor) for row, time, factor in zip(counts, times, factors, strict=True)]


@pytest.mark.parametrize("costs", [[5.0, 0.3], [100.0, 0.0, 2.0, 0.07], [0.0, 0.0, 1.0]], ids=str)
def test_the_constants_are_found(costs):
    assert bench.fit(samples(costs)) == pytest.approx(costs, rel=1e-3, abs=1e-9)


def test_noise_gives_no_negative_constants():
    found = bench.fit(samples([1.0, 0.0, 3.0], noise=0.2))
    assert all(constant >= 0 for constant in found)
    assert found[2] == pytest.approx(3, rel=0.3)


def test_without_samples_there_are_no_constants():
    assert bench.fit([]) == []


def test_the_shortest_time_counts(monkeypatch):
    monkeypatch.setattr(bench, "MEASURE", 0.0)
    now, calls = [0.0], []
    monkeypatch.setattr(bench.time, "process_time", lambda: now[0])

    def call():
        calls.append(1)
        now[0] += 9.0 if len(calls) % 2 else 5.0

    assert bench.best_seconds([call]) == [5.0]
