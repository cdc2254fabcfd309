"""Linear layers with few rows on the CPU, such as those of one image, by the kernel in csrc/cpu/linear.

Reading the weights takes longer there than the products. MKL and oneDNN read them at half of memory's speed or less in
most layers, and in half types at a quarter."""

from __future__ import annotations

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.constant import cast

__all__ = ["MAX_ROWS", "MIN_WEIGHTS", "are_few", "dtype_of", "gains", "multiply"]

#: The most rows that the kernel computes.
MAX_ROWS = 4

#: With fewer weights a layer takes microseconds, and PyTorch is as fast.
MIN_WEIGHTS = 1 << 12

#: In half types, more than two rows need so many input features: each output's last sums weigh more there.
MIN_INPUTS_OF_HALF_TYPES = 512

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

#: The instruction sets on which the kernel was measured to be faster.
_MEASURED = ("avx2", "avx512")


def gains(weights: int) -> bool:
    """Whether the kernel is faster for a layer with so many weights."""
    return _HAS_KERNEL and weights >= MIN_WEIGHTS


def are_few(x: Tensor, inputs: int) -> bool:
    """Whether x (..., ``inputs``) has so few rows that the kernel can compute the layer."""
    return 0 < x.numel() <= MAX_ROWS * inputs


def dtype_of(x: Tensor, weight: Tensor, bias: Tensor | None) -> torch.dtype | None:
    """The dtype in which the kernel computes the layer: autocast's, or that of the tensors. None where it cannot: where
    it is not faster, for a gradient, and for tensors that only PyTorch's functions support."""
    if (
        torch.compiler.is_compiling()
        or backend.plain_only(x, weight, bias)  # before any size: torch.jit.trace warns of decisions by sizes
        or weight.dim() != 2
        or not gains(weight.numel())
        or x.dim() < 1
        or x.shape[-1] != weight.shape[1]
        or not are_few(x, weight.shape[1])
        or not weight.is_contiguous()
        or (bias is not None and bias.shape != weight.shape[:1])
    ):
        return None
    tensors = [t for t in (x, weight, bias) if t is not None]
    if any(t.device.type != "cpu" or t.dtype not in _DTYPES for t in tensors):
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return None
    dtype = x.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    elif any(t.dtype != dtype for t in tensors):
        return None
    if dtype == torch.float32 or x.numel() <= 2 * x.shape[-1] or x.shape[-1] >= MIN_INPUTS_OF_HALF_TYPES:
        return dtype if dtype in _DTYPES else None
    return None


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``F.linear(x, weight, bias)`` in the dtype that ``dtype_of`` returned. Sums are float32, and are rounded once."""
    rows = x.detach().to(dtype).reshape(-1, weight.shape[1]).contiguous()
    given = None if bias is None else cast(bias, dtype).detach().contiguous()
    y: Tensor = torch.ops.igan_fast.linear_few_rows(rows, cast(weight, dtype).detach(), given)
    return y.view(*x.shape[:-1], weight.shape[0])


def register(namespace: str) -> None:
    """Register the fake implementation of the operator, which only the native namespace has."""
    if namespace == backend.NATIVE:
        torch.library.register_fake(f"{namespace}::linear_few_rows")(
            lambda x, weight, bias: x.new_empty((x.shape[0], weight.shape[0]))
        )


_HAS_KERNEL = backend.has_native_cpu() and backend.build_info().get("cpu_instruction_set_used") in _MEASURED
backend.on_load(register)
