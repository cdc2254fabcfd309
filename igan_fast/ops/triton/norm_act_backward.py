"""norm_act's backward kernels. ``norm_act`` launches them; ``norm_act_forward`` explains ``shape`` and k.

g′ is the gradient of the LeakyReLU's input, and x̂ is the normalised x.
"""

from __future__ import annotations

import triton
import triton.language as tl

from igan_fast.ops.triton.common import program, sum_of
from igan_fast.ops.triton.norm_act_forward import (
    in_segments,
    in_tile,
    leaky_relu,
    load_affine,
    segment_of_program,
    tile_of_program,
)


@triton.jit
def load_gradient(grad, x, at, exists, affine, slope, ACC: tl.constexpr):
    """g′ and x − mean at some offsets."""
    mu, scale, shift, _invstd = affine
    centred = tl.load(x + at, mask=exists, other=0.0).to(ACC) - mu
    g = tl.load(grad + at, mask=exists, other=0.0).to(ACC)
    return leaky_relu(centred * scale + shift, g, sum_of(slope, ACC)), centred


@triton.jit
def sums(
    grad,
    x,
    weight,
    bias,
    mean,
    var,
    grads,
    products,
    shape,
    segments,
    tiles,
    eps,
    slope,
    ACC: tl.constexpr,
    VALUES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Σ g′ and Σ g′ · (x − mean) of one segment (``tiles`` tiles) of a group's values, per channel."""
    _values, _rows, channels, _inner = shape
    group, segment, channel = segment_of_program(shape, segments, CHANNELS)
    affine = load_affine(weight, bias, mean, var, group, channel, shape, eps, ACC)
    sum_grad = tl.zeros((CHANNELS,), dtype=ACC)
    sum_product = tl.zeros((CHANNELS,), dtype=ACC)
    first = segment.to(tl.int32) * tiles
    for tile in range(first, first + tiles):
        at, exists = in_tile(group, tile * VALUES + tl.arange(0, VALUES), channel, shape)
        passed, centred = load_gradient(grad, x, at, exists, affine, slope, ACC)
        sum_grad += tl.sum(passed, axis=0)
        sum_product += tl.sum(tl.where(exists, passed * centred, 0.0), axis=0)
    out = (group * segments + segment) * channels + channel
    tl.store(grads + out, sum_grad, mask=channel < channels)
    tl.store(products + out, sum_product, mask=channel < channels)


@triton.jit
def combine_sums(
    grads,
    products,
    var,
    group_grads,
    group_products,
    dweight,
    dbias,
    channels,
    groups,
    segments,
    eps,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Add up the sums of the segments for each group, then the sums of the groups for dweight and dbias, in order."""
    channel = program() * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < channels
    weight_total = tl.zeros((CHANNELS,), dtype=tl.float64)
    bias_total = tl.zeros((CHANNELS,), dtype=tl.float64)
    group = program() * 0  # an int64
    for _group in range(groups):
        some_grads = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
        some_products = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
        for start in range(0, segments, BLOCK):
            at, there, _ = in_segments(group, start, channel, channels, segments, BLOCK)
            some_grads += tl.load(grads + at, mask=there, other=0.0).to(tl.float64)
            some_products += tl.load(products + at, mask=there, other=0.0).to(tl.float64)
        grad = tl.sum(some_grads, axis=0)
        product = tl.sum(some_products, axis=0)
        own = group * channels + channel
        v = tl.load(var + own, mask=exists, other=1.0).to(tl.float64)
        weight_total += product / tl.sqrt(v + sum_of(eps, tl.float64))
        bias_total += grad
        tl.store(group_grads + own, grad.to(ACC), mask=exists)
        tl.store(group_products + own, product.to(ACC), mask=exists)
        group += 1
    tl.store(dweight + channel, weight_total.to(ACC), mask=exists)
    tl.store(dbias + channel, bias_total.to(ACC), mask=exists)


@triton.jit
def gradient(
    grad,
    x,
    weight,
    bias,
    mean,
    var,
    group_grads,
    group_products,
    dx,
    shape,
    eps,
    slope,
    BATCH_STATISTICS: tl.constexpr,
    ACC: tl.constexpr,
    VALUES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """dx = scale · (g′ − mean(g′) − x̂ · mean(g′ · x̂)), one tile per program; scale · g′ without BATCH_STATISTICS."""
    values, _rows, channels, _inner = shape
    group, k, channel = tile_of_program(shape, VALUES, CHANNELS)
    affine = load_affine(weight, bias, mean, var, group, channel, shape, eps, ACC)
    _mu, scale, _shift, invstd = affine
    at, exists = in_tile(group, k, channel, shape)
    passed, centred = load_gradient(grad, x, at, exists, affine, slope, ACC)
    d = passed * scale
    if BATCH_STATISTICS:
        own = group * channels + channel
        n = values.to(ACC)
        mean_grad = tl.load(group_grads + own, mask=channel < channels, other=0.0)[None, :] / n
        mean_product = tl.load(group_products + own, mask=channel < channels, other=0.0)[None, :] / n
        d = (passed - mean_grad - centred * (invstd * invstd * mean_product)) * scale
    tl.store(dx + at, d.to(dx.dtype.element_ty), mask=exists)
