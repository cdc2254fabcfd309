"""``bench.linear_limits``: the limits from measured ratios."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from igan_fast.ops.linear_limits import NEVER, Limits, pays

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))
bench = pytest.importorskip("bench.linear_limits")

SIZES = [(batch, *layer) for batch, layer in itertools.product(bench.BATCHES, bench.LAYERS)]


@pytest.mark.parametrize(
    "true",
    [
        Limits(4, 1 << 20, 512, NEVER.wide),
        Limits(2, 1 << 19, 64, 1 << 22, 1 << 23),
        Limits(1, 1 << 18, 64, 1 << 22),
    ],
    ids=str,
)
def test_the_best_limits_take_the_faster_way_of_each_layer(true):
    samples = [bench.Sample(sizes, 0.7 if pays(*sizes, true) else 1.4) for sizes in SIZES]
    found = bench.best_limits(samples)
    assert [pays(*sizes, found) for sizes in SIZES] == [pays(*sizes, true) for sizes in SIZES]


def test_where_nothing_gains_nothing_is_taken():
    found = bench.best_limits([bench.Sample(sizes, 1.01) for sizes in SIZES])
    assert not any(pays(*sizes, found) for sizes in SIZES)


def test_the_ratio_of_two_times(monkeypatch):
    monkeypatch.setattr(bench, "MEASURE", 0.0)
    now = [0.0]
    monkeypatch.setattr(bench.time, "process_time", lambda: now[0])

    def takes(seconds):
        return lambda: now.__setitem__(0, now[0] + seconds)

    assert bench.ratio(takes(3.0), takes(2.0)) == pytest.approx(1.5)
