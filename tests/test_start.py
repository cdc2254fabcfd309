"""OpenMP's settings: only the command line sets them, before PyTorch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from igan_fast import _start

CORES = len(os.sched_getaffinity(0))


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


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """libgomp says what it read when OMP_DISPLAY_ENV is set."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment["OMP_DISPLAY_ENV"] = "verbose"
    said = {}
    for name, arguments in {"command": ["-m", "igan_fast", "--version"], "import": ["-c", "import igan_fast"]}.items():
        command = [sys.executable, *arguments]
        said[name] = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    if "GOMP_SPINCOUNT" not in said["import"]:
        pytest.skip("this PyTorch has another OpenMP than GNU's")
    assert f"GOMP_SPINCOUNT = '{_start.SPIN_COUNT}'" in said["command"]
    assert f"GOMP_SPINCOUNT = '{_start.SPIN_COUNT}'" not in said["import"]
