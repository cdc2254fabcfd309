"""norm_act's forward kernels, and functions that the backward kernels use too. ``norm_act`` launches the kernels.

``shape`` is (values, rows, channels, inner). Each channel of a group has rows × inner = values numbers. In a contiguous
tensor (N, C, *spatial), a row is an image, and inner is the number of its spatial positions. In a channels_last tensor,
a row is one position of an image, and inner is 1. Value k of a channel is number k % inner of row k // inner.

k is int32. This is the exception to the rule for 64-bit indexing (``common``): every value needs a division of k, which
is slow in int64. k does not overflow, because ``norm_act`` raises an error for more than 2³⁰ values in a channel of a
group. (A loop may run one block past the last value.)

``film`` is (N, 2 · C), with its strides in ``film_strides``, or None. With film, each image is a group of its own in
all kernels but those of the statistics. ``images`` is the number of images that share them; 1 without film.
"""

from __future__ import annotations

import triton
import triton.language as tl

from igan_fast.ops.triton.common import places, program, sum_of


@triton.jit
def tile_of_program(shape, VALUES: tl.constexpr, CHANNELS: tl.constexpr):
    """This program's group, and its tile: values k (VALUES,) of channels (CHANNELS,)."""
    values, _rows, channels, _inner = shape
    tile, block, group = places(tl.cdiv(values, VALUES), tl.cdiv(channels, CHANNELS))
    return group, tile.to(tl.int32) * VALUES + tl.arange(0, VALUES), block * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def segment_of_program(shape, segments, CHANNELS: tl.constexpr):
    """This program's group, its segment of the values, and its channels (CHANNELS,)."""
    _values, _rows, channels, _inner = shape
    segment, block, group = places(segments, tl.cdiv(channels, CHANNELS))
    return group, segment, block * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def in_tile(group, k, channel, shape):
    """Offsets (VALUES, CHANNELS) into x of a group's values k in some channels, and a mask of those that exist."""
    values, rows, channels, inner = shape
    row = group * rows + k // inner
    offsets = (row * channels * inner + k % inner)[:, None] + (channel * inner)[None, :]
    return offsets, (k < values)[:, None] & (channel < channels)[None, :]


@triton.jit
def in_segments(group, start, channel, channels, segments, BLOCK: tl.constexpr):
    """Offsets (BLOCK, CHANNELS) into the results of the segments from ``start`` on, a mask of those that exist, and the
    numbers (BLOCK, 1) of the segments, which fit into int32."""
    segment = start + tl.arange(0, BLOCK)
    exists = (segment < segments)[:, None] & (channel < channels)[None, :]
    return (group * segments + segment)[:, None] * channels + channel[None, :], exists, segment[:, None]


@triton.jit
def load_affine(weight, bias, mean, var, group, channel, shape, eps, ACC: tl.constexpr):
    """Mean, scale, shift and 1/std of a group's channels, each (1, CHANNELS): z = (x − mean) · scale + shift.

    weight and bias may be None, which stands for 1 and 0.
    """
    _values, _rows, channels, _inner = shape
    exists = channel < channels
    at = group * channels + channel
    mu = tl.load(mean + at, mask=exists, other=0.0).to(ACC)
    v = tl.load(var + at, mask=exists, other=1.0).to(ACC) + sum_of(eps, ACC)
    if tl.float64 == ACC:
        invstd = 1.0 / tl.sqrt(v)
    else:
        invstd = tl.div_rn(1.0, tl.sqrt_rn(v))
    scale = invstd
    if weight is not None:
        scale = invstd * tl.load(weight + channel, mask=exists, other=0.0).to(ACC)
    shift = tl.zeros_like(scale)
    if bias is not None:
        shift = tl.load(bias + channel, mask=exists, other=0.0).to(ACC)
    return mu[None, :], scale[None, :], shift[None, :], invstd[None, :]


@triton.jit
def load_film(film, film_strides, image, channel, shape, ACC: tl.constexpr):
    """1 + γ and β of an image's channels, each (1, CHANNELS)."""
    _values, _rows, channels, _inner = shape
    row, column = film_strides
    exists = channel < channels
    scale = 1 + tl.load(film + image * row + channel * column, mask=exists, other=0.0).to(ACC)
    shift = tl.load(film + image * row + (channel + channels) * column, mask=exists, other=0.0).to(ACC)
    return scale[None, :], shift[None, :]


@triton.jit
def leaky_relu(z, value, slope):
    """LeakyReLU(z) where ``value`` is z; its gradient where ``value`` is the gradient of LeakyReLU(z).

    A slope of 0 is a ReLU: the result is 0 for z ≤ 0, even if ``value`` is infinite (0 · ∞ would be NaN).
    """
    leaky = tl.where(z > 0, value, value * slope)
    return tl.where(slope == 0, tl.where(z <= 0, 0.0, value), leaky)


