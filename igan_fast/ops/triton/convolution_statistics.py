"""Kernels and functions around a convolution that has the statistics of its output as an epilogue, and a normalisation
of its input as a prologue. ``convolution`` launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from igan_fast.ops.triton.common import places
from igan_fast.ops.triton.norm_act_forward import load_affine


@triton.jit
def store_sums_of(v, exists, statistics, segment, channel, channels, first):
    """Store the sums of a tile, from which ``combine_tiles`` makes its mean and variance. They stay in v's dtype here:
    numbers in float64 would take more registers than a product leaves.

    Args:
        v, exists: (M, N), and (M, 1).
        statistics: (means, deviations, squares, counts): the rounded means of the values that exist in each column,
            Σ(v − mean) and Σ(v − mean)², each (segments, channels); and the numbers of rows that exist, (segments,).
            0 where there are none.
        channel: (N,).
        first: whether this program stores the number.
    """
    means, deviations, squares, counts = statistics
    count = tl.sum(tl.sum(exists.to(tl.int32), axis=1), axis=0)
    mean = tl.sum(tl.where(exists, v, 0.0), axis=0) / tl.maximum(count, 1).to(v.dtype)
    delta = tl.where(exists, v - mean[None, :], 0.0)
    at, known = segment * channels + channel, channel < channels
    tl.store(means + at, mean, mask=known)
    tl.store(deviations + at, tl.sum(delta, axis=0), mask=known)
    tl.store(squares + at, tl.sum(delta * delta, axis=0), mask=known)
    tl.store(counts + segment, count, mask=first)


@triton.jit
def mean_of_tiles(means, deviations, at, exists, n):
    """The means of the tiles at the offsets ``at`` in float64, and what was added to the rounded ones for that: the
    means of the differences from them. n (BLOCK,) is the number of a tile's values."""
    rough = tl.load(means + at, mask=exists, other=0.0).to(tl.float64)
    error = tl.load(deviations + at, mask=exists, other=0.0).to(tl.float64) / tl.maximum(n, 1.0)[:, None]
    mean = rough + error
    return tl.where(mean == mean, mean, rough), error  # infinite if a value is


@triton.jit
def combine_tiles(
    means,
    deviations,
    squares,
    counts,
    mean,
    var,
    channels,
    groups,
    segments,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Mean and variance of each group, from the sums of its segments (``store_sums_of``), in a fixed order.

    The rule is that of ``combine_moments``: the mean first, then the squares about it.
    """
    block, group, _ = places(tl.cdiv(channels, CHANNELS), groups)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
    number = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, segments, BLOCK):
        at, exists, n = in_segments_of(counts, group, start, channel, channels, segments, BLOCK)
        number += n
        of_tile, _error = mean_of_tiles(means, deviations, at, exists, n)
        total += tl.where(n[:, None] > 0, of_tile * n[:, None], 0.0)
    count = tl.sum(number, axis=0)
    mu = tl.sum(total, axis=0) / count
    m2 = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
    for start in range(0, segments, BLOCK):
        at, exists, n = in_segments_of(counts, group, start, channel, channels, segments, BLOCK)
        of_tile, error = mean_of_tiles(means, deviations, at, exists, n)
        delta = of_tile - mu[None, :]
        about = tl.load(squares + at, mask=exists, other=0.0).to(tl.float64) - error * error * n[:, None]
        m2 += tl.where(n[:, None] > 0, about + delta * delta * n[:, None], 0.0)
    out = group * channels + channel
    tl.store(mean + out, mu.to(ACC), mask=channel < channels)
    tl.store(var + out, (tl.sum(m2, axis=0) / count).to(ACC), mask=channel < channels)


@triton.jit
def in_segments_of(counts, group, start, channel, channels, segments, BLOCK: tl.constexpr):
    """Offsets (BLOCK, CHANNELS) into the results of the segments from ``start`` on, a mask of those that exist, and the
    numbers (BLOCK,) of their values; 0 where there is no segment."""
    segment = start + tl.arange(0, BLOCK)
    at = group * segments + segment
    n = tl.load(counts + at, mask=segment < segments, other=0).to(tl.float64)
    exists = (segment < segments)[:, None] & (channel < channels)[None, :]
    return at[:, None] * channels + channel[None, :], exists, n


@triton.jit
def affine_of(weight, bias, mean, var, affine, channels, groups, eps, ACC: tl.constexpr, CHANNELS: tl.constexpr):
    """affine (groups, 3, C) = mean, scale and shift, as ``apply`` of norm_act computes them."""
    block, group, _ = places(tl.cdiv(channels, CHANNELS), groups)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    shape = (0, 0, channels, 0)
    mu, scale, shift, _invstd = load_affine(weight, bias, mean, var, group, channel, shape, eps, ACC)
    at = affine + (group * 3 * channels + channel)[None, :]
    exists = (channel < channels)[None, :]
    tl.store(at, mu, mask=exists)
    tl.store(at + channels, scale, mask=exists)
    tl.store(at + channels + channels, shift, mask=exists)
