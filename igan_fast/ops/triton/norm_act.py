"""norm_act in Triton: the launches. The kernels are in ``norm_act_forward`` and ``norm_act_backward``.

A group is divided into tiles (values × channels). Several tiles with the same channels are a segment. For the
statistics and for the sums of the backward, a program sums one segment, and another kernel combines the segments. The
order of every sum depends only on the shape, so the same input gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from igan_fast.ops.norm_act import MOST_VALUES
from igan_fast.ops.triton.common import grid, on_device, operator, triton_dtype, two_floats
from igan_fast.ops.triton.norm_act_backward import combine_film, combine_sums, gradient, sums
from igan_fast.ops.triton.norm_act_forward import apply, combine_moments, moments, update
from igan_fast.reference.ops import accumulation_dtype

_TILE = 4096  # numbers in a tile
_PROGRAMS = 1024  # wanted number of programs that sum segments: several for each multiprocessor
_COMBINE_CHANNELS = 8  # channels of a program that combines segments; a small number, so that there are more programs
_COMBINE_SEGMENTS = 128  # segments that such a program loads at the same time


@dataclass(frozen=True)
class _Tiling:
    """A dense x as (groups, rows, channels, inner), and its division into tiles and segments."""

    groups: int
    rows: int
    channels: int
    inner: int
    tile_values: int
    tile_channels: int
    segments: int
    tiles: int  # in a segment

    @property
    def values(self) -> int:
        """The number of values in each channel of a group."""
        return self.rows * self.inner

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The argument ``shape`` of the kernels."""
        return self.values, self.rows, self.channels, self.inner

    @property
    def sizes(self) -> dict[str, int]:
        """The size of a tile, as the kernels' options."""
        return {"VALUES": self.tile_values, "CHANNELS": self.tile_channels}

    @property
    def per_tile(self) -> tuple[int]:
        """The grid with one program for each tile."""
        return self._grid(triton.cdiv(self.values, self.tile_values))

    @property
    def per_segment(self) -> tuple[int]:
        """The grid with one program for each segment.

        Raises:
            RuntimeError: the kernels cannot number the values of a channel.
        """
        return self._grid(self.segments)

    def _grid(self, parts: int) -> tuple[int]:
        if self.values > MOST_VALUES:
            raise RuntimeError(
                f"the tensors are too large for one launch: {self.values} values in a channel (at most {MOST_VALUES}); "
                "use impl='reference'"
            )
        return grid(parts * triton.cdiv(self.channels, self.tile_channels) * self.groups)


