"""norm_act in Triton.

A tensor is seen as (groups, rows, channels, inner): a contiguous (N, C, *spatial) has a row per image and its spatial
values inside, with channels last it has a row per image and place and one value inside. A program takes a tile of
values × channels. Its statistics are exact for data far from zero: the squares are taken about each tile's own mean,
tiles are merged by Chan's formula, and segments of tiles about the mean of all, in an order that depends on the shape
alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from igan_fast.ops.triton.common import (
    define,
    join,
    launchable,
    on_device,
    places,
    program,
    split,
    triton_dtype,
)

_TILE = 4096  # values of one tile
_PROGRAMS = 1024  # that the sums are spread over: several for each multiprocessor
_COMBINE = 8  # channels of a program that combines them: few, so that there are several programs
_BLOCK = 128  # segments that it loads at once


@triton.jit
def _place(group, k, channel, rows, channels, inner, VALUES: tl.constexpr):
    """Offsets of the k-th values (VALUES,) of channels (CHANNELS,) of a group, as (VALUES, CHANNELS)."""
    row = group * rows + k // inner
    return (row * channels * inner + k % inner)[:, None] + (channel * inner)[None, :]


@triton.jit
def _affine(weight, bias, mean, var, at, channel, inside, eps, HAS_WEIGHT, HAS_BIAS, ACC: tl.constexpr):
    """Mean, scale, bias and 1/std of channels, as rows to broadcast: z = (x − mean) · scale + bias."""
    mu = tl.load(mean + at, mask=inside, other=0.0).to(ACC)
    v = tl.load(var + at, mask=inside, other=1.0).to(ACC) + eps
    if tl.float64 == ACC:
        invstd = 1.0 / tl.sqrt(v)
    else:
        invstd = tl.div_rn(1.0, tl.sqrt_rn(v))
    scale = invstd
    if HAS_WEIGHT:
        scale = invstd * tl.load(weight + channel, mask=inside, other=0.0).to(ACC)
    shift = tl.zeros_like(scale)
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=inside, other=0.0).to(ACC)
    return mu[None, :], scale[None, :], shift[None, :], invstd[None, :]


@triton.jit
def _activate(z, value, slope):
    """A value behind a LeakyReLU of z, or a gradient before it; a slope of 0 is a ReLU, of infinite ones too."""
    leaky = tl.where(z > 0, value, value * slope)
    return tl.where(slope == 0, tl.where(z <= 0, 0.0, value), leaky)


@triton.jit
def _moments(
    x,
    means,
    m2s,
    values,
    rows,
    channels,
    inner,
    segments,
    tiles,
    ACC: tl.constexpr,
    VALUES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Mean and Σ(x − mean)² of one segment (`tiles` tiles) of a group's values, per channel."""
    segment, block, group = places(segments, tl.cdiv(channels, CHANNELS))
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    count = tl.zeros((), dtype=tl.float64)
    mean = tl.zeros((CHANNELS,), dtype=tl.float64)
    m2 = tl.zeros((CHANNELS,), dtype=tl.float64)
    plain = tl.zeros((CHANNELS,), dtype=tl.float64)
    first = segment.to(tl.int32) * tiles
    for tile in range(first, first + tiles):
        k = tile * VALUES + tl.arange(0, VALUES)
        inside = (k < values)[:, None] & (channel < channels)[None, :]
        v = tl.load(x + _place(group, k, channel, rows, channels, inner, VALUES), mask=inside, other=0.0).to(ACC)
        n = tl.minimum(tl.maximum(values - tile * VALUES, 0), VALUES).to(tl.float64)
        if n > 0:
            tile_sum = tl.sum(v, axis=0)
            shift = tile_sum / n.to(ACC)
            centred = tl.where(inside, v - shift[None, :], 0.0)
            residue = tl.sum(centred, axis=0).to(tl.float64) / n  # what the rounding of the shift has left
            tile_m2 = tl.sum(centred * centred, axis=0).to(tl.float64) - residue * residue * n
            total = count + n
            delta = shift.to(tl.float64) + residue - mean
            mean += delta * (n / total)
            m2 += tile_m2 + delta * delta * (count * n / total)
            plain += tile_sum.to(tl.float64)
            count = total
    at = (group * segments + segment) * channels + channel
    tl.store(means + at, tl.where(mean == mean, mean, plain / count), mask=channel < channels)
    tl.store(m2s + at, m2, mask=channel < channels)


