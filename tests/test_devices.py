"""Which device an option means, with and without a GPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from igan_fast.devices import operators_on, resolve_device
from igan_fast.errors import InputError


@pytest.mark.parametrize(("gpu", "found"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_the_gpu_if_there_is_one(gpu: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve_device("auto") == torch.device(found)
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cuda: PyTorch sees no CUDA device here"):
        resolve_device("cuda")


def test_operators_on_the_cpu_have_a_name() -> None:
    assert operators_on("cpu").split()[0] in ("native", "reference")


@pytest.mark.parametrize(
    ("value", "message"),
    [("fastest", "IGAN_FAST_IMPL is 'fastest'; expected one of"), ("triton", "cannot run on cpu")],
)
def test_a_wrong_choice_of_operators_is_bad_input(value: str, message: str) -> None:
    """In a fresh interpreter: the variable is read once."""
    command = [
        sys.executable,
        "-m",
        "igan_fast",
        "train",
        "--device",
        "cpu",
        "--drawn-count",
        "40",
        "--iterations",
        "1",
    ]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"IGAN_FAST_IMPL": value}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 2, finished.stderr
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_freed_memory_is_kept_where_there_is_glibc() -> None:
    code = "from igan_fast.devices import keep_freed_memory; print(keep_freed_memory())"  # changes the whole process
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == str(sys.platform == "linux" and platform.libc_ver()[0] == "glibc")
