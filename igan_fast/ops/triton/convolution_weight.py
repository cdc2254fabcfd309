"""The weight gradient of a convolution in Triton.

A convolution takes its larger side (N, H, W, B) to its smaller one (N, h, w, A), where a step in the smaller one is
``stride`` in the larger one; a transposed convolution goes the other way. For both, the gradient of the weight is
Σ over the smaller side's positions of small[position, a] · large[position · stride − padding + tap, b]. It is a matrix
product of A rows and (tap, b) columns. Its sum is divided into segments, which other programs compute (split-K), and
then added up in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from igan_fast.ops.triton.common import grid, on_device, operator, places, program, two_floats
from igan_fast.ops.triton.convolution_forward import activated, add_product
from igan_fast.ops.triton.convolution_gradient import block_gradient, image_of, modulated, position_of
from igan_fast.ops.triton.convolution_launch import (
    FEW_COLUMNS,
    by_fastest_tile,
    channels_last,
    check_numbers,
    film_operand,
    gradient_operand,
    groups_of,
    new,
    options_of,
    padded_positions,
    steps_of_images,
    with_registers,
)
from igan_fast.reference.ops import accumulation_dtype

_PROGRAMS = 512  # wanted number of programs: several for each multiprocessor
_NEIGHBOURS = 16  # Triton sees that numbers are neighbours in memory where this divides the channels
_BLOCK = 1024  # elements of a program that adds up segments


@triton.jit
def weight_gradient(
    small,
    large,
    affine,
    film,
    gradient,
    partial,
    sizes,
    large_sizes,
    kernel_columns,
    strides,
    padding,
    columns,
    padded,
    segments,
    steps,
    slope,
    X: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """partial (groups · segments, A, columns) = the sums of the segments: ``steps`` times K positions each.

    Args:
        affine: None; or (groups, 3, channels) with mean, scale and shift. For the side that is the convolution's input,
            LeakyReLU((v − mean) · scale + shift) is then taken, rounded to v's dtype.
        film: (N, 2 · channels), γ and β of each image, or None: that is multiplied by 1 + γ and moved by β first.
        gradient: None; or (raw, affine, mean_grads, slopes), as of ``block_gradient``. The other side is then the
            gradient of a block's LeakyReLU's input, and that of its raw map is taken, rounded likewise.
        sizes: (images of a group, h, w, A) of the smaller side.
        large_sizes: (H, W, B).
        columns: taps · B.
        padded: with film, the smaller side's positions in an image, rounded up to whole steps (``position_of``).
        segments: of a group.
        X: the side that is the convolution's input, "small" or "large".
    """
    images, height, width, channels = sizes
    large_height, large_width, large_channels = large_sizes
    stride_y, stride_x = strides
    padding_y, padding_x = padding
    block_m, block_n, segment = places(tl.cdiv(channels, M), tl.cdiv(columns, N))
    group = segment // segments
    first = (segment % segments * steps * K).to(tl.int32)
    channel = block_m * M + tl.arange(0, M)
    column = (block_n * N).to(tl.int32) + tl.arange(0, N)
    large_channel, tap = column % large_channels, column // large_channels
    tap_y, tap_x = (tap // kernel_columns)[None, :] - padding_y, (tap % kernel_columns)[None, :] - padding_x
    in_columns = (column < columns)[None, :]
    in_channels = (channel < channels)[:, None]

    acc = tl.zeros((M, N), dtype=ACC)
    for start in range(first, first + steps * K, K):
        j, i, image, exists = position_of(start, images, height, width, film, padded, K)
        position = ((group * images + image) * height + i) * width + j
        a_exists = in_channels & exists[None, :]
        at_a = position[None, :] * channels + channel[:, None]
        a = tl.load(small + at_a, mask=a_exists, other=0.0)
        row, place = i[:, None] * stride_y + tap_y, j[:, None] * stride_x + tap_x
        inside = (row >= 0) & (row < large_height) & (place >= 0) & (place < large_width)
        b_exists = exists[:, None] & in_columns & inside
        in_image = ((group * images + image)[:, None] * large_height + row) * large_width + place
        at_b = in_image * large_channels + large_channel[None, :]
        b = tl.load(large + at_b, mask=b_exists, other=0.0)
        if affine is not None:
            if X == "small":
                a = activated(a, affine, group, channel, channels, slope, ACC, 1)
                if film is not None:
                    a = modulated(a, film, image_of(start, images, group, padded), channel, channels, ACC, 1)
            else:
                b = activated(b, affine, group, large_channel, large_channels, slope, ACC, 0)
                if film is not None:
                    b = modulated(
                        b, film, image_of(start, images, group, padded), large_channel, large_channels, ACC, 0
                    )
        if gradient is not None:
            if X == "small":
                v = tl.load(gradient[0] + at_b, mask=b_exists, other=0.0)
                b = block_gradient(b, v, gradient, group, large_channel, large_channels, ACC, 0)
            else:
                v = tl.load(gradient[0] + at_a, mask=a_exists, other=0.0)
                a = block_gradient(a, v, gradient, group, channel, channels, ACC, 1)
        if affine is not None or gradient is not None:
            a = tl.where(a_exists, a, 0.0).to(small.dtype.element_ty)
            b = tl.where(b_exists, b, 0.0).to(large.dtype.element_ty)
        acc = add_product(acc, a, b, PRECISION)
    offsets = (segment * channels + channel)[:, None] * columns + column[None, :]
    tl.store(partial + offsets, acc, mask=in_channels & in_columns)


@triton.jit
def add_segments(partial, out, numel, segments, BLOCK: tl.constexpr):
    """out (numel,) = the sum of partial (segments, numel), in float64 and in order."""
    at = program() * BLOCK + tl.arange(0, BLOCK)
    exists = at < numel
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    source = partial + at
    for _segment in range(segments):
        total += tl.load(source, mask=exists, other=0.0).to(tl.float64)
        source += numel
    rounded = total.to(partial.dtype.element_ty)  # a conversion from float64 to bfloat16 is not correct everywhere
    tl.store(out + at, rounded.to(out.dtype.element_ty), mask=exists)


@operator(
    "convolution_weight_gradient(Tensor grad, Tensor x, SymInt[] kernel, SymInt[] stride, SymInt[] padding, "
    "bool transposed, Tensor? affine=None, float input_slope=1.0, Tensor? raw=None, Tensor? raw_affine=None, "
    "Tensor? terms=None, Tensor? film=None) -> Tensor"
)
def convolution_weight_gradient(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    transposed: bool,
    affine: Tensor | None = None,
    input_slope: float = 1.0,
    raw: Tensor | None = None,
    raw_affine: Tensor | None = None,
    terms: Tensor | None = None,
    film: Tensor | None = None,
) -> Tensor:
    """The gradient of the weight of ``convolution(x, …)``, in the weight's shape and channels_last.

    Args:
        grad: (N, C_out, *size), the gradient of the output without LeakyReLU; of x's dtype.
        kernel: height and width of the weight.
        raw, raw_affine, terms: as of ``convolution_block_gradient``, of the output; or None.

    The other arguments are those of ``convolution``.
    """
    if grad.dim() != 4 or x.dim() != 4 or grad.dtype != x.dtype or grad.shape[0] != x.shape[0]:
        raise ValueError(
            f"found grad {tuple(grad.shape)} in {grad.dtype} and x {tuple(x.shape)} in {x.dtype}; expected 4 "
            "dimensions, one dtype and the same number of images"
        )
    small, large = (channels_last(t) for t in ((x, grad) if transposed else (grad, x)))
    gradient = gradient_operand(grad, raw, raw_affine, terms)
    images, channels, height, width = small.shape
    large_channels = large.shape[1]
    groups = groups_of(x, affine, raw_affine)
    columns = math.prod(kernel) * large_channels
    film = film_operand(film, x)

    def adapted(options: dict[str, Any]) -> dict[str, Any]:
        if gradient is not None:
            options = with_registers(options, FEW_COLUMNS)
        elif affine is not None or channels % _NEIGHBOURS or large_channels % _NEIGHBOURS:
            options = with_registers(options, options["N"])
        return steps_of_images(options, height * width, film)

    def compute(options: dict[str, Any]) -> Tensor:
        padded = padded_positions(options, height * width, film)
        positions = images // groups * (height * width if film is None else padded)
        check_numbers(positions=positions, columns=columns)
        steps = triton.cdiv(positions, options["K"])
        parts = triton.cdiv(channels, options["M"]) * triton.cdiv(columns, options["N"])
        per_segment = triton.cdiv(steps, min(steps, triton.cdiv(_PROGRAMS, parts * groups)))
        segments = triton.cdiv(steps, per_segment)
        out = new(x, channels, large_channels, *kernel)
        partial = x.new_empty((groups * segments, channels, columns), dtype=accumulation_dtype(x))
        weight_gradient[grid(parts * segments * groups)](
            small,
            large,
            affine,
            film,
            gradient,
            partial,
            (images // groups, height, width, channels),
            (*large.shape[2:], large_channels),
            kernel[1],
            tuple(stride),
            tuple(padding),
            columns,
            padded,
            segments,
            per_segment,
            two_floats(input_slope),
            X="small" if transposed else "large",
            **options,
        )
        add_segments[grid(triton.cdiv(out.numel(), _BLOCK))](
            partial, out, out.numel(), groups * segments, BLOCK=_BLOCK, num_warps=4
        )
        return out

    geometry = *kernel, *stride, *padding, transposed
    with_what = [each is not None for each in (affine, film, gradient)]
    kind = ["weight gradient", *small.shape, *large.shape, x.dtype, *geometry, groups, *with_what]
    with on_device(x):
        return by_fastest_tile(compute, options_of(x, columns), adapted, x.device, *kind)