@triton.jit
def _block(group, start, channel, channels, segments, BLOCK: tl.constexpr):
    """Offsets (BLOCK, CHANNELS) of the sums of segments from ``start`` on, which of them there are, and the segments
    (BLOCK, 1) themselves."""
    segment = start + tl.arange(0, BLOCK)  # few: of one launch
    inside = (segment < segments)[:, None] & (channel < channels)[None, :]
    return (group * segments + segment)[:, None] * channels + channel[None, :], inside, segment[:, None]


@triton.jit
def _combine_moments(
    means,
    m2s,
    mean,
    var,
    values,
    channels,
    groups,
    segments,
    per_segment,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Merge the segments of a group: their mean first, then the squares about it. Infinities add up as in any sum."""
    block, group, _ = places(tl.cdiv(channels, CHANNELS), groups)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    count = tl.zeros((), dtype=tl.float64) + values
    total = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
    for start in range(0, segments, BLOCK):
        at, inside, segment = _block(group, start, channel, channels, segments, BLOCK)
        n = tl.minimum(values - segment.to(tl.int64) * per_segment, per_segment).to(tl.float64)
        total += tl.where(inside, tl.load(means + at, mask=inside, other=0.0) * n, 0.0)
    mu = tl.sum(total, axis=0) / count
    m2 = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
    for start in range(0, segments, BLOCK):
        at, inside, segment = _block(group, start, channel, channels, segments, BLOCK)
        n = tl.minimum(values - segment.to(tl.int64) * per_segment, per_segment).to(tl.float64)
        delta = tl.load(means + at, mask=inside, other=0.0) - mu[None, :]
        m2 += tl.where(inside, tl.load(m2s + at, mask=inside, other=0.0) + delta * delta * n, 0.0)
    out = group * channels + channel
    tl.store(mean + out, mu.to(ACC), mask=channel < channels)
    tl.store(var + out, (tl.sum(m2, axis=0) / count).to(ACC), mask=channel < channels)


@triton.jit
def _apply(
    x,
    weight,
    bias,
    mean,
    var,
    y,
    values,
    rows,
    channels,
    inner,
    statistics_stride,
    eps_high,
    eps_low,
    slope_high,
    slope_low,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACC: tl.constexpr,
    VALUES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """y = LeakyReLU((x − mean) · scale + bias), a tile per program."""
    tile, block, group = places(tl.cdiv(values, VALUES), tl.cdiv(channels, CHANNELS))
    k = tile.to(tl.int32) * VALUES + tl.arange(0, VALUES)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    at = group * statistics_stride + channel
    eps = join(eps_high, eps_low, ACC)
    mu, scale, shift, _ = _affine(
        weight, bias, mean, var, at, channel, channel < channels, eps, HAS_WEIGHT, HAS_BIAS, ACC
    )
    place = _place(group, k, channel, rows, channels, inner, VALUES)
    inside = (k < values)[:, None] & (channel < channels)[None, :]
    z = (tl.load(x + place, mask=inside, other=0.0).to(ACC) - mu) * scale + shift
    activated = _activate(z, z, join(slope_high, slope_low, ACC))
    tl.store(y + place, activated.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _sums(
    grad,
    x,
    weight,
    bias,
    mean,
    var,
    grads,
    products,
    values,
    rows,
    channels,
    inner,
    segments,
    tiles,
    statistics_stride,
    eps_high,
    eps_low,
    slope_high,
    slope_low,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACC: tl.constexpr,
    VALUES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Σ g′ and Σ g′·(x − mean) of one segment of a group's values, per channel; g′ is what passes the LeakyReLU."""
    segment, block, group = places(segments, tl.cdiv(channels, CHANNELS))
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    at = group * statistics_stride + channel
    eps = join(eps_high, eps_low, ACC)
    slope = join(slope_high, slope_low, ACC)
    mu, scale, shift, _ = _affine(
        weight, bias, mean, var, at, channel, channel < channels, eps, HAS_WEIGHT, HAS_BIAS, ACC
    )
    sum_grad = tl.zeros((CHANNELS,), dtype=ACC)
    sum_product = tl.zeros((CHANNELS,), dtype=ACC)
    first = segment.to(tl.int32) * tiles
    for tile in range(first, first + tiles):
        k = tile * VALUES + tl.arange(0, VALUES)
        inside = (k < values)[:, None] & (channel < channels)[None, :]
        place = _place(group, k, channel, rows, channels, inner, VALUES)
        centred = tl.load(x + place, mask=inside, other=0.0).to(ACC) - mu
        g = tl.load(grad + place, mask=inside, other=0.0).to(ACC)
        passed = _activate(centred * scale + shift, g, slope)
        sum_grad += tl.sum(passed, axis=0)
        sum_product += tl.sum(tl.where(inside, passed * centred, 0.0), axis=0)
    out = (group * segments + segment) * channels + channel
    tl.store(grads + out, sum_grad, mask=channel < channels)
    tl.store(products + out, sum_product, mask=channel < channels)


@triton.jit
def _combine_sums(
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
    statistics_stride,
    eps_high,
    eps_low,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Add up segments, then groups, the groups in their order."""
    channel = program() * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    weight_total = tl.zeros((CHANNELS,), dtype=tl.float64)
    bias_total = tl.zeros((CHANNELS,), dtype=tl.float64)
    group = program() * 0  # as wide
    for _turn in range(groups):
        some_grads = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
        some_products = tl.zeros((BLOCK, CHANNELS), dtype=tl.float64)
        for start in range(0, segments, BLOCK):
            at, there, _ = _block(group, start, channel, channels, segments, BLOCK)
            some_grads += tl.load(grads + at, mask=there, other=0.0).to(tl.float64)
            some_products += tl.load(products + at, mask=there, other=0.0).to(tl.float64)
        grad = tl.sum(some_grads, axis=0)
        product = tl.sum(some_products, axis=0)
        v = tl.load(var + group * statistics_stride + channel, mask=inside, other=1.0).to(tl.float64)
        weight_total += product / tl.sqrt(v + join(eps_high, eps_low, tl.float64))
        bias_total += grad
        tl.store(group_grads + group * channels + channel, grad.to(ACC), mask=inside)
        tl.store(group_products + group * channels + channel, product.to(ACC), mask=inside)
        group += 1
    tl.store(dweight + channel, weight_total.to(ACC), mask=inside)
    tl.store(dbias + channel, bias_total.to(ACC), mask=inside)


@triton.jit
def _gradient(
    grad,
    x,
    weight,
    bias,
    mean,
    var,
    group_grads,
    group_products,
    dx,
    values,
    rows,
    channels,
    inner,
    statistics_stride,
    eps_high,
    eps_low,
    slope_high,
    slope_low,
    BATCH_STATISTICS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACC: tl.constexpr,
    VALUES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """dx = scale · (g′ − mean g′ − x̂ · mean(g′·x̂)), a tile per program."""
    tile, block, group = places(tl.cdiv(values, VALUES), tl.cdiv(channels, CHANNELS))
    k = tile.to(tl.int32) * VALUES + tl.arange(0, VALUES)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    at = group * statistics_stride + channel
    eps = join(eps_high, eps_low, ACC)
    mu, scale, shift, invstd = _affine(
        weight, bias, mean, var, at, channel, channel < channels, eps, HAS_WEIGHT, HAS_BIAS, ACC
    )
    place = _place(group, k, channel, rows, channels, inner, VALUES)
    inside = (k < values)[:, None] & (channel < channels)[None, :]
    centred = tl.load(x + place, mask=inside, other=0.0).to(ACC) - mu
    g = tl.load(grad + place, mask=inside, other=0.0).to(ACC)
    passed = _activate(centred * scale + shift, g, join(slope_high, slope_low, ACC))
    d = passed * scale
    if BATCH_STATISTICS:
        own = group * channels + channel
        n = values.to(ACC)
        mean_grad = tl.load(group_grads + own, mask=channel < channels, other=0.0)[None, :] / n
        mean_product = tl.load(group_products + own, mask=channel < channels, other=0.0)[None, :] / n
        d = (passed - mean_grad - centred * (invstd * invstd * mean_product)) * scale
    tl.store(dx + place, d.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _update(
    running, statistics, channels, groups, high, low, factor_high, factor_low, ACC: tl.constexpr, CHANNELS: tl.constexpr
):
    """r ← (1 − m)·r + m·factor·s for each group's statistics s, in order."""
    channel = program() * CHANNELS + tl.arange(0, CHANNELS)
    at = channel
    inside = channel < channels
    momentum = join(high, low, ACC)
    factor = join(factor_high, factor_low, ACC)
    value = tl.load(running + channel, mask=inside, other=0.0).to(ACC)
    for _turn in range(groups):
        new = tl.load(statistics + at, mask=inside, other=0.0).to(ACC)
        value = (1 - momentum) * value + momentum * (factor * new)
        at += channels
    if running.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)  # there is no sound way from float64 to bfloat16 at once
    tl.store(running + channel, value.to(running.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class _View:
    """(groups, rows, channels, inner), and how it is cut into tiles and segments of tiles."""

    groups: int
    rows: int
    channels: int
    inner: int
    tile_values: int
    tile_channels: int
    segments: int
    tiles: int  # of a segment

    @property
    def values(self) -> int:
        return self.rows * self.inner

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.values, self.rows, self.channels, self.inner

    @property
    def grid(self) -> tuple[int]:
        """A program for each tile."""
        return (self._programs(triton.cdiv(self.values, self.tile_values)),)

    @property
    def segment_grid(self) -> tuple[int]:
        """A program for each segment."""
        return (self._programs(self.segments),)

    @property
    def combine_grid(self) -> tuple[int]:
        """A program for some channels of a group."""
        return (launchable(triton.cdiv(self.channels, _COMBINE) * self.groups),)

    def _programs(self, pieces: int) -> int:
        blocks = triton.cdiv(self.channels, self.tile_channels) * self.groups
        return launchable(pieces * blocks, self.values)

    @property
    def tile(self) -> dict[str, int]:
        return {"VALUES": self.tile_values, "CHANNELS": self.tile_channels}


def _view(x: Tensor, groups: int) -> _View:
    channels, batch = x.shape[1], x.shape[0] // groups
    spatial = x.numel() // (x.shape[0] * channels)
    rows, inner = (batch, spatial) if x.is_contiguous() and spatial > 1 else (batch * spatial, 1)
    tile_channels = 1 if inner > 1 else min(64, triton.next_power_of_2(channels))
    tile_values = min(_TILE // tile_channels, triton.next_power_of_2(rows * inner))
    tiles = triton.cdiv(rows * inner, tile_values)
    wanted = triton.cdiv(_PROGRAMS, groups * triton.cdiv(channels, tile_channels))
    per_segment = triton.cdiv(tiles, min(wanted, tiles))
    return _View(
        groups, rows, channels, inner, tile_values, tile_channels, triton.cdiv(tiles, per_segment), per_segment
    )


def _parameters(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
    """Pointers (x's stands for one that is missing) and what the kernels are compiled for."""
    weight = None if weight is None else weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    flags = {"HAS_WEIGHT": weight is not None, "HAS_BIAS": bias is not None, "ACC": triton_dtype(x.dtype)}
    return (x if weight is None else weight, x if bias is None else bias), flags


def norm_act(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, negative_slope: float, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``igan_fast.ops.norm_act``."""
    view, acc = _view(x, groups), torch.float64 if x.dtype == torch.float64 else torch.float32
    y = torch.empty_like(x)
    mean, var = (x.new_empty((groups, view.channels), dtype=acc) for _ in range(2))
    means, m2s = (x.new_empty((groups, view.segments, view.channels), dtype=torch.float64) for _ in range(2))
    pointers, flags = _parameters(x, weight, bias)
    with on_device(x):
        _moments[view.segment_grid](
            x, means, m2s, *view.sizes, view.segments, view.tiles, ACC=flags["ACC"], **view.tile
        )
        _combine_moments[view.combine_grid](
            means,
            m2s,
            mean,
            var,
            view.values,
            view.channels,
            groups,
            view.segments,
            view.tiles * view.tile_values,
            ACC=flags["ACC"],
            BLOCK=_BLOCK,
            CHANNELS=_COMBINE,
        )
        _apply[view.grid](
            x,
            *pointers,
            mean,
            var,
            y,
            *view.sizes,
            view.channels,
            *split(eps),
            *split(negative_slope),
            **flags,
            **view.tile,
        )
    return y, mean, var


def norm_act_inference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, negative_slope: float
) -> Tensor:
    """See ``igan_fast.ops.norm_act``."""
    view, y = _view(x, 1), torch.empty_like(x)
    pointers, flags = _parameters(x, weight, bias)
    statistics = mean.contiguous(), var.contiguous()
    with on_device(x):
        _apply[view.grid](
            x, *pointers, *statistics, y, *view.sizes, 0, *split(eps), *split(negative_slope), **flags, **view.tile
        )
    return y


def norm_act_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    negative_slope: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``igan_fast.ops.norm_act``."""
    groups = mean.shape[0]
    view, acc = _view(x, groups), torch.float64 if x.dtype == torch.float64 else torch.float32
    dx = torch.empty_like(x)
    dweight, dbias = (x.new_empty((view.channels,), dtype=acc) for _ in range(2))
    grads, products = (x.new_empty((groups, view.segments, view.channels), dtype=acc) for _ in range(2))
    group_grads, group_products = (x.new_empty((groups, view.channels), dtype=acc) for _ in range(2))
    pointers, flags = _parameters(x, weight, bias)
    settings = (*split(eps), *split(negative_slope))
    with on_device(x):
        _sums[view.segment_grid](
            grad,
            x,
            *pointers,
            mean,
            var,
            grads,
            products,
            *view.sizes,
            view.segments,
            view.tiles,
            view.channels,
            *settings,
            **flags,
            **view.tile,
        )
        _combine_sums[(triton.cdiv(view.channels, _COMBINE),)](
            grads,
            products,
            var,
            group_grads,
            group_products,
            dweight,
            dbias,
            view.channels,
            groups,
            view.segments,
            view.channels,
            *split(eps),
            ACC=flags["ACC"],
            BLOCK=_BLOCK,
            CHANNELS=_COMBINE,
        )
        _gradient[view.grid](
            grad,
            x,
            *pointers,
            mean,
            var,
            group_grads,
            group_products,
            dx,
            *view.sizes,
            view.channels,
            *settings,
            BATCH_STATISTICS=batch_statistics,
            **flags,
            **view.tile,
        )
    return dx, dweight, dbias


def norm_act_update(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, count: int, momentum: float
) -> None:
    """See ``igan_fast.ops.norm_act``."""
    groups, channels = mean.shape
    with on_device(mean):
        for running, statistics, factor in ((running_mean, mean, 1.0), (running_var, var, count / (count - 1))):
            target = running if running.is_contiguous() else running.contiguous()
            _update[(triton.cdiv(channels, _COMBINE),)](
                target,
                statistics,
                channels,
                groups,
                *split(momentum),
                *split(factor),
                ACC=tl.float64,
                CHANNELS=_COMBINE,
            )
            if target is not running:
                running.copy_(target)


define(
    "norm_act(Tensor x, Tensor? weight, Tensor? bias, float eps, float negative_slope, SymInt groups) -> "
    "(Tensor y, Tensor mean, Tensor var)",
    norm_act,
)
define(
    "norm_act_inference(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
    "float negative_slope) -> Tensor",
    norm_act_inference,
)
define(
    "norm_act_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
    "float negative_slope, bool batch_statistics) -> (Tensor dx, Tensor dweight, Tensor dbias)",
    norm_act_backward,
)
define(
    "norm_act_update(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, SymInt count, "
    "float momentum) -> ()",
    norm_act_update,
)
