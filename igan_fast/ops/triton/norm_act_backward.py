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
    """Σ g′ and Σ g′ · (x − mean) of one segment (``tiles`` tiles) of a group's values, per channel. With film also the
    sums that give its gradient, (N, segments, 2, C)."""
    _values, _rows, channels, _inner = shape
    group, segment, channel = segment_of_program(shape, segments, CHANNELS)
    affine = load_affine(weight, bias, mean, var, group // images, channel, shape, eps, ACC)
    # Each position of a tile has its own sums, which are added up at the end.
    sum_grad = tl.zeros((VALUES, CHANNELS), dtype=ACC)
    sum_product = tl.zeros((VALUES, CHANNELS), dtype=ACC)
    if film is not None:
        film_scale, _ = load_film(film, film_strides, group, channel, shape, ACC)
        sum_scale = tl.zeros((VALUES, CHANNELS), dtype=ACC)
        sum_shift = tl.zeros((VALUES, CHANNELS), dtype=ACC)
    first = segment.to(tl.int32) * tiles
    for tile in range(first, first + tiles):
        at, exists = in_tile(group, tile * VALUES + tl.arange(0, VALUES), channel, shape)
        g, centred, z = load_inputs(grad, x, at, exists, affine, ACC)
        if film is not None:
            activated = leaky_relu(z, z, sum_of(slope, ACC))
            sum_scale += tl.where(exists, g * activated, 0.0)
            sum_shift += g
            g = tl.where(exists, g * film_scale, 0.0)
        passed = leaky_relu(z, g, sum_of(slope, ACC))
        sum_grad += passed
        sum_product += tl.where(exists, passed * centred, 0.0)
    out = (group * segments + segment) * channels + channel
    tl.store(grads + out, tl.sum(sum_grad, axis=0), mask=channel < channels)
    tl.store(products + out, tl.sum(sum_product, axis=0), mask=channel < channels)
    if film is not None:
        out = (group * segments + segment) * 2 * channels + channel
        tl.store(film_sums + out, tl.sum(sum_scale, axis=0), mask=channel < channels)
        tl.store(film_sums + out + channels, tl.sum(sum_shift, axis=0), mask=channel < channels)


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
    film,
    film_strides,
    images,
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
    affine = load_affine(weight, bias, mean, var, group // images, channel, shape, eps, ACC)
    _mu, scale, _shift, invstd = affine
    at, exists = in_tile(group, k, channel, shape)
    g, centred, z = load_inputs(grad, x, at, exists, affine, ACC)
    if film is not None:
        film_scale, _ = load_film(film, film_strides, group, channel, shape, ACC)
        g = g * film_scale
    passed = leaky_relu(z, g, sum_of(slope, ACC))
    d = passed * scale
    if BATCH_STATISTICS:
        own = group // images * channels + channel
        n = (tl.zeros((), dtype=ACC) + values) * images
        mean_grad = tl.load(group_grads + own, mask=channel < channels, other=0.0)[None, :] / n
        mean_product = tl.load(group_products + own, mask=channel < channels, other=0.0)[None, :] / n
        d = (passed - mean_grad - centred * (invstd * invstd * mean_product)) * scale
    tl.store(dx + at, d.to(dx.dtype.element_ty), mask=exists)
