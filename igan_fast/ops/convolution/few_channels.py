"""Strided convolutions from or to few channels as dense convolutions of stride 1, on a GPU.

A GPU's matrix units need eight channels or more; with the three colours of an image, most of their work is zeros. A
convolution of stride s reads blocks of s × s pixels. If a block's pixels are its channels (space to depth; Shi et al.
2016, arXiv 1609.07009), it is a convolution of stride 1 with s² times the channels and about 1 / s² of the taps: the
same sums. The 5×5 convolution of stride 2 on three channels becomes a 3×3 convolution on 2 · 2 · 4 channels. The fourth
channel of a pixel is 1, and its weights hold the bias, so that the bias needs no pass of its own. Transposed
convolutions are the same with input and output exchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops.convolution.plan import Convolve, Implementation, InputGradient, Problem, WeightGradient
from igan_fast.ops.convolution.pytorch import activate_, gradients
from igan_fast.ops.convolution.settings import ConvSettings, InputSpec

__all__ = ["MAX_CHANNELS", "MIN_VALUES", "FewChannels"]

#: The number of channels from which on the matrix units are busy without this.
MAX_CHANNELS = 4

#: Values of the side with many channels from which on the additional kernel launches pay, without CUDA graphs too.
MIN_VALUES = 1 << 23

_HALF = (torch.float16, torch.bfloat16)


class _Blocks(NamedTuple):
    """A kernel of size K as taps of blocks: tap k is pixel p of block t, for k + before = stride · t + p.

    Attributes:
        stride: the side of a block.
        taps: the number of blocks that the kernel covers in each direction, an odd number; the middle one is block 0.
        before, after: zeros to be added to the kernel at either end, so that it covers whole blocks.
        channels: of the image.
        extra: channels to be added, so that a block has a multiple of eight numbers.
    """

    stride: int
    taps: int
    before: int
    after: int
    channels: int
    extra: int


class FewChannels(Implementation):
    """Convolutions with a stride from at most ``MAX_CHANNELS`` channels, and transposed ones to so few.

    They are taken in half types on CUDA devices. The image with few channels has to be ``stride`` times as large as the
    other side.
    """

    name = "few channels"
    purpose = f"a large strided convolution from or to at most {MAX_CHANNELS} channels, as a dense one, in half types"
    devices = ("cuda",)
    composite = True

    def convolve(self, problem: Problem) -> Convolve | None:
        blocks = _blocks_of(problem)
        if blocks is None:
            return None
        compute = _to_image if problem.settings.transposed else _from_image

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float) -> Tensor:
            return activate_(compute(x, weight, bias, blocks), negative_slope)

        return run

    def input_gradient(self, problem: Problem) -> InputGradient | None:
        blocks = _blocks_of(problem)
        if blocks is None:
            return None
        compute = _from_image if problem.settings.transposed else _to_image

        def run(grad: Tensor, weight: Tensor, input_spec: InputSpec) -> Tensor:
            dx = compute(grad, weight, None, blocks)
            return dx.contiguous() if input_spec.contiguous else dx

        return run

    def weight_gradient(self, problem: Problem) -> WeightGradient | None:
        blocks = _blocks_of(problem)
        if blocks is None:
            return None
        transposed, shape = problem.settings.transposed, problem.weight_shape

        def run(grad: Tensor, x: Tensor) -> Tensor:
            image, features = (grad, x) if transposed else (x, grad)
            return _weight_gradient(image, features, shape, blocks)

        return run


def _blocks_of(problem: Problem) -> _Blocks | None:
    """The blocks of a problem; None if this implementation does not support it, or is not faster."""
    settings, weight_shape = problem.settings, problem.weight_shape
    if not (
        problem.device == "cuda"
        and problem.input_dtype in _HALF
        and len(problem.input_shape) == len(weight_shape) == 4
        and weight_shape[1] <= MAX_CHANNELS < weight_shape[0]
        and weight_shape[2] == weight_shape[3]
        and settings.groups == 1
        and settings.dilation == [1, 1]
        and settings.stride[0] == settings.stride[1] > 1
        and settings.padding[0] == settings.padding[1]
    ):
        return None
    kernel, stride, padding = weight_shape[2], settings.stride[0], settings.padding[0]
    output_size = settings.output_size(problem.input_shape, weight_shape)
    small, large = (
        (problem.input_shape[2:], output_size) if settings.transposed else (output_size, problem.input_shape[2:])
    )
    if any(stride * s != n for s, n in zip(small, large, strict=True)):
        return None
    if problem.input_shape[0] * weight_shape[0] * small[0] * small[1] < MIN_VALUES:
        return None
    # In one dimension, output i reads pixels stride · i + k − padding: of blocks i − reach to i + reach.
    reach = max(-(-padding // stride), (kernel - 1 - padding) // stride)
    taps, before, channels = 2 * reach + 1, stride * reach - padding, weight_shape[1]
    extra = next(extra for extra in range(8) if (channels + extra) * stride * stride % 8 == 0)
    return _Blocks(stride, taps, before, stride * taps - kernel - before, channels, extra)


def _from_image(x: Tensor, weight: Tensor, bias: Tensor | None, blocks: _Blocks) -> Tensor:
    """The convolution of x (N, C, s · H, s · W) with weight (C', C, K, K): (N, C', H, W)."""
    in_weight, added = (bias, None) if blocks.extra else (None, bias)
    return F.conv2d(_to_blocks(x, blocks), _block_weight(weight, in_weight, blocks), added, padding=blocks.taps // 2)


def _to_image(x: Tensor, weight: Tensor, bias: Tensor | None, blocks: _Blocks) -> Tensor:
    """The transposed convolution of x (N, C', H, W) with weight (C', C, K, K): (N, C, s · H, s · W), channels_last."""
    # A convolution uses the taps in the reverse order of a transposed convolution.
    kernels = _block_weight(weight, None, blocks).transpose(0, 1).flip(2, 3)
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    if bias is not None:
        bias = F.pad(bias, (0, blocks.extra)).repeat(blocks.stride * blocks.stride)
    return _from_blocks(F.conv2d(x, kernels, bias, padding=blocks.taps // 2), blocks)


def _weight_gradient(image: Tensor, features: Tensor, shape: torch.Size, blocks: _Blocks) -> Tensor:
    """The gradient of the weight (C', C, K, K) of ``_from_image``, where ``features`` is the gradient of its result."""
    stride, taps, before, _, channels, extra = blocks
    x = _to_blocks(image, blocks)
    of_blocks = torch.empty(
        (shape[0], x.shape[1], taps, taps), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    settings = ConvSettings.cached(2, padding=taps // 2)
    _, gradient = gradients(features, x, of_blocks, settings, InputSpec.of(x), False, True)
    assert gradient is not None
    by_pixel = gradient.reshape(shape[0], stride, stride, channels + extra, taps, taps).permute(0, 3, 4, 1, 5, 2)
    whole = by_pixel.reshape(shape[0], channels + extra, taps * stride, taps * stride)
    kernel = slice(before, before + shape[2])
    return whole[:, :channels, kernel, kernel].contiguous()


def _to_blocks(x: Tensor, blocks: _Blocks) -> Tensor:
    """An image (N, C, s · H, s · W) as (N, s · s · (C + extra), H, W), channels_last: a block's rows, columns, colours.

    The extra channels are 1.
    """
    n, _, height, width = x.shape
    s, channels = blocks.stride, blocks.channels + blocks.extra
    pixels = F.pad(x.permute(0, 2, 3, 1), (0, blocks.extra), value=1.0)
    rows = pixels.reshape(n, height // s, s, width // s, s * channels).transpose(2, 3)
    return rows.reshape(n, height // s, width // s, s * s * channels).permute(0, 3, 1, 2)


def _from_blocks(x: Tensor, blocks: _Blocks) -> Tensor:
    """The image (N, C, s · H, s · W), channels_last, of ``_to_blocks``' result."""
    n, _, height, width = x.shape
    s, channels = blocks.stride, blocks.channels
    pixels = x.permute(0, 2, 3, 1).reshape(n, height, width, s, s, channels + blocks.extra)[..., :channels]
    return pixels.transpose(2, 3).reshape(n, height * s, width * s, channels).permute(0, 3, 1, 2)


def _block_weight(weight: Tensor, bias: Tensor | None, blocks: _Blocks) -> Tensor:
    """A weight (C', C, K, K) as (C', s · s · (C + extra), taps, taps), channels_last.

    The weights of the extra channels are 0, except for the bias (C',) at the first pixel of the block in the middle.
    """
    stride, taps, before, after, channels, extra = blocks
    padded = F.pad(weight, (before, after, before, after, 0, extra if bias is None else extra - 1))
    if bias is not None:
        middle, side = stride * (taps // 2), stride * taps
        ends = (middle, side - middle - 1)
        padded = torch.cat([padded, F.pad(bias.reshape(-1, 1, 1, 1), (*ends, *ends))], 1)
    split = padded.reshape(weight.shape[0], channels + extra, taps, stride, taps, stride)
    merged = split.permute(0, 2, 4, 3, 5, 1).reshape(weight.shape[0], taps, taps, -1)
    return merged.permute(0, 3, 1, 2)
