"""Devices: which device an option names, which operators run on it, and settings of the CPU."""

from __future__ import annotations

import ctypes
import sys

import torch

from igan_fast.errors import InputError
from igan_fast.ops import backend
from igan_fast.ops.instructions import products_of

__all__ = ["has_bfloat16", "keep_freed_memory", "operators_on", "resolve_device"]


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device that ``device`` names; ``"auto"`` is the GPU if there is one, else the CPU.

    Raises:
        InputError: the name is unknown, or this machine or this build of PyTorch does not have the device.
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


#: Common mistakes in device names, and what messages suggest instead.
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
    """Name the implementation that the fused operators use on a device: "native (avx2)", "triton", "reference" …

    Raises:
        InputError: there is no such device, see ``resolve_device``; or the environment variable IGAN_FAST_IMPL names an
            unknown implementation, or one that cannot run on the device.
    """
    try:
        return backend.chosen(resolve_device(device))
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from None


def has_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 products; without them bfloat16 is slower than float32.

    Where it is not known, as on other systems than Linux, the answer is that of oneDNN.
    """
    return products_of(torch.bfloat16) != "none"


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory in this process for later allocations. Returns False where there is no glibc.

    By default glibc returns each large block to the system. The page faults of the next block then take longer than
    most of the operators that write to it.
    """
    if sys.platform != "linux":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    trim_threshold, mmap_threshold, mmap_max, most = -1, -3, -4, 2**31 - 1
    # An older glibc refuses a threshold above 32 MiB; then mmap is not used for any block.
    kept = libc.mallopt(mmap_threshold, most) or libc.mallopt(mmap_max, 0)
    return bool(kept) and bool(libc.mallopt(trim_threshold, most))
