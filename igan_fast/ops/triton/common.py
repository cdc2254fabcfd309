"""Functions for all Triton kernels: registration, launches, 64-bit indexing, and float64 numbers as arguments.

The rule for 64-bit indexing: every offset is computed in int64. The computation starts from an int64 value: the number
of a program (``program``, ``places``), or an index that was loaded from memory. Two sizes are never multiplied with
each other before that, because Triton passes sizes below 2³¹ as int32. There are two exceptions, in
``norm_act_forward`` and ``convolution_forward``.

Grids have one dimension, because CUDA limits the second and the third to 65,535.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

LIBRARY = torch.library.Library("igan_fast_triton", "DEF")

#: The Python function behind each of the dispatcher's operators, by the operator's name.
OPERATORS: dict[str, Callable[..., Any]] = {}

#: With Triton's interpreter the kernels run on CPU tensors too.
INTERPRETED = bool(triton.knobs.runtime.interpret)

#: The largest grid that CUDA launches.
MOST_PROGRAMS = 2**31 - 1


def operator(schema: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: register the function as the operator with this schema. A schema of the same operator in csrc/ops has
    to be equal."""

    def register(function: Callable[P, R]) -> Callable[P, R]:
        name = LIBRARY.define(schema)
        LIBRARY.impl(name, function, "CUDA")
        if INTERPRETED:
            LIBRARY.impl(name, function, "CPU")
        OPERATORS[name] = function
        return function

    return register


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Inside the block, kernels are launched on the tensor's device and its current stream."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def grid(programs: int) -> tuple[int]:
    """The grid of a launch of so many programs.

    Raises:
        RuntimeError: there are more than CUDA launches at once.
    """
    if programs > MOST_PROGRAMS:
        raise RuntimeError(
            f"the tensors are too large for one launch: {programs} programs (at most {MOST_PROGRAMS}); "
            "use impl='reference'"
        )
    return (programs,)


def two_floats(value: float) -> tuple[float, float]:
    """A float64 number as the sum of two float32 numbers, because Triton passes a Python number as float32."""
    try:
        high: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf"), 0.0
    low = value - high
    return high, low if low == low else 0.0


def triton_dtype(dtype: torch.dtype) -> Any:
    """The Triton dtype in which a kernel sums values of ``dtype``: float64 for float64, else float32."""
    return tl.float64 if dtype == torch.float64 else tl.float32


@triton.jit
def sum_of(floats, dtype: tl.constexpr):
    """The number that ``two_floats`` split."""
    return tl.zeros((), dtype=dtype) + floats[0] + floats[1]


@triton.jit
def program():
    """The number of this program, as int64."""
    return tl.program_id(0).to(tl.int64)


@triton.jit
def places(firsts, seconds):
    """The position (first, second, third) of this program in a grid of firsts × seconds × any number, as int64."""
    number = program()
    return number % firsts, number // firsts % seconds, number // firsts // seconds
