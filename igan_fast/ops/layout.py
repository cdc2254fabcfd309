"""From one memory layout of images to the other. On a CPU PyTorch's own copy takes three to four times as long."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend

__all__ = ["channels_first", "channels_last", "dense", "like", "no_view"]

#: Channels, and pixels, from which on squares of them are turned in registers.
MIN_SIDE = 4

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(x: Tensor) -> Tensor:
    """``x.contiguous(memory_format=torch.channels_last)`` of images (N, C, H, W), and autograd's."""
    if x.is_contiguous() and _can_turn(x):
        return _turn(x)
    return x.contiguous(memory_format=torch.channels_last)


def channels_first(x: Tensor) -> Tensor:
    """``x.contiguous()`` of images (N, C, H, W), and autograd's."""
    if not x.is_contiguous() and _can_turn(x) and x.is_contiguous(memory_format=torch.channels_last):
        return _turn(x)
    return x.contiguous()


def no_view(x: Tensor) -> Tensor:
    """x, which is a view, as a tensor of its own on the same memory: autograd allows nobody to write into a view that a
    node returns."""
    return x.new_empty(0).set_(x)  # type: ignore[call-overload, no-any-return]


def dense(x: Tensor) -> Tensor:
    """x as the kernels take it: contiguous or with channels last in memory; copied where it is neither."""
    if x.is_contiguous() or _is_channels_last(x):
        return x
    return x.contiguous()


def like(grad: Tensor, x: Tensor) -> Tensor:
    """A gradient in the memory layout of the dense x."""
    if x.is_contiguous():
        return channels_first(grad) if x.dim() == 4 else grad.contiguous()
    if x.dim() == 4:
        return channels_last(grad)
    if x.dim() in _CHANNELS_LAST:
        return grad.contiguous(memory_format=_CHANNELS_LAST[x.dim()])
    return grad.movedim(1, -1).contiguous().movedim(-1, 1)


def _is_channels_last(x: Tensor) -> bool:
    if x.dim() in _CHANNELS_LAST:
        return x.is_contiguous(memory_format=_CHANNELS_LAST[x.dim()])
    return x.dim() > 2 and x.movedim(1, -1).is_contiguous()


def _can_turn(x: Tensor) -> bool:
    return (
        x.dim() == 4
        and min(x.shape[1], x.shape[2] * x.shape[3]) >= MIN_SIDE  # so that it cannot be both at once
        and x.shape[0] > 0
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and backend.has_native_cpu()
        and not torch.compiler.is_compiling()
        and not backend.plain_only(x)
    )


def _turn(x: Tensor) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _Turn.apply(x)  # type: ignore[no-untyped-call]
        return y
    return _turned(x)


def _turned(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    if x.is_contiguous():
        last: Tensor = torch.ops.igan_fast.transpose(x.detach().view(n, c, h * w))
        return last.view(n, h, w, c).permute(0, 3, 1, 2)
    first: Tensor = torch.ops.igan_fast.transpose(x.detach().permute(0, 2, 3, 1).view(n, h * w, c))
    return first.view(n, c, h, w)


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return no_view(_turned(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def register(namespace: str) -> None:
    """Shapes without data, where the operator is there at all: on the CPU."""
    if namespace == backend.NATIVE:
        torch.library.register_fake(f"{namespace}::transpose")(lambda x: x.new_empty(x.mT.shape))


backend.on_load(register)
