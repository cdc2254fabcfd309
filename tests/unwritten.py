"""Fills new memory with NaN, or with very large integers, so that a test notices when uninitialised memory is read.

glibc fills every block that it allocates (``M_PERTURB``): for ``torch.empty`` and the like, the output of an operator,
the scratch memory of a C++ kernel, or a large NumPy array. For child processes an environment variable does the same.
It cannot name a byte of which floats are NaN: there they are about 3e38.

Each thread has a cache of blocks up to 1 KiB, which are allocated without being filled. The cache can be switched off
only when a process starts. That is done for the workers of pytest-xdist, which ``make test`` uses; in a plain pytest
run a small block is sometimes not filled.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["poison", "poison_gpu", "small_blocks_too"]

_M_PERTURB = -6
_ONES = 256  # glibc writes the complement of its low byte: 0xFF, and floats of these bytes are NaN
_LARGE = "128"  # written as 0x7F, floats of about 3e38: the variable cannot name 0xFF
_NO_CACHE = "glibc.malloc.tcache_count=0"


def poison() -> bool:
    """Fill new memory from now on, in this process and those that it starts. Returns False without glibc."""
    _poison_numpy()
    os.environ.setdefault("MALLOC_PERTURB_", _LARGE)
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _NO_CACHE not in tunables:
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:{_NO_CACHE}".lstrip(":")
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    return bool(libc.mallopt(_M_PERTURB, _ONES))


def small_blocks_too() -> bool:
    """Whether small blocks are filled too: this process was started without the cache of small blocks."""
    environment = Path("/proc/self/environ")
    return environment.is_file() and _NO_CACHE.encode() in environment.read_bytes()


def poison_gpu() -> None:
    """Fill the free blocks of PyTorch's GPU allocator with NaN, and new ones: 32 MB for small tensors, and 256 MB."""
    torch.cuda.empty_cache()
    ones = functools.partial(torch.full, fill_value=255, dtype=torch.uint8, device="cuda")
    parts = (block for segment in torch.cuda.memory_snapshot() for block in segment["blocks"])
    free = sorted((block["size"] for block in parts if block["state"] == "inactive"), reverse=True)
    blocks = [*(ones((size,)) for size in free), *(ones((1 << 20,)) for _ in range(32)), ones((1 << 28,))]
    del blocks


def _poison_numpy() -> None:
    """Fill NumPy's new arrays too: NumPy has its own cache of small blocks, which do not come from malloc."""

    def filled(allocate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(allocate)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            array = allocate(*arguments, **named)
            if array.dtype.kind in "fc":
                array.fill(np.nan)
            elif array.dtype.kind in "iu":
                array.fill(np.iinfo(array.dtype).max)
            elif array.dtype.kind == "b":
                array.fill(True)
            return array

        wrapper.fills = True  # type: ignore[attr-defined]
        return wrapper

    for name in ("empty", "empty_like"):
        if not hasattr(getattr(np, name), "fills"):
            setattr(np, name, filled(getattr(np, name)))
