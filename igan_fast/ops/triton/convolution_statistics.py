"""Kernels and functions around a convolution that has the statistics of its output as an epilogue, and a normalisation
of its input as a prologue. ``convolution`` launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from igan_fast.ops.triton.common import places
from igan_fast.ops.triton.norm_act_forward import load_affine


@triton.jit
def moments_of(v, exists, count):
    """The mean and Σ(v − mean)² of the values v that exist, in each column, in float64. 0 where there are none.

    The mean that is subtracted is rounded, so the mean of the differences is added to it.
    """
    n = tl.maximum(count, 1)
    rough = tl.sum(tl.where(exists, v, 0.0), axis=0) / n.to(v.dtype)
    delta = tl.where(exists, v - rough[None, :], 0.0)
    error = tl.sum(delta, axis=0).to(tl.float64) / n
    mean = rough.to(tl.float64) + error
    m2 = tl.sum(delta * delta, axis=0).to(tl.float64) - error * error * n
    return tl.where(mean == mean, mean, rough.to(tl.float64)), m2  # infinite if a value is


@triton.jit
def combine_tiles(
    means,
    m2s,
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
    """Mean and variance of each group, from the moments of its segments, in a fixed order.

    The rule is that of ``combine_moments``: the mean first, then the squares about it.
    """
    block, group, _ = places(tl.cdiv(channels, CHANNELS), groups)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
    number = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, segments, BLOCK):
        at, exists, n = in_segments_of(counts, group, start, channel, channels, segments, BLOCK)
        number += n
        total += tl.where(n[:, None] > 0, tl.load(means + at, mask=exists, other=0.0) * n[:, None], 0.0)
    count = tl.sum(number, axis=0)
    mu = tl.sum(total, axis=0) / count
    m2 = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
    for start in range(0, segments, BLOCK):
        at, exists, n = in_segments_of(counts, group, start, channel, channels, segments, BLOCK)
        delta = tl.load(means + at, mask=exists, other=0.0) - mu[None, :]
        squares = tl.load(m2s + at, mask=exists, other=0.0) + delta * delta * n[:, None]
        m2 += tl.where(n[:, None] > 0, squares, 0.0)
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
