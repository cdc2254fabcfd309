"""The kernel of the convolutions, strided and transposed, as a matrix product whose operands are read in place
(implicit GEMM). ``convolution`` launches it.

Both are the same sum: output (i, j) of a phase is Σ over taps (t, u) of input (first + i · step ± t, …) times a tap of
the kernel. A strided convolution has one phase, and its inputs are ``stride`` apart. A transposed one has stride²
phases: the outputs whose row and column have the same remainder. Each phase has every stride-th tap of the kernel, and
its inputs are 1 apart, so that no zero is multiplied. One launch computes all phases.

Tensors are channels_last. The images are divided into parts of the same size. A part is a group of images, because a
group has its own statistics; or a single image of a group, where each image has its own scale and shift (``film``). The
positions (image, i, j) of a phase and a part are divided into tiles of M; a program computes N channels of a tile.

Positions of a phase and a part, and terms of a sum (tap, channel), have int32 numbers, because they are divided, which
is slow in int64. ``convolution_launch`` checks that they fit. This is an exception to the rule for 64-bit indexing
(``common``); offsets have 64 bits here too.
"""

from __future__ import annotations

import triton
import triton.language as tl

from igan_fast.ops.triton.common import INTERPRETED, places, sum_of
from igan_fast.ops.triton.convolution_gradient import before_block, block_gradient, modulated
from igan_fast.ops.triton.convolution_statistics import store_sums_of
from igan_fast.ops.triton.norm_act_forward import leaky_relu

_WIDEN = tl.constexpr(INTERPRETED)  # the interpreter multiplies the bits of bfloat16 numbers as if they were integers


@triton.jit
def add_product(acc, a, b, PRECISION: tl.constexpr):
    """acc + the matrix product of a and b, with the products and sums in acc's dtype."""
    if _WIDEN:
        a, b = a.to(acc.dtype), b.to(acc.dtype)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def activated(v, affine, group, channel, channels, slope, ACC: tl.constexpr, AXIS: tl.constexpr):
    """LeakyReLU((v − mean) · scale + shift) in ACC. The channel is v's dimension 1 if AXIS is 0, and 0 if it is 1.

    affine: (groups, 3, channels), the mean, scale and shift of each group.
    """
    known = channel < channels
    of_group = affine + group * 3 * channels + channel
    mean = tl.expand_dims(tl.load(of_group, mask=known, other=0.0), AXIS)
    scale = tl.expand_dims(tl.load(of_group + channels, mask=known, other=0.0), AXIS)
    shift = tl.expand_dims(tl.load(of_group + channels + channels, mask=known, other=0.0), AXIS)
    z = (v.to(ACC) - mean) * scale + shift
    return leaky_relu(z, z, sum_of(slope, ACC))


@triton.jit
def taps_of(phase, kernel, stride, padding, TRANSPOSED: tl.constexpr):
    """Of one dimension: the first tap of a phase, its number of taps, and the input that the first tap takes for the
    phase's first output."""
    if TRANSPOSED:
        first = (phase + padding) % stride
        count = tl.maximum(kernel - first + stride - 1, 0) // stride
        start = (phase + padding) // stride
    else:
        first = phase * 0
        count = first + kernel
        start = first - padding
    return first.to(tl.int32), count.to(tl.int32), start.to(tl.int32)


