"""A library that needs NVIDIA's libraries loads with the stubs and finds no device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from release import cuda_stubs

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or any(shutil.which(program) is None for program in ("cc", "nm", "readelf")),
    reason="no compiler for Linux here",
)

USER = """
int cudaMalloc(void); int cudaGetDeviceCount(int*); int ncclGetVersion(void);
int finds_no_device(void) {
  int n = 7;
  return cudaGetDeviceCount(&n) == 100 && n == 0 && !cudaMalloc() && !ncclGetVersion();
}
"""


def link(source: str, library: Path, *options: str) -> None:
    code = library.with_suffix(".c")
    code.write_text(source, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", str(code), "-o", str(library), *options], check=True)


def test_a_library_that_needs_cuda_loads_without_it(tmp_path: Path) -> None:
    """The library needs versioned functions, as PyTorch does."""
    (tmp_path / "versions").write_text("libcudart.so.12 { global: *; };", encoding="utf-8")
    lib, away = tmp_path / "lib", tmp_path / "away"
    for folder in (lib, away):
        folder.mkdir()
    versions = f"-Wl,--version-script={tmp_path / 'versions'}"
    functions = "int cudaMalloc(void) { return 1; } int cudaGetDeviceCount(int* n) { return *n = 1; }"
    link(functions, away / "libcudart.so.12", "-Wl,-soname,libcudart.so.12", versions)
    link("int ncclGetVersion(void) { return 1; }", away / "libnccl.so.2", "-Wl,-soname,libnccl.so.2")
    link(USER, lib / "libtorch_cuda.so", str(away / "libcudart.so.12"), str(away / "libnccl.so.2"))
    shutil.rmtree(away)

    stubs = tmp_path / "stubs"
    assert cuda_stubs.make(lib, stubs)
    code = f"import ctypes; print(ctypes.CDLL({str(lib / 'libtorch_cuda.so')!r}).finds_no_device())"
    for libraries, works in ((str(stubs), True), (str(tmp_path), False)):
        environment = os.environ | {"LD_LIBRARY_PATH": libraries}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) is works, done.stderr
        assert not works or done.stdout.strip() == "1"


def test_a_cpu_build_needs_no_stubs(tmp_path: Path) -> None:
    link("int puts(const char*); int f(void) { return puts(0); }", tmp_path / "libtorch_cpu.so")
    assert not cuda_stubs.make(tmp_path, tmp_path / "stubs")
    assert not (tmp_path / "stubs").exists()
