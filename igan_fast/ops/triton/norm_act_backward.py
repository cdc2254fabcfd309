"""norm_act's backward kernels. ``norm_act`` launches them; ``norm_act_forward`` explains ``shape``, k, ``film`` and
``images``.

g is the gradient of the LeakyReLU's output, g′ that of its input, and x̂ is the normalised x.
"""

from __future__ import annotations

import triton
import triton.language as tl

from igan_fast.ops.triton.common import places, program, sum_of
from igan_fast.ops.triton.norm_act_forward import (
    in_segments,
    in_tile,
    leaky_relu,
    load_affine,
    load_film,
    segment_of_program,
    tile_of_program,
)


@triton.jit
def load_inputs(grad, x, at, exists, affine, ACC: tl.constexpr):
    """The gradient of the result, x − mean, and the LeakyReLU's input z at some offsets."""
    mu, scale, shift, _invstd = affine
    centred = tl.load(x + at, mask=exists, other=0.0).to(ACC) - mu
    return tl.load(grad + at, mask=exists, other=0.0).to(ACC), centred, centred * scale + shift


@triton.jit
def sums(
    grad,
    x,
    weight,
    bias,
    mean,
    var,
    film,
    film_strides,
    images,
    grads,
    products,
    deviations,
    film_sums,
    shape,
    segments,
    tiles,
    eps,
    slope,
    ACC: tl.constexpr,
    VALUES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Σ g′, Σ g′ · (x − mean) and Σ (x − mean) of one segment (``tiles`` tiles) of a group's values, per channel. With
    film also the sums that give its gradient, (N, segments, 2, C)."""
    _values, _rows, channels, _inner = shape
    group, segment, channel = segment_of_program(shape, segments, CHANNELS)
    affine = load_affine(weight, bias, mean, var, group // images, channel, shape, eps, ACC)
    sum_grad = tl.zeros((CHANNELS,), dtype=ACC)
    sum_product = tl.zeros((CHANNELS,), dtype=ACC)
    sum_deviation = tl.zeros((CHANNELS,), dtype=ACC)
    if film is not None:
        film_scale, _ = load_film(film, film_strides, group, channel, shape, ACC)
        sum_scale = tl.zeros((CHANNELS,), dtype=ACC)
        sum_shift = tl.zeros((CHANNELS,), dtype=ACC)
    first = segment.to(tl.int32) * tiles
    for tile in range(first, first + tiles):
        at, exists = in_tile(group, tile * VALUES + tl.arange(0, VALUES), channel, shape)
        g, centred, z = load_inputs(grad, x, at, exists, affine, ACC)
        if film is not None:
            activated = leaky_relu(z, z, sum_of(slope, ACC))
            sum_scale += tl.sum(tl.where(exists, g * activated, 0.0), axis=0)
            sum_shift += tl.sum(g, axis=0)
            g = tl.where(exists, g * film_scale, 0.0)
        passed = leaky_relu(z, g, sum_of(slope, ACC))
        sum_grad += tl.sum(passed, axis=0)
        sum_product += tl.sum(tl.where(exists, passed * centred, 0.0), axis=0)
        sum_deviation += tl.sum(tl.where(exists, centred, 0.0), axis=0)
    out = (group * segments + segment) * channels + channel
    tl.store(grads + out, sum_grad, mask=channel < channels)
    tl.store(products + out, sum_product, mask=channel < channels)
    tl.store(deviations + out, sum_deviation, mask=channel < channels)
    if film is not None:
        out = (group * segments + segment) * 2 * channels + channel
        tl.store(film_sums + out, sum_scale, mask=channel < channels)
        tl.store(film_sums + out + channels, sum_shift, mask=channel < channels)


@triton.jit
def combine_film(
    film_sums, dfilm, columns, images, segments, ACC: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr
):
    """Add up the sums of the segments, (images, segments, columns), for each image, in order."""
    block, image, _ = places(tl.cdiv(columns, CHANNELS), images)
    column = block * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
    for start in range(0, segments, BLOCK):
        at, there, _segment = in_segments(image, start, column, columns, segments, BLOCK)
        total += tl.load(film_sums + at, mask=there, other=0.0).to(tl.float64)
    tl.store(dfilm + image * columns + column, tl.sum(total, axis=0).to(ACC), mask=column < columns)


@triton.jit
def combine_sums(
    grads,
    products,
    deviations,
    var,
    mean_grads,
    slopes,
    dweight,
    dbias,
    values,
    channels,
    groups,
    segments,
    eps,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Add up the sums of the segments for each group, which gives the terms that ``gradient`` subtracts, (groups, C) in
    float64; then the sums of the groups for dweight and dbias, in order. A group has ``values`` values in a channel.

    Σ (x − mean) is not 0, because the given mean is rounded. The terms are those about the exact mean. Infinite sums
    are not corrected, so that they stay infinite.
    """
    channel = program() * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < channels
    weight_total = tl.zeros((CHANNELS,), dtype=tl.float64)
    bias_total = tl.zeros((CHANNELS,), dtype=tl.float64)
    group = program() * 0  # an int64
    for _group in range(groups):
        some_grads = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
        some_products = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
        some_deviations = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
        for start in range(0, segments, BLOCK):
            at, there, _ = in_segments(group, start, channel, channels, segments, BLOCK)
            some_grads += tl.load(grads + at, mask=there, other=0.0).to(tl.float64)
            some_products += tl.load(products + at, mask=there, other=0.0).to(tl.float64)
            some_deviations += tl.load(deviations + at, mask=there, other=0.0).to(tl.float64)
        grad = tl.sum(some_grads, axis=0)
        product = tl.sum(some_products, axis=0)
        own = group * channels + channel
        v = tl.load(var + own, mask=exists, other=1.0).to(tl.float64) + sum_of(eps, tl.float64)
        weight_total += product / tl.sqrt(v)
        bias_total += grad
        n = tl.zeros((), dtype=tl.float64) + values
        finite = (tl.abs(grad) < float("inf")) & (tl.abs(product) < float("inf"))
        error = tl.where(finite, tl.sum(some_deviations, axis=0) / n, 0.0)  # of the mean
        slope = (product - tl.where(finite, error * grad, 0.0)) / (n * v)
        tl.store(slopes + own, slope, mask=exists)
        tl.store(mean_grads + own, grad / n - tl.where(finite, error * slope, 0.0), mask=exists)
        group += 1
    tl.store(dweight + channel, weight_total.to(ACC), mask=exists)
    tl.store(dbias + channel, bias_total.to(ACC), mask=exists)


@triton.jit
def load_split(terms, at, channel, channels, ACC: tl.constexpr):
    """A float64 number per channel as the sum of two of ACC, each (1, CHANNELS)."""
    term = tl.load(terms + at, mask=channel < channels, other=0.0)
    high = term.to(ACC)
    return high[None, :], (term - high.to(tl.float64)).to(ACC)[None, :]


@triton.jit
def gradient(
    grad,
    x,
    weight,
    bias,
    mean,
    var,
    film,
    film_strides,
    images,
    mean_grads,
    slopes,
    dx,
    shape,
    eps,
    slope,
    BATCH_STATISTICS: tl.constexpr,
    ACC: tl.constexpr,
    VALUES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """dx = scale · (g′ − mean(g′) − (x − mean) · mean(g′ · (x − mean)) / (var + eps)), one tile per program; scale · g′
    without BATCH_STATISTICS.

    For few values the result is small beside g′: a thousandth and less, of two. The rounding errors of the terms and of
    the first difference are therefore added to it.
    """
    _values, _rows, channels, _inner = shape
    group, k, channel = tile_of_program(shape, VALUES, CHANNELS)
    affine = load_affine(weight, bias, mean, var, group // images, channel, shape, eps, ACC)
    _mu, scale, _shift, _invstd = affine
    at, exists = in_tile(group, k, channel, shape)
    g, centred, z = load_inputs(grad, x, at, exists, affine, ACC)
    if film is not None:
        film_scale, _ = load_film(film, film_strides, group, channel, shape, ACC)
        g = g * film_scale
    passed = leaky_relu(z, g, sum_of(slope, ACC))
    if BATCH_STATISTICS:
        own = group // images * channels + channel
        mean_grad, mean_grad_rest = load_split(mean_grads, own, channel, channels, ACC)
        factor, factor_rest = load_split(slopes, own, channel, channels, ACC)
        difference = passed - mean_grad
        moved = difference - passed
        lost = (passed - (difference - moved)) - (mean_grad + moved)  # difference + lost is exact
        rest = lost - mean_grad_rest - centred * factor_rest
        passed = (difference - centred * factor) + tl.where(rest == rest, rest, 0.0)  # NaN where terms are infinite
    tl.store(dx + at, (passed * scale).to(dx.dtype.element_ty), mask=exists)
