"""Kernels of convolutions from and to an image, which has too few channels (colours) for a step of a matrix product.

The numbers under one row of a convolution's kernel are neighbours in an image that is channels_last: for 5×5 taps and
three colours, 15 numbers in each of 5 rows. So a step takes the numbers of one row, which are loaded together, and not
those of one tap. They are filled up with zeros to ROW, a power of 2.

``convolution_image`` and ``convolution_image_weight`` launch the kernels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from igan_fast.ops.triton.common import places, program, sum_of
from igan_fast.ops.triton.convolution_forward import activated, add_product
from igan_fast.ops.triton.convolution_gradient import before_block, image_of, modulated, position_of
from igan_fast.ops.triton.norm_act_forward import leaky_relu


@triton.jit
def load_row(image, number, i, j, exists, row, term, sizes, GEOMETRY: tl.constexpr):
    """The numbers ``term`` under row ``row`` of the convolution's kernel at the positions (image ``number``, i, j); 0
    where there is none. ``row`` is a number, or one for each of ``term``. ``exists`` has two dimensions.

    GEOMETRY: (rows of the kernel, numbers in a row of it, colours, strides of rows and columns, padding of rows and
    columns). They are constants, so that the compiler sees which numbers it can load together.
    """
    height, width = sizes
    TERMS: tl.constexpr = GEOMETRY[1]
    COLOURS: tl.constexpr = GEOMETRY[2]
    image_row = (i * GEOMETRY[3] - GEOMETRY[5])[:, None] + row
    in_row = ((j * GEOMETRY[4] - GEOMETRY[6]) * COLOURS)[:, None] + term[None, :]
    inside = exists & (image_row >= 0) & (image_row < height)
    inside = inside & (in_row >= 0) & (in_row < width * COLOURS)
    first = (number.to(tl.int64)[:, None] * height + image_row) * width * COLOURS
    v = tl.load(image + first + in_row, mask=inside, other=0.0)
    # A mask of its own for what fills up a row would break the loads into single numbers.
    return tl.where(term[None, :] < TERMS, v, 0.0).to(image.dtype.element_ty)


@triton.jit
def convolve_image(
    image,
    weight,
    bias,
    y,
    images,
    parts,
    sizes,
    out_sizes,
    tiles,
    slope,
    before,
    GEOMETRY: tl.constexpr,
    ROW: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    """y = LeakyReLU(convolution(image) + bias). A program computes N channels of M positions.

    Where ``before`` is given, the result is the gradient of what a convolution to an image takes, and goes on to the
    block before (``before_block``).

    Args:
        weight: (C_out, rows, columns, colours), contiguous.
        bias: (C_out,), or None.
        images: of a part of the images, which is a group, or with film of ``before`` an image.
        parts: of a group.
        sizes: (height, width) of the image.
        out_sizes: (height, width, channels) of y.
        tiles: of M positions, of a part.
        before: as of ``before_block``, or None; its map is as y.
        GEOMETRY: as of ``load_row``.
    """
    out_height, out_width, out_channels = out_sizes
    block, tile, part = places(tl.cdiv(out_channels, N), tiles)
    m = (tile * M).to(tl.int32) + tl.arange(0, M)
    j, i, number = m % out_width, m // out_width % out_height, m // out_width // out_height
    exists = number < images
    number = part * images + number
    out_channel = block * N + tl.arange(0, N)
    out_exists = out_channel < out_channels
    term = tl.arange(0, ROW)
    of_channel = out_channel * (GEOMETRY[0] * GEOMETRY[1])
    known = (term < GEOMETRY[1])[:, None] & out_exists[None, :]

    acc = tl.zeros((M, N), dtype=ACC)
    for row in range(GEOMETRY[0]):
        a = load_row(image, number, i, j, exists[:, None], row, term, sizes, GEOMETRY)
        b = tl.load(weight + of_channel[None, :] + (row * GEOMETRY[1] + term)[:, None], mask=known, other=0.0)
        acc = add_product(acc, a, b, PRECISION)
    if bias is not None:
        acc += tl.load(bias + out_channel, mask=out_exists, other=0.0).to(ACC)[None, :]
    position = part * images * out_height * out_width + tile * M + tl.arange(0, M)
    offsets = position[:, None] * out_channels + out_channel[None, :]
    written = exists[:, None] & out_exists[None, :]
    if before is None:
        result = leaky_relu(acc, acc, sum_of(slope, ACC)).to(y.dtype.element_ty)
    else:
        dtype: tl.constexpr = y.dtype.element_ty
        segment = part * tiles + tile
        result = before_block(
            acc, offsets, written, part // parts, part, segment, out_channel, out_channels, before, None, dtype, ACC
        )
    tl.store(y + offsets, result, mask=written)


@triton.jit
def pack_taps(weight, packed, numel, channels, colours, kernel, strides, firsts, block, taps, BLOCK: tl.constexpr):
    """packed (taps, channels, columns) = the weight of the convolution to blocks of pixels.

    A column is a pixel of the block and a colour. In one dimension, tap t is input ``first + t`` from the block's own
    first input, and pixel p takes it times element p + padding − stride · (first + t) of the kernel, if there is one.

    Args:
        weight: (C_in, rows, columns, colours), contiguous.
        numel: of ``packed``.
        firsts: stride · first − padding, of rows and of columns.
        block: rows and columns of pixels.
        taps: in a row of the inputs that a block takes.
    """
    at = program() * BLOCK + tl.arange(0, BLOCK)
    columns = block[0] * block[1] * colours
    column, term = at % columns, at // columns
    colour, pixel = column % colours, column // colours
    channel, tap = term % channels, term // channels
    row = pixel // block[1] - tap // taps * strides[0] - firsts[0]
    place = pixel % block[1] - tap % taps * strides[1] - firsts[1]
    there = (at < numel) & (row >= 0) & (row < kernel[0]) & (place >= 0) & (place < kernel[1])
    source = ((channel * kernel[0] + row) * kernel[1] + place) * colours + colour
    tl.store(packed + at, tl.load(weight + source, mask=there, other=0.0), mask=at < numel)


@triton.jit
def image_weight_gradient(
    features,
    signs,
    image,
    partial,
    sums,
    out_sizes,
    sizes,
    steps,
    slope,
    affine,
    film,
    padded,
    segments,
    GEOMETRY: tl.constexpr,
    ROW: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """partial (groups · segments, C, rows · numbers in a row) = Σ over the segment's positions of features′ · image,
    and where ``sums`` (groups · segments, C) is given the sums of features′.

    features′ is ``features``, or where ``signs`` is given the gradient of a LeakyReLU's input whose output has the
    gradient ``features``, or where ``affine`` is given LeakyReLU((features − mean) · scale + shift), with ``film``
    multiplied by 1 + γ and moved by β; rounded to its dtype.

    Args:
        signs: as features, with the signs of the LeakyReLU's input, or None.
        out_sizes: (images of a group, height, width, channels) of the features.
        sizes: (height, width) of the image.
        steps: of K positions, in a segment.
        slope: of the LeakyReLU.
        affine: (groups, 3, C): mean, scale and shift, or None.
        film, padded: as of ``weight_gradient``.
        segments: of a group.
    """
    images, out_height, out_width, channels = out_sizes
    block_m, block_n, segment = places(tl.cdiv(channels, M), tl.cdiv(GEOMETRY[0] * ROW, N))
    channel = block_m * M + tl.arange(0, M)
    in_channels = (channel < channels)[None, :]
    column = (block_n * N).to(tl.int32) + tl.arange(0, N)
    row, term = column // ROW, column % ROW
    in_kernel = (row < GEOMETRY[0])[None, :]
    group = segment // segments
    begin = (segment % segments * steps * K).to(tl.int32)

    acc = tl.zeros((M, N), dtype=ACC)
    total = tl.zeros((K, M), dtype=ACC)  # one sum for each position of a step, added up at the end
    for start in range(begin, begin + steps * K, K):
        j, i, number, exists = position_of(start, images, out_height, out_width, film, padded, K)
        number = group * images + number
        position = (number * out_height + i) * out_width + j
        at = position[:, None] * channels + channel[None, :]
        there = exists[:, None] & in_channels
        a = tl.load(features + at, mask=there, other=0.0)
        if signs is not None:
            sign = tl.load(signs + at, mask=there, other=0.0).to(ACC)
            a = leaky_relu(sign, a.to(ACC), sum_of(slope, ACC)).to(features.dtype.element_ty)
        if affine is not None:
            a = activated(a, affine, group, channel, channels, slope, ACC, 0)
            if film is not None:
                a = modulated(a, film, image_of(start, images, group, padded), channel, channels, ACC, 0)
            a = tl.where(there, a, 0.0).to(features.dtype.element_ty)
        b = load_row(image, number, i, j, exists[:, None] & in_kernel, row[None, :], term, sizes, GEOMETRY)
        acc = add_product(acc, tl.trans(a), b, PRECISION)
        if sums is not None:
            total += a.to(ACC)
    terms = GEOMETRY[0] * GEOMETRY[1]
    offsets = (segment * channels + channel)[:, None] * terms + (row * GEOMETRY[1] + term)[None, :]
    known = in_kernel & (term < GEOMETRY[1])[None, :]
    tl.store(partial + offsets, acc, mask=(channel < channels)[:, None] & known)
    if sums is not None:
        of_segment = sums + segment * channels + channel
        tl.store(of_segment, tl.sum(total, axis=0), mask=channel < tl.where(block_n == 0, channels, 0))


@triton.jit
def add_many_segments(partial, out, numel, segments, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr):
    """out (numel,) = the sum of partial (segments, numel), in float64 and in a fixed order. SEGMENTS are loaded at the
    same time, because a few programs with a loop over hundreds of segments would only wait for memory."""
    at = program() * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((SEGMENTS, BLOCK), dtype=tl.float64)
    for start in range(0, segments, SEGMENTS):
        segment = start + tl.arange(0, SEGMENTS)
        exists = (segment < segments)[:, None] & (at < numel)[None, :]
        offsets = segment.to(tl.int64)[:, None] * numel + at[None, :]
        total += tl.load(partial + offsets, mask=exists, other=0.0).to(tl.float64)
    rounded = tl.sum(total, axis=0).to(partial.dtype.element_ty)  # see add_segments
    tl.store(out + at, rounded.to(out.dtype.element_ty), mask=at < numel)
