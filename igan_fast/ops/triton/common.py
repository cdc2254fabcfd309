"""What the Triton kernels share: registration, launches, the rule of indices, numbers wider than Triton's arguments.

The rule: whatever an offset is made of begins as int64, as a program's number (``program``, ``places``) or as a value
that was loaded; and a product of two sizes never stands alone, since Triton takes sizes below 2^31 as int32. The one
exception is the number of a value within its channel, which is divided once for each value, and slow to divide in 64
bits: the host refuses (``launchable``) what would bring it to 2^31. Grids have one dimension: the others end at 65,535.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LIBRARY = torch.library.Library("igan_fast_triton", "DEF")

#: With Triton's interpreter the kernels run on CPU tensors too.
INTERPRETED = bool(triton.knobs.runtime.interpret)


def define(schema: str, function: Callable[..., Any]) -> None:
    """Define an operator and its implementation."""
    name = LIBRARY.define(schema)
    LIBRARY.impl(name, function, "CUDA")
    if INTERPRETED:
        LIBRARY.impl(name, function, "CPU")


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Launches go to the current stream of the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


#: Programs of a launch, and values that are numbered in 32 bits; a loop may look one block further.
MOST_PROGRAMS = 2**31 - 1
MOST_NUMBERED = 2**30


def launchable(programs: int, numbered: int = 0) -> int:
    """The number of programs, where they and the values that are numbered in 32 bits are not too many.

    Raises:
        RuntimeError: they are.
    """
    if programs > MOST_PROGRAMS or numbered > MOST_NUMBERED:
        raise RuntimeError(
            f"the tensors are too large for one launch: {programs} programs (at most {MOST_PROGRAMS}), {numbered} "
            f"values in a channel (at most {MOST_NUMBERED}); use impl='reference'"
        )
    return programs


def split(value: float) -> tuple[float, float]:
    """A double as the sum of two floats: Triton takes a Python number as float32."""
    try:
        high: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf"), 0.0
    low = value - high
    return high, low if low == low else 0.0


def triton_dtype(tensor_dtype: torch.dtype) -> Any:
    """float64 for float64, else float32: what sums are taken in."""
    return tl.float64 if tensor_dtype == torch.float64 else tl.float32


@triton.jit
def join(high, low, dtype: tl.constexpr):
    """The number that ``split`` took apart."""
    return tl.zeros((), dtype=dtype) + high + low


@triton.jit
def program():
    """The program's number, wide enough for every product."""
    return tl.program_id(0).to(tl.int64)


@triton.jit
def places(firsts, seconds):
    """The program's place in a grid of firsts × seconds × as many as there are."""
    number = program()
    return number % firsts, number // firsts % seconds, number // firsts // seconds
