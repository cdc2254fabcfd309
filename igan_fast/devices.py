"""Which device a ``--device`` option means, what runs on it, and how this process holds the CPU's memory."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Literal

import torch

from igan_fast.errors import InputError
from igan_fast.ops import backend

__all__ = ["has_bfloat16", "keep_freed_memory", "operators_on", "resolve_device"]

#: What Linux calls the instructions, of x86 and of Arm.
_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device itself; ``"auto"`` takes the GPU if there is one.

    Raises:
        InputError: ``"cuda"`` where PyTorch sees no CUDA device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    return torch.device(device)


def operators_on(device: str | torch.device) -> str:
    """In words, which implementation the fused operators take there: "native (avx2)", "triton", "reference" …

    Raises:
        InputError: the environment variable IGAN_FAST_IMPL names an unknown one, or one that cannot run there.
    """
    try:
        return backend.chosen(torch.device(device))
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from None


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 numbers by itself; where it does not, that is slower than float32."""
    if not (torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    try:  # oneDNN says yes to any AVX-512, and computes in float32 where that has no such instructions
        known = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # only Linux has it
        return True
    return not _BFLOAT16.isdisjoint(known.split())


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next allocation, from now on in this process; False where there is no glibc.

    It would give every large block back to the system, and the page faults of the next one cost more than most
    operators that write it.
    """
    if sys.platform != "linux":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    trim_threshold, mmap_threshold, mmap_max, most = -1, -3, -4, 2**31 - 1
    # An older glibc refuses a threshold above 32 MiB: then no block is to be one of its own at all.
    kept = libc.mallopt(mmap_threshold, most) or libc.mallopt(mmap_max, 0)
    return bool(kept) and bool(libc.mallopt(trim_threshold, most))
