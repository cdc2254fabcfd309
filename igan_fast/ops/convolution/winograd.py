"""Convolution, its transpose and its weight gradient by Winograd's minimal filtering, on a CPU in float32.

It multiplies 1.4 to 4 times less often, see csrc/cpu/winograd_conv.inl (Lavin and Gray, arXiv 1509.09308, for 3×3 and
stride 1, where libraries have it, if at all). It is here for the filters of ``FILTERS``, any padding and any size.
``applies`` tells where it can be used and pays; elsewhere PyTorch's own convolution is as good.

With the tiles of 2 that few values take a result is about 3e-7 away from float64, relative to the largest value, with
those of 4 about 2e-6 (the weights' gradient at most 1.4e-6 and 4e-6); plain float32 is about 3e-7 away. A NaN or Inf
spreads as far as the tiles that meet it: a few places further than in the direct sum, and never to another image.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.layout import channels_last, no_view

__all__ = ["FILTERS", "applies", "convolve", "filters_kept", "input_gradient", "weight_gradient"]

#: Kernel size and stride of the filters that there are.
FILTERS = ((5, 2), (4, 2), (3, 1), (3, 2))

#: Channels on either side from which on the products are worth the transforms around them.
MIN_CHANNELS = 16

#: What the making and the reading of a filter cost, in tiles of products (measured).
FILTER_TILES = 25

#: What a multiplication of PyTorch's own convolution costs in those here, where they are few (measured).
DIRECT_COST = 1.3


class _Kept:
    """Prepared filters, each until it has been used a number of times."""

    def __init__(self, uses: int) -> None:
        self.uses = uses
        # By the weights' id, stride, direction and tile; with the weights, so that ids stay theirs, and the uses left.
        self.filters: dict[tuple[int, int, bool, int], tuple[Tensor, Tensor, int]] = {}

    def of(self, conv_weight: Tensor, stride: int, transposed: bool, tile: int) -> Tensor:
        if self.uses == 1:
            return _make_filter(conv_weight, stride, transposed, tile)
        key = (id(conv_weight), stride, transposed, tile)
        if key not in self.filters:
            self.filters[key] = (conv_weight, _make_filter(conv_weight, stride, transposed, tile), self.uses)
        weight, filter, left = self.filters.pop(key)
        if left > 1:
            self.filters[key] = (weight, filter, left - 1)
        return filter


class _OfThread(threading.local):
    """Each thread's own; the backward pass of what is on a CPU runs in the thread that asks for it."""

    kept = _Kept(1)


_of_thread = _OfThread()


def applies(
    x: Tensor,
    conv_weight: Tensor,
    *,
    transposed: bool,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int] = 0,
) -> bool:
    """Whether the functions below can take this convolution of x (N, C, H, W), and are faster than PyTorch's.

    Weights of several groups never fit: x has more channels than they take.
    """
    if torch.compiler.is_compiling() or backend.plain_only(x, conv_weight):
        return False  # a filter's size is known to the kernels alone, not to tensors without data
    stride, padding = _same(stride), _same(padding)
    if not (
        x.device.type == "cpu"
        and backend.has_native_cpu()
        and x.dtype == conv_weight.dtype == torch.float32
        and x.dim() == conv_weight.dim() == 4
        and conv_weight.shape[2] == conv_weight.shape[3]
        and (conv_weight.shape[2], stride) in FILTERS
        and 0 <= padding < conv_weight.shape[2]
        and x.shape[1] == conv_weight.shape[0 if transposed else 1]
    ):
        return False
    extra = _pair(output_padding)
    if min(conv_weight.shape[:2]) < MIN_CHANNELS or not all(0 <= e < (stride if transposed else 1) for e in extra):
        return False
    kernel = conv_weight.shape[2]
    size = _size(x, kernel, transposed, stride, padding, extra)
    small = x.shape[2:] if transposed else size
    return min(x.shape) > 0 and min(size) > 0 and _pays(x.shape[0], small, kernel, stride)


def convolve(
    x: Tensor,
    conv_weight: Tensor,
    *,
    transposed: bool,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int] = 0,
    bias: Tensor | None = None,
    negative_slope: float = 1.0,
) -> Tensor:
    """LeakyReLU(``F.conv2d(x, conv_weight, bias, stride, padding)``), or of ``F.conv_transpose2d``.

    Outside of autograd's sight. conv_weight is (C_out, C_in, K, K), or (C_in, C_out, K, K) where ``transposed``; the
    result has its channels last in memory.
    """
    stride, padding = _same(stride), _same(padding)
    size = _size(x, conv_weight.shape[2], transposed, stride, padding, _pair(output_padding))
    return _convolve(x, conv_weight, size, transposed, stride, padding, bias, negative_slope)


