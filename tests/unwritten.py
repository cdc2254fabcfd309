"""Memory that nobody wrote holds NaN, or a very large integer: what reads it shows.

glibc fills each block that it hands out (``M_PERTURB``), whoever asks: ``torch.empty`` and its kin, an operator's
output, the scratch of a C++ kernel, a large NumPy array. A child process cannot be reached by the call, and its
variable takes no byte of which floats are NaN: there they are about 3e38.

A thread's own cache of blocks up to 1 KiB would hand some of them out as they are. It can be left out from a process's
start alone: for pytest-xdist's workers, which ``make test`` takes; in a plain pytest a small block is now and then
missed.
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
_ONES = 256  # glibc writes the low byte of its complement: 0xFF, of which every float is NaN
_LARGE = "128"  # 0x7F, the nearest that the environment variable can name
_NO_CACHE = "glibc.malloc.tcache_count=0"


def poison() -> bool:
    """From now on, in this process and those that it starts; False where there is no glibc to do it."""
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
    """Whether this process was started without a cache of small blocks."""
    environment = Path("/proc/self/environ")
    return environment.is_file() and _NO_CACHE.encode() in environment.read_bytes()


def poison_gpu() -> None:
    """What PyTorch's allocator has at hand for the next allocations holds NaN: small ones, and large ones to 256 MB."""
    torch.cuda.empty_cache()
    ones = functools.partial(torch.full, fill_value=255, dtype=torch.uint8, device="cuda")
    blocks = [*(ones((1 << 20,)) for _ in range(32)), ones((1 << 28,))]
    del blocks


def _poison_numpy() -> None:
    """NumPy keeps small blocks of its own, which never come back from malloc."""

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