def _tiling(x: Tensor, groups: int) -> _Tiling:
    channels, batch = x.shape[1], x.shape[0] // groups
    spatial = x.numel() // (x.shape[0] * channels)
    rows, inner = (batch, spatial) if x.is_contiguous() and spatial > 1 else (batch * spatial, 1)
    tile_channels = 1 if inner > 1 else min(64, triton.next_power_of_2(channels))
    tile_values = min(_TILE // tile_channels, triton.next_power_of_2(rows * inner))
    tiles = triton.cdiv(rows * inner, tile_values)
    wanted = triton.cdiv(_PROGRAMS, groups * triton.cdiv(channels, tile_channels))
    per_segment = triton.cdiv(tiles, min(wanted, tiles))
    segments = triton.cdiv(tiles, per_segment)
    return _Tiling(groups, rows, channels, inner, tile_values, tile_channels, segments, per_segment)


class _Launches:
    """The arguments that all launches of one call share: x's tiling, the parameters, and the kernels' options.

    With film, each image is a group of its own in ``tiling``.
    """

    def __init__(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        negative_slope: float,
        groups: int,
        film: Tensor | None,
    ) -> None:
        parts = groups if film is None else x.shape[0]
        self.tiling = _tiling(x, parts)
        self.images = parts // groups  # that share their statistics, as the kernels see it
        self.film = film, (0, 0) if film is None else film.stride(), self.images
        self.affine = tuple(None if t is None else t.contiguous() for t in (weight, bias))
        self.eps, self.slope = two_floats(eps), two_floats(negative_slope)
        self.acc = {"ACC": triton_dtype(x.dtype)}
        self.tile = self.acc | self.tiling.sizes
        self.combine = self.acc | {"BLOCK": _COMBINE_SEGMENTS, "CHANNELS": _COMBINE_CHANNELS}

    def apply(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """x normalised by these statistics, and activated."""
        y = torch.empty_like(x)
        shape, settings = self.tiling.shape, (self.eps, self.slope)
        apply[self.tiling.per_tile](x, *self.affine, mean, var, *self.film, y, shape, *settings, **self.tile)
        return y


@operator(
    "norm_act(Tensor x, Tensor? weight, Tensor? bias, float eps, float negative_slope, SymInt groups, "
    "Tensor? film=None) -> (Tensor y, Tensor mean, Tensor var)"
)
def norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    negative_slope: float,
    groups: int,
    film: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``igan_fast.ops.norm_act``."""
    launches = _Launches(x, weight, bias, eps, negative_slope, groups, film)
    tiling = launches.tiling if film is None else _tiling(x, groups)  # of the statistics
    mean, var = (x.new_empty((groups, tiling.channels), dtype=accumulation_dtype(x)) for _ in range(2))
    means, m2s = (x.new_empty((groups, tiling.segments, tiling.channels), dtype=torch.float64) for _ in range(2))
    with on_device(x):
        moments[tiling.per_segment](
            x, means, m2s, tiling.shape, tiling.segments, tiling.tiles, **launches.acc, **tiling.sizes
        )
        combine_moments[grid(triton.cdiv(tiling.channels, _COMBINE_CHANNELS) * groups)](
            means,
            m2s,
            mean,
            var,
            tiling.shape,
            groups,
            tiling.segments,
            tiling.tiles * tiling.tile_values,
            **launches.combine,
        )
        return launches.apply(x, mean, var), mean, var


@operator(
    "norm_act_inference(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
    "float negative_slope, Tensor? film=None) -> Tensor"
)
def norm_act_inference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    negative_slope: float,
    film: Tensor | None = None,
) -> Tensor:
    """See ``igan_fast.ops.norm_act``."""
    launches = _Launches(x, weight, bias, eps, negative_slope, 1, film)
    with on_device(x):
        return launches.apply(x, mean.contiguous(), var.contiguous())


@operator(
    "norm_act_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
    "float negative_slope, bool batch_statistics, Tensor? film=None) -> "
    "(Tensor dx, Tensor dweight, Tensor dbias, Tensor dfilm)"
)
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
    film: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``igan_fast.ops.norm_act``. Without film, its gradient is an empty tensor."""
    groups = mean.shape[0]
    launches = _Launches(x, weight, bias, eps, negative_slope, groups, film)
    tiling = launches.tiling
    segments = launches.images * tiling.segments  # of a group
    dx = torch.empty_like(x)

    def new(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=accumulation_dtype(x))

    dweight, dbias = new(tiling.channels), new(tiling.channels)
    segment_sums = [new(groups, segments, tiling.channels) for _ in range(3)]
    terms = [x.new_empty((groups, tiling.channels), dtype=torch.float64) for _ in range(2)]
    columns = 0 if film is None else 2 * tiling.channels
    dfilm, film_sums = (new(0), None) if film is None else (new(*film.shape), new(groups, segments, columns))
    given = (grad, x, *launches.affine, mean, var, *launches.film)
    settings = launches.eps, launches.slope
    with on_device(x):
        sums[tiling.per_segment](
            *given, *segment_sums, film_sums, tiling.shape, tiling.segments, tiling.tiles, *settings, **launches.tile
        )
        if film is not None:
            combine_film[grid(triton.cdiv(columns, _COMBINE_CHANNELS) * film.shape[0])](
                film_sums, dfilm, columns, film.shape[0], tiling.segments, **launches.combine
            )
        combine_sums[grid(triton.cdiv(tiling.channels, _COMBINE_CHANNELS))](
            *segment_sums,
            var,
            *terms,
            dweight,
            dbias,
            x.numel() // (groups * tiling.channels),
            tiling.channels,
            groups,
            segments,
            launches.eps,
            **launches.combine,
        )
        gradient[tiling.per_tile](
            *given, *terms, dx, tiling.shape, *settings, BATCH_STATISTICS=batch_statistics, **launches.tile
        )
    return dx, dweight, dbias, dfilm


@operator(
    "norm_act_update(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, SymInt count, "
    "float momentum) -> ()"
)
def norm_act_update(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, count: int, momentum: float
) -> None:
    """See ``igan_fast.ops.norm_act``."""
    groups, channels = mean.shape
    with on_device(mean):
        for running, statistics, factor in ((running_mean, mean, 1.0), (running_var, var, count / (count - 1))):
            target = running if running.is_contiguous() else running.contiguous()
            update[grid(triton.cdiv(channels, _COMBINE_CHANNELS))](
                target,
                statistics,
                channels,
                groups,
                two_floats(momentum),
                two_floats(factor),
                ACC=tl.float64,
                CHANNELS=_COMBINE_CHANNELS,
            )
            if target is not running:
                running.copy_(target)
