"""``bench.processes``: who computes what, and the table, by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))

from bench import processes  # noqa: E402
from bench.processes import Way  # noqa: E402


def test_each_core_is_used_by_a_thread_or_by_a_process() -> None:
    ways = processes.ways(4)
    assert ways[0] == Way(processes=1, threads=1, norm_groups=4)
    assert ways[1:] == [Way(1, 4, 4), Way(4, 1, 4), Way(1, 4, 1), Way(4, 1, 1)]


@pytest.mark.parametrize("norm_groups", [1, 2])
def test_processes_share_the_batch(norm_groups: int) -> None:
    plans = [processes.share(Way(2, 1, norm_groups), rank, 10) for rank in range(2)]
    assert [plan.rows for plan in plans] == [slice(0, 5), slice(5, 10)]
    assert processes.share(Way(1, 2, norm_groups), 0, 10).rows == slice(0, 10)


def test_the_table_says_how_much_faster_than_one_thread() -> None:
    results = []
    for image_size, width, batch in processes.SIZES:
        for way, median in (((1, 1, 2), 800.0), ((2, 1, 1), 500.0)):
            results.append(
                {"image_size": image_size, "width": width, "batch": batch, **Way(*way)._asdict()}
                | {"median_ms": median, "q1_ms": median - 1, "q3_ms": median + 1}
            )
    table = processes.render({"results": results}).splitlines()
    assert len(table) == 2 + 2 * len(processes.SIZES)
    assert table[2] == "| 64², width 32, batch 64 | 1 × 1 | 2 | 800 (799–801) | 1.00× |"
    assert table[3] == "| 64², width 32, batch 64 | 2 × 1 | 1 | 500 (499–501) | 1.60× |"