@triton.jit
def convolve(
    x,
    weight,
    bias,
    affine,
    film,
    y,
    statistics,
    sizes,
    parts,
    out_sizes,
    kernel,
    strides,
    padding,
    weight_strides,
    tiles,
    input_slope,
    slope,
    signs,
    pixels,
    gradient,
    before,
    distance,
    TRANSPOSED: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """y = LeakyReLU(convolution(x′) + bias), and where ``statistics`` are given the sums of each tile of y.

    x′ is x, or where ``affine`` is given LeakyReLU((x − mean) · scale + shift), with ``film`` multiplied by 1 + γ and
    moved by β, rounded to x's dtype. Where ``signs`` is given, x is the gradient of a LeakyReLU's output, and x′ is the
    gradient of its input, rounded likewise. Where ``gradient`` is given, x is the gradient of a block's LeakyReLU's
    input, and x′ that of its raw map (``block_gradient``). Where ``before`` or ``distance`` is given, the result is the
    gradient of what the block takes, and goes on to the block before (``before_block``).

    Args:
        bias: (C_out,), or None.
        affine: (groups, 3, C_in): mean, scale and shift, or None.
        film: (N, 2 · C_in), γ and β, or None. With it, and with film of ``before``, a part is an image.
        statistics: None, or the sums of y's tiles, as of ``store_sums_of``. A segment is a tile of a phase.
        sizes: (images of a part, height, width, channels) of x.
        parts: of a group.
        out_sizes: (height, width, channels) of y.
        kernel, strides, padding: each (of rows, of columns).
        weight_strides: of the weight's taps, input channels and output channels. The taps of a kernel are numbered row
            by row.
        tiles: in a phase of a part.
        input_slope: of the LeakyReLU of ``affine`` or ``signs``.
        signs: as x, with the signs of the LeakyReLU's input, or None.
        pixels: None; or (rows of a block, columns of a block, colours, rows of the image, columns of the image). y is
            then an image, a position is a block of its pixels, and an output channel is the number of a pixel and a
            colour in the block.
        gradient: None, or (raw, affine, mean_grads, slopes), as of ``block_gradient``; raw is as x.
        before, distance: as of ``before_block``, or None; their maps are as y.
        WHOLE: whether K divides the input channels. A step then takes K channels of one tap; else a step's channels
            may belong to several taps.
    """
    images, height, width, channels = sizes
    out_height, out_width, out_channels = out_sizes
    kernel_rows, kernel_columns = kernel
    stride_y, stride_x = strides
    padding_y, padding_x = padding
    tap_stride, in_stride, out_stride = weight_strides
    phases_y, phases_x = 1, 1
    step_y, step_x = stride_y, stride_x
    if TRANSPOSED:
        phases_y, phases_x = stride_y, stride_x
        step_y, step_x = 1, 1

    block, phase, part_tile = places(tl.cdiv(out_channels, N), phases_y * phases_x)
    part, tile = part_tile // tiles, part_tile % tiles
    group = part // parts
    phase_y, phase_x = phase // phases_x, phase % phases_x
    first_y, taps_y, start_y = taps_of(phase_y, kernel_rows, stride_y, padding_y, TRANSPOSED)
    first_x, taps_x, start_x = taps_of(phase_x, kernel_columns, stride_x, padding_x, TRANSPOSED)

    m = (tile * M).to(tl.int32) + tl.arange(0, M)
    rows, columns = tl.cdiv(out_height, phases_y), tl.cdiv(out_width, phases_x)
    j, i, image = m % columns, m // columns % rows, m // columns // rows
    out_row, out_column = i * phases_y + phase_y.to(tl.int32), j * phases_x + phase_x.to(tl.int32)
    exists = (image < images) & (out_row < out_height) & (out_column < out_width)
    row, column = (i * step_y + start_y)[:, None], (j * step_x + start_x)[:, None]
    base = (((part * images + image)[:, None] * height + row) * width + column) * channels
    out_channel = block * N + tl.arange(0, N)
    out_exists = out_channel < out_channels

    acc = tl.zeros((M, N), dtype=ACC)
    terms = taps_y * taps_x * channels
    for start in range(0, terms, K):
        if WHOLE:
            tap, channel = start // channels, tl.multiple_of(start % channels, K) + tl.arange(0, K)
            at_y, at_x = tap // taps_x, tap % taps_x
            move_y, move_x = at_y, at_x
            there = exists[:, None]
            some = out_exists[None, :]
        else:
            k = start + tl.arange(0, K)
            tap, channel = k // channels, k % channels
            tap_y, tap_x = tap // taps_x, tap % taps_x
            move_y, move_x = tap_y[None, :], tap_x[None, :]
            at_y, at_x = tap_y[:, None], tap_x[:, None]
            there = exists[:, None] & (k < terms)[None, :]
            some = out_exists[None, :] & (k < terms)[:, None]
        if TRANSPOSED:
            move_y, move_x = -move_y, -move_x
            at_y, at_x = first_y + at_y * stride_y, first_x + at_x * stride_x
        there = there & (row + move_y >= 0) & (row + move_y < height)
        there = there & (column + move_x >= 0) & (column + move_x < width)
        moved = (move_y.to(tl.int64) * width + move_x) * channels + channel[None, :]
        a = tl.load(x + base + moved, mask=there, other=0.0)
        if affine is not None:
            a = activated(a, affine, group, channel, channels, input_slope, ACC, 0)
            if film is not None:
                a = modulated(a, film, part, channel, channels, ACC, 0)
            a = tl.where(there, a, 0.0).to(x.dtype.element_ty)  # what is padded is 0 after all that
        if signs is not None:
            sign = tl.load(signs + base + moved, mask=there, other=0.0).to(ACC)
            a = leaky_relu(sign, a.to(ACC), sum_of(input_slope, ACC)).to(x.dtype.element_ty)
        if gradient is not None:
            v = tl.load(gradient[0] + base + moved, mask=there, other=0.0)
            a = block_gradient(a, v, gradient, group, channel, channels, ACC, 0)
            a = tl.where(there, a, 0.0).to(x.dtype.element_ty)
        of_tap = (at_y.to(tl.int64) * kernel_columns + at_x) * tap_stride
        offsets = of_tap + channel.to(tl.int64)[:, None] * in_stride + out_channel[None, :] * out_stride
        b = tl.load(weight + offsets, mask=some, other=0.0)
        acc = add_product(acc, a, b, PRECISION)

    written = exists[:, None] & out_exists[None, :]
    if pixels is None:
        position = ((part * images + image) * out_height + out_row) * out_width + out_column
        offsets = position[:, None] * out_channels + out_channel[None, :]
        bias_channel = out_channel
    else:
        block_rows, block_columns, colours, image_height, image_width = pixels
        pixel, bias_channel = out_channel // colours, out_channel % colours
        first_row, first_column = out_row * block_rows, out_column * block_columns
        pixel_row, pixel_column = pixel // block_columns, pixel % block_columns
        written = written & (pixel_row[None, :] < (image_height - first_row)[:, None])
        written = written & (pixel_column[None, :] < (image_width - first_column)[:, None])
        # A sum of a row and of a column takes fewer registers than an offset of each number.
        of_block = (((part * images + image) * image_height + first_row) * image_width + first_column) * colours
        in_block = (pixel_row * image_width + pixel_column) * colours + bias_channel
        offsets = of_block[:, None] + in_block[None, :]
    if bias is not None:
        acc += tl.load(bias + bias_channel, mask=out_exists, other=0.0).to(ACC)[None, :]
    segment = part_tile * phases_y * phases_x + phase
    if before is None and distance is None:
        result = leaky_relu(acc, acc, sum_of(slope, ACC)).to(y.dtype.element_ty)
    else:
        dtype: tl.constexpr = y.dtype.element_ty
        result = before_block(
            acc, offsets, written, group, part, segment, out_channel, out_channels, before, distance, dtype, ACC
        )
    tl.store(y + offsets, result, mask=written)
    if statistics is not None:
        store_sums_of(result.to(ACC), exists[:, None], statistics, segment, out_channel, out_channels, block == 0)
