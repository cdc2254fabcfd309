"""Copies of tensors from one memory format to another.

On the CPU in float32, the kernel in csrc/cpu/transpose makes them. It takes a third to a quarter of the time of
PyTorch's copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend

__all__ = ["CHANNELS_LAST", "channels_first", "channels_last", "dense", "like", "no_view", "rows_of_channels"]

#: The kernel transposes squares of 4 × 4 values in registers; for fewer channels or pixels PyTorch's copy is as fast.
MIN_SIDE = 4

#: The memory formats with channels last in memory, by the number of dimensions.
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(x: Tensor) -> Tensor:
    """``x.contiguous(memory_format=torch.channels_last)`` of x (N, C, H, W), differentiable."""
    if _can_transpose(x, torch.contiguous_format):
        return _transpose(x)
    return x.contiguous(memory_format=torch.channels_last)


def rows_of_channels(x: Tensor) -> Tensor:
    """x (N, C, H, W) as a contiguous (N, H, W, C), detached; a view where x is channels_last."""
    return channels_last(x.detach()).permute(0, 2, 3, 1)


def channels_first(x: Tensor) -> Tensor:
    """``x.contiguous()`` of x (N, C, H, W), differentiable."""
    if _can_transpose(x, torch.channels_last):
        return _transpose(x)
    return x.contiguous()


def no_view(x: Tensor) -> Tensor:
    """Return a tensor that shares the memory of the view x, but is not a view: autograd forbids in-place changes of a
    view that an autograd function returns."""
    return x.new_empty(0).set_(x)  # type: ignore[call-overload, no-any-return]


def dense(x: Tensor) -> Tensor:
    """x itself if it is contiguous or channels_last, which the kernels need; else a contiguous copy."""
    if x.is_contiguous() or _is_channels_last(x):
        return x
    return x.contiguous()


def like(grad: Tensor, x: Tensor) -> Tensor:
    """``grad`` in the memory format of x, which is contiguous or channels_last."""
    if x.is_contiguous():
        return channels_first(grad) if x.dim() == 4 else grad.contiguous()
    if x.dim() == 4:
        return channels_last(grad)
    if x.dim() in CHANNELS_LAST:
        return grad.contiguous(memory_format=CHANNELS_LAST[x.dim()])
    return grad.movedim(1, -1).contiguous().movedim(-1, 1)


def _is_channels_last(x: Tensor) -> bool:
    if x.dim() in CHANNELS_LAST:
        return x.is_contiguous(memory_format=CHANNELS_LAST[x.dim()])
    return x.dim() > 2 and x.movedim(1, -1).is_contiguous()


def _can_transpose(x: Tensor, layout: torch.memory_format) -> bool:
    """Whether the kernel can copy x, which has to have this memory format, to the other one."""
    return (
        not backend.plain_only(x)  # before any size: torch.fx knows none
        and x.dim() == 4
        and x.is_contiguous(memory_format=layout)
        and min(x.shape[1], x.shape[2] * x.shape[3]) >= MIN_SIDE  # so x cannot be in both formats at once
        and x.shape[0] > 0
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and backend.has_native_cpu()
        and not torch.compiler.is_compiling()
    )


def _transpose(x: Tensor) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _Transpose.apply(x)  # type: ignore[no-untyped-call]
        return y
    return _transposed_copy(x)


def _transposed_copy(x: Tensor) -> Tensor:
    """A channels_last copy of a contiguous x, or a contiguous copy of a channels_last x."""
    n, c, h, w = x.shape
    if x.is_contiguous():
        last: Tensor = torch.ops.igan_fast.transpose(x.detach().view(n, c, h * w))
        return last.view(n, h, w, c).permute(0, 3, 1, 2)
    first: Tensor = torch.ops.igan_fast.transpose(x.detach().permute(0, 2, 3, 1).view(n, h * w, c))
    return first.view(n, c, h, w)


class _Transpose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return no_view(_transposed_copy(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def register(namespace: str) -> None:
    """Register the fake implementation of the operator, which only the native namespace has."""
    if namespace == backend.NATIVE:
        torch.library.register_fake(f"{namespace}::transpose")(lambda x: x.new_empty(x.mT.shape))


backend.on_load(register)