@triton.jit
def moments(x, means, m2s, shape, segments, tiles, ACC: tl.constexpr, VALUES: tl.constexpr, CHANNELS: tl.constexpr):
    """Mean and Σ(x − mean)² of one segment (``tiles`` tiles) of a group's values, per channel.

    Each position of a tile has its own mean and sum of squares, updated by Welford's formula at every tile; they are
    merged by Chan's formula at the end. All values are taken about the mean of the first tile. There is therefore no
    cancellation for data far from zero.
    """
    values, _rows, channels, _inner = shape
    group, segment, channel = segment_of_program(shape, segments, CHANNELS)
    first = segment.to(tl.int32) * tiles
    at, exists = in_tile(group, first * VALUES + tl.arange(0, VALUES), channel, shape)
    v = tl.load(x + at, mask=exists, other=0.0).to(ACC)
    n = tl.minimum(values - first * VALUES, VALUES)
    pivot = (tl.sum(v, axis=0) / n.to(ACC))[None, :]
    count = tl.zeros((VALUES, 1), dtype=ACC)
    mean = tl.zeros((VALUES, CHANNELS), dtype=ACC)
    m2 = tl.zeros((VALUES, CHANNELS), dtype=ACC)
    plain = tl.zeros((VALUES, CHANNELS), dtype=ACC)
    for tile in range(first, first + tiles):
        k = tile * VALUES + tl.arange(0, VALUES)
        at, exists = in_tile(group, k, channel, shape)
        v = tl.load(x + at, mask=exists, other=0.0).to(ACC)
        count += (k < values).to(ACC)[:, None]
        delta = tl.where(exists, v - pivot - mean, 0.0)
        step = delta / tl.maximum(count, 1.0)
        mean += step
        m2 += delta * (delta - step)
        plain += v
    total = tl.sum(count.to(tl.float64))
    wide = mean.to(tl.float64)
    mu = tl.sum(wide * count, axis=0) / total
    deviation = wide - mu[None, :]
    sum_m2 = tl.sum(m2.to(tl.float64) + deviation * deviation * count, axis=0)
    mu += tl.sum(pivot, axis=0).to(tl.float64)
    plain_mean = tl.sum(plain.to(tl.float64), axis=0) / total  # infinite if a value is
    out = (group * segments + segment) * channels + channel
    tl.store(means + out, tl.where(mu == mu, mu, plain_mean), mask=channel < channels)
    tl.store(m2s + out, sum_m2, mask=channel < channels)


@triton.jit
def combine_moments(
    means,
    m2s,
    mean,
    var,
    shape,
    groups,
    segments,
    per_segment,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Mean and variance of a group, from the moments of its segments. A segment has ``per_segment`` values; the last
    one may have fewer.

    The mean is computed first, then the squares about it. Infinite values therefore add up as in a plain sum.
    """
    values, _rows, channels, _inner = shape
    block, group, _ = places(tl.cdiv(channels, CHANNELS), groups)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    count = tl.zeros((), dtype=tl.float64) + values
    total = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
    for start in range(0, segments, BLOCK):
        at, exists, segment = in_segments(group, start, channel, channels, segments, BLOCK)
        n = tl.minimum(values - segment.to(tl.int64) * per_segment, per_segment).to(tl.float64)
        total += tl.where(exists, tl.load(means + at, mask=exists, other=0.0) * n, 0.0)
    mu = tl.sum(total, axis=0) / count
    m2 = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
    for start in range(0, segments, BLOCK):
        at, exists, segment = in_segments(group, start, channel, channels, segments, BLOCK)
        n = tl.minimum(values - segment.to(tl.int64) * per_segment, per_segment).to(tl.float64)
        delta = tl.load(means + at, mask=exists, other=0.0) - mu[None, :]
        m2 += tl.where(exists, tl.load(m2s + at, mask=exists, other=0.0) + delta * delta * n, 0.0)
    out = group * channels + channel
    tl.store(mean + out, mu.to(ACC), mask=channel < channels)
    tl.store(var + out, (tl.sum(m2, axis=0) / count).to(ACC), mask=channel < channels)


@triton.jit
def apply(
    x,
    weight,
    bias,
    mean,
    var,
    film,
    film_strides,
    images,
    y,
    shape,
    eps,
    slope,
    ACC: tl.constexpr,
    VALUES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """y = LeakyReLU((x − mean) · scale + shift) · (1 + γ) + β, one tile per program."""
    group, k, channel = tile_of_program(shape, VALUES, CHANNELS)
    mu, scale, shift, _ = load_affine(weight, bias, mean, var, group // images, channel, shape, eps, ACC)
    at, exists = in_tile(group, k, channel, shape)
    z = (tl.load(x + at, mask=exists, other=0.0).to(ACC) - mu) * scale + shift
    result = leaky_relu(z, z, sum_of(slope, ACC))
    if film is not None:
        film_scale, film_shift = load_film(film, film_strides, group, channel, shape, ACC)
        result = result * film_scale + film_shift
    tl.store(y + at, result.to(y.dtype.element_ty), mask=exists)


@triton.jit
def update(running, statistics, channels, groups, momentum, factor, ACC: tl.constexpr, CHANNELS: tl.constexpr):
    """r ← (1 − momentum) · r + momentum · factor · s for the statistics s of each group, in the groups' order."""
    channel = program() * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < channels
    m = sum_of(momentum, ACC)
    f = sum_of(factor, ACC)
    value = tl.load(running + channel, mask=exists, other=0.0).to(ACC)
    at = channel
    for _group in range(groups):
        new = tl.load(statistics + at, mask=exists, other=0.0).to(ACC)
        value = (1 - m) * value + m * (f * new)
        at += channels
    if running.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)  # a conversion from float64 to bfloat16 in one step is not correct everywhere
    tl.store(running + channel, value.to(running.dtype.element_ty), mask=exists)
