"""Free CPU cores, read from files in the format of Linux; OpenMP settings that are made before PyTorch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from igan_fast import _start, cores
from igan_fast.app import neighbours
from igan_fast.cores import Cores, busy_elsewhere, usable_cores
from igan_fast.train.config import TrainConfig

CORES = len(os.sched_getaffinity(0))


def machine(root: Path, groups: str, **files: str) -> Path:
    """Write the files of a machine whose process is in the control groups ``groups``. Returns the root folder."""
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


def test_cores_outside_the_affinity_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    # In 2 s, the two cores of this process were busy for 3 s together. 1 s of that was this process.
    assert busy_elsewhere(2.0, tmp_path) == pytest.approx(1.0)


def test_no_program_counts_as_busy_without_proc(tmp_path: Path) -> None:
    began = time.monotonic()
    assert busy_elsewhere(60.0, tmp_path) == 0.0
    assert time.monotonic() - began < 10


def test_a_busy_program_is_counted() -> None:
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
def test_the_number_of_free_cores(cores: Cores, free: int) -> None:
    assert cores.free == free


def test_training_takes_fewer_threads_beside_busy_programs(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_no_warning_if_fewer_threads_would_not_help(
    busy: float, threads: int | None, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(neighbours, "free_cores", lambda: Cores(4, busy))
    config = TrainConfig(device="cpu", threads=threads)
    assert neighbours.beside_others(config, continued=False) == config
    assert not recwarn.list


@pytest.mark.parametrize(
    ("argv", "original", "expected"),
    [
        (["/x/bin/igan-fast", "train"], ["python", "/x/bin/igan-fast", "train"], True),
        (["-m", "train", "--seed", "1"], ["python", "-X", "dev", "-m", "igan_fast", "train", "--seed", "1"], True),
        (["-m"], ["python", "-m", "igan_fast"], True),
        (["-m"], ["python", "-migan_fast.train"], True),
        (["-m", "-m", "igan_fast"], ["python", "-m", "other", "-m", "igan_fast"], False),
        (["-m", "tests"], ["python", "-m", "pytest", "tests"], False),
        (["script.py", "igan-fast"], ["python", "script.py", "igan-fast"], False),
        (["-c"], ["python", "-c", "import igan_fast"], False),
        ([""], ["python"], False),
        ([], ["python"], False),
    ],
)
def test_only_the_command_line_sets_anything(argv: list[str], original: list[str], expected: bool) -> None:
    assert _start.is_command(argv, original) == expected


def test_environment_variables_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_start, "usable_cores", lambda: CORES)
    for given in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}):
        environment = dict(given)
        _start.prepare(environment)
        assert environment == given
    environment = {}
    _start.prepare(environment)
    assert environment == {"GOMP_SPINCOUNT": str(_start.SPIN_COUNT)}
    monkeypatch.setattr(_start, "usable_cores", lambda: CORES - 1)
    environment = {"GOMP_SPINCOUNT": "7"}
    _start.prepare(environment)
    assert environment == {"GOMP_SPINCOUNT": "7", "OMP_NUM_THREADS": str(CORES - 1)}
    environment |= {"OMP_NUM_THREADS": "5"}
    _start.prepare(environment)
    assert environment["OMP_NUM_THREADS"] == "5"


def test_the_command_sets_it_before_openmp_is_loaded_and_an_import_does_not() -> None:
    """With OMP_DISPLAY_ENV, libgomp prints the settings that it has read."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment["OMP_DISPLAY_ENV"] = "verbose"
    printed = {}
    for name, arguments in {"command": ["-m", "igan_fast", "--version"], "import": ["-c", "import igan_fast"]}.items():
        command = [sys.executable, *arguments]
        printed[name] = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    if "GOMP_SPINCOUNT" not in printed["import"]:
        pytest.skip("this PyTorch does not use GNU's OpenMP")
    assert f"GOMP_SPINCOUNT = '{_start.SPIN_COUNT}'" in printed["command"]
    assert f"GOMP_SPINCOUNT = '{_start.SPIN_COUNT}'" not in printed["import"]
