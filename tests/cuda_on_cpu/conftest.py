"""These tests need the library that ``make cuda-on-cpu`` builds, and are collected there alone."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest

collect_ignore_glob = [] if "CUDA_ON_CPU" in os.environ else ["test_*.py"]


@pytest.fixture
def runtime() -> Iterator[ctypes.CDLL]:
    """The settings of runtime.cpp; the defaults afterwards."""
    if "CUDA_ON_CPU" not in os.environ:  # named on pytest's command line, these tests are collected nevertheless
        pytest.skip("needs the library of the CUDA kernels: make cuda-on-cpu CUDA_ON_CPU_OPTIONS=FILE")
    library = ctypes.CDLL(os.environ["CUDA_ON_CPU"])
    library.cuda_on_cpu_set_blocks.argtypes = [ctypes.c_int64]
    yield library
    library.cuda_on_cpu_set_order(0)
    library.cuda_on_cpu_set_blocks(0)
