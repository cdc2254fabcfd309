"""Which device a ``--device`` option means, what runs on it, and how this process holds the CPU's memory."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

from igan_fast.errors import InputError
from igan_fast.ops import backend

__all__ = ["has_bfloat16", "keep_freed_memory", "operators_on", "resolve_device"]

#: What Linux calls the instructions, of x86 and of Arm.
_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))


def resolve_device(device: str | torch.device) -> torch.device:
    """The device itself; ``"auto"`` takes the GPU if there is one.

    Raises:
        InputError: no device has that name, or this machine, or this build of PyTorch, has none of that kind or number.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        hint = _KINDS.get(str(device).lower(), "'auto', 'cpu' or 'cuda'")
        raise InputError(f"device: found {device!r}, expected {hint}") from None
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type == "cuda":
        _expect_gpu(found, str(device))
    elif found.type != "mps" or not torch.backends.mps.is_available():
        raise InputError(f"device: PyTorch cannot compute on {str(device)!r} here; expected 'auto', 'cpu' or 'cuda'")
    return found


#: What is nearly the name of a device, and what is meant.
_KINDS = {"gpu": "'cuda'", "nvidia": "'cuda'", "cuda": "'cuda'", "cpu": "'cpu'", "auto": "'auto'"}


def _expect_gpu(device: torch.device, asked: str) -> None:
    if not torch.cuda.is_available():
        why = "" if torch.version.cuda or torch.version.hip else ": this PyTorch is built for the CPU alone"
        raise InputError(f"device: found {asked!r}, but PyTorch sees no CUDA device here{why}; use 'cpu' or 'auto'")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        last = f" to 'cuda:{count - 1}'" if count > 1 else ""
        raise InputError(f"device: found {asked!r}, expected 'cuda:0'{last}: there {_are(count)} here")


def _are(count: int) -> str:
    return "is one CUDA device" if count == 1 else f"are {count} CUDA devices"


def operators_on(device: str | torch.device) -> str:
    """In words, which implementation the fused operators take there: "native (avx2)", "triton", "reference" …

    Raises:
        InputError: there is no such device, see ``resolve_device``; or the environment variable IGAN_FAST_IMPL names an
            unknown implementation, or one that cannot run there.
    """
    try:
        return backend.chosen(resolve_device(device))
    except InputError:
        raise
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
