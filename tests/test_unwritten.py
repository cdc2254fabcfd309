"""Uninitialised memory holds NaN, however it was allocated, so a value that a kernel does not write shows."""

from __future__ import annotations

import ctypes
import multiprocessing
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import unwritten
from torch import Tensor

pytestmark = pytest.mark.skipif(not unwritten.poison(), reason="poisoning memory needs glibc")

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [1, 3, 64, 1000, 100_000, 1 << 20]


def used_before(size: int, dtype: torch.dtype) -> None:
    """Allocate a block of zeros and free it, so that the next allocation of this size may reuse it."""
    block = torch.zeros(size, dtype=dtype)
    assert not block.any()
    del block


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_allocation_function_returns_poisoned_memory(size, dtype):
    if size * dtype.itemsize <= 1032 and not unwritten.small_blocks_too():
        pytest.skip("without pytest-xdist, blocks of up to 1 KiB are sometimes not poisoned: use -n 1")
    ones, source = torch.ones(1, dtype=dtype), torch.ones(size, dtype=dtype)
    ways = {
        "empty": lambda: torch.empty(size, dtype=dtype),
        "empty_like": lambda: torch.empty_like(source),
        "new_empty": lambda: ones.new_empty(size),
        "empty_strided": lambda: torch.empty_strided((size,), (1,), dtype=dtype),
        "empty_permuted": lambda: torch.empty_permuted((size, 1), (1, 0), dtype=dtype),
        "channels_last": lambda: torch.empty((1, size, 1, 1), dtype=dtype, memory_format=torch.channels_last),
        "resize_": lambda: torch.empty(0, dtype=dtype).resize_(size),
        "Tensor": lambda: torch.Tensor(size),
        "storage": lambda: torch.tensor([], dtype=dtype).set_(torch.UntypedStorage(size * dtype.itemsize)),
    }
    for name, allocate in ways.items():
        used_before(size, dtype)
        assert allocate().isnan().all(), name


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_poisoned_integers_are_minus_one_or_the_maximum(dtype):
    used_before(1000, dtype)
    found = torch.empty(1000, dtype=dtype)
    assert ((found == -1) | (found == torch.iinfo(dtype).max)).all()


def test_resize_keeps_written_values():
    x = torch.ones(300).resize_(700)
    assert x[:300].eq(1).all()
    assert x[300:].isnan().all()


def test_a_thread_and_a_forked_process():
    found = []

    def look() -> None:
        used_before(1000, torch.float32)
        found.append(bool(torch.empty(1000).isnan().all()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [True]
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: sys.exit(0 if torch.empty(1000).isnan().all() else 1))
    child.start()
    child.join()
    assert child.exitcode == 0


def test_memory_allocated_by_c_functions():
    libc = ctypes.CDLL("libc.so.6")
    for name, arguments in {"malloc": (5000,), "aligned_alloc": (64, 64_000)}.items():
        allocate = getattr(libc, name)
        allocate.restype = ctypes.c_void_p
        place = allocate(*map(ctypes.c_size_t, arguments))
        assert set(ctypes.string_at(place, arguments[-1])) == {255}, name
        libc.free(ctypes.c_void_p(place))


@pytest.mark.parametrize("size", SIZES)
def test_numpy(size):
    for dtype in (np.float16, np.float32, np.float64):
        assert np.isnan(np.empty(size, dtype)).all()
        assert np.isnan(np.empty_like(np.ones(size, dtype))).all()
    assert (np.empty(size, np.int64) == np.iinfo(np.int64).max).all()
    assert np.empty((2, size), dtype=np.uint8, order="F").min() == 255


def test_memory_in_a_process_that_a_test_starts():
    code = "import numpy as np; x = np.empty(10000, np.float32); print(np.isnan(x).all() or (abs(x) > 1e38).all())"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout == "True\n"


def test_a_kernel_that_leaves_a_value_unwritten_shows():
    """A Triton kernel in the interpreter, with an output allocated as in the package's operators."""
    triton = pytest.importorskip("triton")
    tl = pytest.importorskip("triton.language")
    if torch.cuda.is_available():
        pytest.skip("on a GPU the interpreter is off")

    @triton.jit
    def double(x, y, count, BLOCK: tl.constexpr):
        at = tl.arange(0, BLOCK)
        tl.store(y + at, 2 * tl.load(x + at, mask=at < count), mask=at < count)

    def doubled(x: Tensor, count: int) -> Tensor:
        y = torch.empty_like(x)
        double[(1,)](x, y, count, BLOCK=512)
        return y

    x = torch.arange(1.0, 513)
    used_before(512, torch.float32)
    assert torch.equal(doubled(x, 512), 2 * x)
    left_out = doubled(x, 511)
    assert torch.equal(left_out[:511], 2 * x[:511])
    assert left_out[511].isnan()


def test_an_operator_that_leaves_a_value_unwritten_shows():
    """This operator allocates through PyTorch's dispatcher, as a custom operator in C++ does."""
    with torch.library._scoped_library("unwritten_test", "FRAGMENT") as library:
        library.define("all_but_the_last(Tensor x) -> Tensor")

        def all_but_the_last(x: Tensor) -> Tensor:
            y = torch.ops.aten.new_empty(x, x.shape)
            y[:-1] = x[:-1]
            return y

        library.impl("all_but_the_last", all_but_the_last, "CPU")
        used_before(999, torch.float64)
        y = torch.ops.unwritten_test.all_but_the_last(torch.ones(999, dtype=torch.float64))
    assert y[:-1].eq(1).all()
    assert y[-1].isnan()


@pytest.mark.gpu
def test_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    for size in (1, 1000, 100_000, 1 << 20, 1 << 24):
        for dtype in DTYPES:
            unwritten.poison_gpu()  # again: the results of the last check were written to such blocks
            assert torch.empty(size, dtype=dtype, device="cuda").isnan().all()