def input_gradient(
    grad: Tensor,
    conv_weight: Tensor,
    size: Sequence[int],
    *,
    transposed: bool,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
) -> Tensor:
    """The gradient of the convolution's input of height and width ``size``: the transpose, or what it is that of."""
    return _convolve(grad, conv_weight, size, not transposed, _same(stride), _same(padding), None, 1.0)


def weight_gradient(
    grad: Tensor,
    x: Tensor,
    kernel: int,
    *,
    transposed: bool,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
) -> Tensor:
    """The gradient of the convolution's weights (…, kernel, kernel), contiguous."""
    stride = _same(stride)
    large, small = (grad, x) if transposed else (x, grad)
    tile = _tile(small.shape[0], small.shape[2:], kernel, stride)
    gradient: Tensor = torch.ops.igan_fast.winograd_conv_weight_gradient(
        _last(large), _last(small), kernel, stride, _same(padding), tile
    )
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


def _convolve(
    x: Tensor,
    conv_weight: Tensor,
    size: Sequence[int],
    transposed: bool,
    stride: int,
    padding: int,
    bias: Tensor | None,
    negative_slope: float,
) -> Tensor:
    kernel, channels = conv_weight.shape[2], conv_weight.shape[1 if transposed else 0]
    # A tile of the transposed convolution is `stride` times as wide.
    small = [-(-side // stride) for side in size] if transposed else size
    tile = _tile(x.shape[0], small, kernel, stride)
    filter = _of_thread.kept.of(conv_weight, stride, transposed, tile)
    y: Tensor = torch.ops.igan_fast.winograd_conv(
        _last(x), filter, size, channels, kernel, stride, padding, bias, negative_slope, transposed, tile
    )
    return no_view(y.permute(0, 3, 1, 2))


def _size(
    x: Tensor, kernel: int, transposed: bool, stride: int, padding: int, output_padding: tuple[int, int]
) -> tuple[int, int]:
    """Height and width of the (transposed) convolution of x."""
    height, width = (
        (size - 1) * stride - 2 * padding + kernel + extra
        if transposed
        else (size + 2 * padding - kernel) // stride + 1
        for size, extra in zip(x.shape[2:], output_padding, strict=True)
    )
    return height, width


def _cost(batch: int, small: Sequence[int], kernel: int, stride: int, tile: int) -> int:
    """Of a convolution to a small image, in multiplications for each pair of channels."""
    tiles = batch * -(-small[0] // tile) * -(-small[1] // tile)
    products: int = (stride * (tile - 1) + kernel) ** 2
    return products * (tiles + FILTER_TILES)


def _tile(batch: int, small: Sequence[int], kernel: int, stride: int) -> int:
    """4 saves more products, where its tiles fit the small image and are many beside the planes of its filter."""
    return min((2, 4), key=lambda tile: _cost(batch, small, kernel, stride, tile))


def _pays(batch: int, small: Sequence[int], kernel: int, stride: int) -> bool:
    direct = DIRECT_COST * kernel**2 * batch * small[0] * small[1]
    return _cost(batch, small, kernel, stride, _tile(batch, small, kernel, stride)) < direct


def _make_filter(conv_weight: Tensor, stride: int, transposed: bool, tile: int) -> Tensor:
    filter: Tensor = torch.ops.igan_fast.winograd_filter(conv_weight.detach(), stride, transposed, tile)
    return filter


def _last(image: Tensor) -> Tensor:
    """(N, H, W, C), contiguous; a view where the channels are last in memory."""
    return channels_last(image.detach()).permute(0, 2, 3, 1)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


def _same(value: int | Sequence[int]) -> int:
    """The one value for both directions; −1, which no filter has, where they differ."""
    height, width = _pair(value)
    return height if height == width else -1


def register(namespace: str) -> None:
    """Shapes without data, where the operators are there at all: on the CPU."""
    if namespace != backend.NATIVE:
        return

    def convolved(x: Tensor, filter: Tensor, size: Sequence[int], channels: int, *_: Any) -> Tensor:
        return x.new_empty((x.shape[0], *size, channels))

    def gradient(large: Tensor, small: Tensor, kernel: int, stride: int, padding: int, tile: int) -> Tensor:
        return large.new_empty((small.shape[3], large.shape[3], kernel, kernel))

    torch.library.register_fake(f"{namespace}::winograd_conv")(convolved)
    torch.library.register_fake(f"{namespace}::winograd_conv_weight_gradient")(gradient)


backend.on_load(register)
