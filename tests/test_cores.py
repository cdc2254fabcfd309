"""The cores that this process may use, and those that other programs keep busy, from files as Linux writes them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from igan_fast import cores
from igan_fast.cores import Cores, busy_elsewhere, usable_cores

CORES = len(os.sched_getaffinity(0))


def machine(root: Path, groups: str, **files: str) -> Path:
    """A root folder whose process is in ``groups``, with control files."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "20000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "9900000 100000\n"}, 8),
        ("0::/not/visible\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {}, 8),
        ("4:cpu,cpuacct:/x\n1:name=systemd:/\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n",
                                                  "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 2),
        ("4:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "10000\n"}, 5),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("4:cpuset:/x\n", {"cpuset/x/cpu.cfs_quota_us": "100000\n", "cpuset/x/cpu.cfs_period_us": "100000\n"}, 8),
        ("rubbish", {"cpu.max": "rubbish"}, 8),
    ],
)  # fmt: skip
def test_a_quota_is_respected(
    groups: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores(machine(tmp_path, groups, **files)) == expected


def test_cores_that_are_not_ours_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3})
    assert usable_cores(tmp_path) == 2
    stat = tmp_path / "proc/stat"
    stat.parent.mkdir()
    ticks = os.sysconf("SC_CLK_TCK")

    def write(*busy: float) -> None:
        # user nice system idle iowait irq softirq steal guest guest_nice
        rows = [f"cpu{k} {int(seconds * ticks)} 500 0 900 70 0 0 0 0 0" for k, seconds in enumerate(busy)]
        stat.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *rows, "intr 1 2 3"]))

    clock = iter([10.0, 12.0])
    monkeypatch.setattr(cores.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(cores.time, "process_time", iter([3.0, 4.0]).__next__)
    write(5, 5, 5, 5)
    monkeypatch.setattr(cores.time, "sleep", lambda _: write(9, 7, 9, 6))
    # In two seconds our two cores worked for three, one of them for us.
    assert busy_elsewhere(2.0, tmp_path) == pytest.approx(1.0)


def test_where_nothing_is_told_nobody_is_there(tmp_path: Path) -> None:
    began = time.monotonic()
    assert busy_elsewhere(60.0, tmp_path) == 0.0
    assert time.monotonic() - began < 10


def test_a_busy_program_is_seen() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        found = max(busy_elsewhere(0.2) for _ in range(5))
        other.kill()
    assert 0.3 < found < CORES + 0.5


@pytest.mark.parametrize(
    ("cores", "free"),
    [(Cores(2, 0.0), 2), (Cores(2, 1.2), 1), (Cores(2, 5.0), 1), (Cores(8, 2.6), 5), (Cores(1, 1.0), 1)],
)
def test_threads_that_find_a_core(cores: Cores, free: int) -> None:
    assert cores.free == free
