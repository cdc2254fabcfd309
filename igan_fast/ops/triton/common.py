"""What the Triton kernels share: registration, launches, and numbers that are wider than Triton's arguments."""

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
