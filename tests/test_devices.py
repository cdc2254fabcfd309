"""Which device an option means, with and without a GPU."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest
import torch

from igan_fast import devices
from igan_fast.devices import has_bfloat16, keep_freed_memory, operators_on, resolve_device
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


@pytest.mark.parametrize(
    ("cpuinfo", "onednn", "found"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512bw avx512dq avx512vl", True, False),  # Skylake: oneDNN says yes
        ("flags\t\t: fpu avx512f avx512_bf16", True, True),
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile", True, True),
        ("Features\t: fp asimd bf16 i8mm", True, True),
        ("flags\t\t: fpu avx512f avx512_bf16", False, False),
        (None, True, True),
    ],
)
def test_bfloat16_is_what_the_cpu_has(cpuinfo, onednn, found, monkeypatch, tmp_path) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(f"processor\t: 0\n{cpuinfo}\n", encoding="utf-8")
    monkeypatch.setattr(devices, "Path", lambda name: {"/proc/cpuinfo": path}[name])
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert has_bfloat16() is (found and torch._C._has_mkldnn)


@pytest.mark.parametrize(
    ("refused", "kept", "calls"),
    [
        ((), True, [(-3, 2**31 - 1), (-1, 2**31 - 1)]),
        ((-3,), True, [(-3, 2**31 - 1), (-4, 0), (-1, 2**31 - 1)]),  # an older glibc
        ((-3, -4), False, [(-3, 2**31 - 1), (-4, 0)]),
        ((-1,), False, [(-3, 2**31 - 1), (-1, 2**31 - 1)]),
    ],
)
def test_what_glibc_refuses(refused, kept, calls, monkeypatch) -> None:
    asked = []

    class Libc:
        def mallopt(self, parameter: int, value: int) -> int:
            asked.append((parameter, value))
            return int(parameter not in refused)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
    assert keep_freed_memory() is kept
    assert asked == calls
