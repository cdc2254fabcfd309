"""The model's own convolution (5×5, stride 2, padding 2; Sec. 4) with half the multiplications, on a CPU in float32.

Winograd's minimal filtering, see csrc/cpu/strided_conv.inl. Libraries have it for 3×3 and stride 1 only. ``applies``
tells where it can be used and pays; elsewhere PyTorch's own convolution is as good.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend

__all__ = ["applies", "convolve", "filters_kept", "input_gradient", "weight_gradient"]

_PLAIN = (Tensor, torch.nn.Parameter)

#: Channels on either side from which on the products are worth the transforms around them.
MIN_CHANNELS = 16

#: Tiles of 4×4 in a batch from which on they are faster than those of 2×2.
MIN_TILES = 96

#: Tiles of 2×2 from which on the products that are saved outweigh the making of the filter.
FEWEST_TILES = 48


class _Kept:
    """Prepared filters, each until it has been used a number of times."""

    def __init__(self, uses: int) -> None:
        self.uses = uses
        # By the weights' id, direction and tile; with the weights, so that ids stay theirs, and the uses that are left.
        self.filters: dict[tuple[int, bool, int], tuple[Tensor, Tensor, int]] = {}

    def of(self, conv_weight: Tensor, transposed: bool, tile: int) -> Tensor:
        if self.uses == 1:
            return _make_filter(conv_weight, transposed, tile)
        key = (id(conv_weight), transposed, tile)
        if key not in self.filters:
            self.filters[key] = (conv_weight, _make_filter(conv_weight, transposed, tile), self.uses)
        weight, filter, left = self.filters.pop(key)
        if left > 1:
            self.filters[key] = (weight, filter, left - 1)
        return filter


class _OfThread(threading.local):
    """Each thread's own; the backward pass of what is on a CPU runs in the thread that asks for it."""

    kept = _Kept(1)


_of_thread = _OfThread()


def applies(
    x: Tensor, conv_weight: Tensor, *, transposed: bool, stride: int, padding: int, output_padding: int
) -> bool:
    """Whether the functions below can take this convolution of x (N, C, H, W), and are faster than PyTorch's.

    Where they do, height and width halve, or double where ``transposed``.
    """
    return (
        x.device.type == "cpu"
        and type(x) in _PLAIN  # a filter's size is known to the kernels alone, not to tensors without data
        and type(conv_weight) in _PLAIN
        and backend.has_native_cpu()
        and x.dtype == conv_weight.dtype == torch.float32
        and conv_weight.shape[2:] == (5, 5)
        and min(conv_weight.shape[:2]) >= MIN_CHANNELS
        and (stride, padding, output_padding) == (2, 2, int(transposed))
        and (transposed or (x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0))
        and _tiles(x if transposed else x[:, :, ::2, ::2], 2) >= FEWEST_TILES
        and not torch.compiler.is_compiling()
    )


def convolve(
    x: Tensor, conv_weight: Tensor, *, transposed: bool, bias: Tensor | None = None, negative_slope: float = 1.0
) -> Tensor:
    """LeakyReLU(``F.conv2d(x, conv_weight, bias, 2, 2)``), or of ``F.conv_transpose2d(…, output_padding=1)``.

    Outside of autograd's sight. conv_weight is (C_out, C_in, 5, 5), or (C_in, C_out, 5, 5) where ``transposed``; the
    result has its channels last in memory.
    """
    channels = conv_weight.shape[1 if transposed else 0]
    tile = _tile(x if transposed else x[:, :, ::2, ::2])
    filter = _of_thread.kept.of(conv_weight, transposed, tile)
    y: Tensor = torch.ops.igan_fast.strided_conv(_last(x), filter, channels, bias, negative_slope, transposed, tile)
    return y.permute(0, 3, 1, 2)


def input_gradient(grad: Tensor, conv_weight: Tensor, *, transposed: bool) -> Tensor:
    """The gradient of the convolution's input: its transpose, or the convolution that it is the transpose of."""
    return convolve(grad, conv_weight, transposed=not transposed)


def weight_gradient(grad: Tensor, x: Tensor, *, transposed: bool) -> Tensor:
    """The gradient of the convolution's weights, contiguous."""
    large, small = (grad, x) if transposed else (x, grad)
    gradient: Tensor = torch.ops.igan_fast.strided_conv_weight_gradient(_last(large), _last(small), _tile(small))
    return gradient


@contextmanager
def filters_kept(uses: int) -> Iterator[None]:
    """Inside the block keep each prepared filter until it was used so many times: for code that uses the same weights
    again, and knows how often.

    The weights must not change inside: nothing would tell, since fused optimisers leave a tensor's version as it was.
    """
    outer, _of_thread.kept = _of_thread.kept, _Kept(uses)
    try:
        yield
    finally:
        _of_thread.kept = outer


def _tile(small: Tensor) -> int:
    """4 saves more products, where its tiles fit the small image and are many beside the planes of its filter."""
    fits = small.shape[2] % 4 == 0 and small.shape[3] % 4 == 0
    return 4 if fits and _tiles(small, 4) >= MIN_TILES else 2


def _tiles(small: Tensor, tile: int) -> int:
    batch, _, height, width = small.shape
    return batch * ((height + tile - 1) // tile) * ((width + tile - 1) // tile)


def _make_filter(conv_weight: Tensor, transposed: bool, tile: int) -> Tensor:
    filter: Tensor = torch.ops.igan_fast.strided_conv_filter(conv_weight.detach(), transposed, tile)
    return filter


def _last(image: Tensor) -> Tensor:
    """(N, H, W, C), contiguous; a view where the channels are last in memory."""
    return image.detach().permute(0, 2, 3, 1).contiguous()


def register(namespace: str) -> None:
    """Shapes without data, where the operators are there at all: on the CPU."""
    if namespace != backend.NATIVE:
        return

    def convolved(
        x: Tensor, filter: Tensor, channels: int, bias: Any, negative_slope: float, transposed: bool, tile: int
    ) -> Tensor:
        height, width = (2 * size if transposed else size // 2 for size in x.shape[1:3])
        return x.new_empty((x.shape[0], height, width, channels))

    def gradient(large: Tensor, small: Tensor, tile: int) -> Tensor:
        return large.new_empty((small.shape[3], large.shape[3], 5, 5))

    torch.library.register_fake(f"{namespace}::strided_conv")(convolved)
    torch.library.register_fake(f"{namespace}::strided_conv_weight_gradient")(gradient)


backend.on_load(register)
