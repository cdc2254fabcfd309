"""Resolving the device option with and without a GPU, and what the CPU and its memory allocator support."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

import pytest
import torch
from preloaded import run_preloaded

from igan_fast.devices import has_bfloat16, keep_freed_memory, operators_on, resolve_device
from igan_fast.errors import InputError
from igan_fast.ops import instructions

MAIN = "import sys; from igan_fast.app.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize(("gpu", "found"), [(True, "cuda"), (False, "cpu")])
def test_auto_selects_the_gpu_if_there_is_one(gpu: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve_device("auto") == torch.device(found)
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:0", torch.device("cuda", 1)):
        with pytest.raises(InputError, match=f"device: found '{device}', but PyTorch sees no CUDA device here"):
            resolve_device(device)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(InputError, match="this PyTorch is built for the CPU alone; use 'cpu' or 'auto'"):
        resolve_device("cuda")


def test_a_gpu_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count, expected in ((1, "expected 'cuda:0': there is one"), (4, "'cuda:0' to 'cuda:3': there are 4")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises(InputError, match=f"device: found 'cuda:7', .*{expected}"):
            resolve_device("cuda:7")
        last = f"cuda:{count - 1}"
        assert resolve_device(last) == torch.device(last)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("gpu", "expected 'cuda'"),
        ("CUDA", "expected 'cuda'"),
        ("CPU", "expected 'cpu'"),
        ("Auto", "expected 'auto'"),
        ("", "expected 'auto', 'cpu' or 'cuda'"),
        ("cuda:-1", "expected 'auto', 'cpu' or 'cuda'"),
        (None, "expected 'auto', 'cpu' or 'cuda'"),
        ("meta", "PyTorch cannot compute on 'meta' here"),
        ("xpu", "PyTorch cannot compute on 'xpu' here"),
    ],
)
def test_an_invalid_device_is_refused_everywhere(device: str, expected: str, tmp_path: Path) -> None:
    from igan_fast import FaceEditor
    from igan_fast.baselines.cnn import cached_cnn, train_cnn
    from igan_fast.data import build_store, open_source
    from igan_fast.evaluate import evaluate

    store = build_store(open_source("drawn", drawn_count=2), 16, cache=tmp_path, progress=False)
    for take in (
        resolve_device,
        operators_on,
        lambda device: FaceEditor.load(tmp_path, device=device),
        lambda device: evaluate(tmp_path, "drawn", device=device),
        lambda device: cached_cnn(store, cache=tmp_path, device=device),
        lambda device: train_cnn(store, device=device),
    ):
        with pytest.raises(InputError, match=f"device: .*{expected}"):
            take(device)


def test_operators_on_the_cpu_have_a_name() -> None:
    assert operators_on("cpu").split()[0] in ("native", "reference")


@pytest.mark.parametrize(
    ("value", "message"),
    [("fastest", "IGAN_FAST_IMPL is 'fastest'; expected one of"), ("triton", "cannot run on cpu")],
)
def test_a_wrong_implementation_of_operators_is_bad_input(value: str, message: str) -> None:
    """The package reads the variable once, so this needs a process of its own."""
    arguments = ["train", "--device", "cpu", "--drawn-count", "40", "--iterations", "1"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"IGAN_FAST_IMPL": value}
    finished = run_preloaded(MAIN, *arguments, environment=environment)
    assert finished.returncode == 2, finished.stderr
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_freed_memory_is_kept_where_there_is_glibc() -> None:
    code = "from igan_fast.devices import keep_freed_memory; print(keep_freed_memory())"  # it affects the whole process
    finished = run_preloaded(code, environment=dict(os.environ))
    assert finished.stdout.strip() == str(sys.platform == "linux" and platform.libc_ver()[0] == "glibc")


@pytest.mark.parametrize(
    ("cpuinfo", "onednn", "found"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512bw avx512dq avx512vl", True, False),  # Skylake: oneDNN emulates bfloat16
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
    monkeypatch.setattr(instructions, "Path", lambda name: {"/proc/cpuinfo": path}[name])
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert has_bfloat16() is (found and torch._C._has_mkldnn)


@pytest.mark.parametrize(
    ("flags", "of_bfloat16", "of_float16"),
    [
        ("avx2 fma", "none", "none"),
        ("avx512f avx512_bf16", "vectors", "none"),
        ("avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_tile", "matrices", "vectors"),
        ("avx512_bf16 avx512_fp16 amx_bf16 amx_fp16", "matrices", "matrices"),
        ("asimd asimdhp bf16", "matrices", "vectors"),  # Arm, whose bfloat16 instructions multiply matrices of 2 × 4
    ],
)
def test_products_of_half_types_are_what_the_cpu_has(flags, of_bfloat16, of_float16, monkeypatch, tmp_path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"flags\t\t: fpu {flags}\n", encoding="utf-8")
    monkeypatch.setattr(instructions, "Path", lambda name: {"/proc/cpuinfo": path}[name])
    for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: True)
    monkeypatch.setattr(torch._C, "_has_mkldnn", True)
    found = instructions.products_of(torch.bfloat16), instructions.products_of(torch.float16)
    assert found == (of_bfloat16, of_float16)
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    assert instructions.products_of(torch.bfloat16) == "none"


@pytest.mark.parametrize(
    ("refused", "kept", "calls"),
    [
        ((), True, [(-3, 2**31 - 1), (-1, 2**31 - 1)]),
        ((-3,), True, [(-3, 2**31 - 1), (-4, 0), (-1, 2**31 - 1)]),  # an older glibc
        ((-3, -4), False, [(-3, 2**31 - 1), (-4, 0)]),
        ((-1,), False, [(-3, 2**31 - 1), (-1, 2**31 - 1)]),
    ],
)
def test_keep_freed_memory_if_glibc_refuses_a_setting(refused, kept, calls, monkeypatch) -> None:
    asked = []

    class Libc:
        def mallopt(self, parameter: int, value: int) -> int:
            asked.append((parameter, value))
            return int(parameter not in refused)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
    assert keep_freed_memory() is kept
    assert asked == calls
