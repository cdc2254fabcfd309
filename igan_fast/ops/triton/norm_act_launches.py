"""norm_act's launches in Triton: how the work is divided, and what several launches share.

The kernels are in ``norm_act_forward`` and ``norm_act_backward``. A group is divided into tiles (values × channels).
Several tiles with the same channels are a segment. For the statistics and for the sums of the backward, a program sums
one segment, and another kernel combines the segments. The order of every sum depends only on the shape, so the same
input gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from igan_fast.ops.norm_act import MOST_VALUES
from igan_fast.ops.triton.common import grid, triton_dtype, two_floats
from igan_fast.ops.triton.norm_act_backward import combine_film, combine_sums, gradient, sums
from igan_fast.ops.triton.norm_act_forward import apply, combine_moments, moments
from igan_fast.reference.ops import accumulation_dtype

_TILE = 2048  # numbers in a tile; of 1024 to 8192 the fastest on an H100, with 1024 programs (docs/pages/gpu.md)
_PER_WARP = 512  # numbers of a tile for each warp: 16 for each thread, which hold the kernels' sums in registers
_PROGRAMS = 1024  # wanted number of programs that sum segments: several for each multiprocessor
COMBINE_CHANNELS = 8  # channels of a program that combines segments; a small number, so that there are more programs
_COMBINE_SEGMENTS = 128  # segments that such a program loads at the same time


@dataclass(frozen=True)
class Tiling:
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
        """The size of a tile and the number of warps that share it, as the kernels' options."""
        warps = max(1, self.tile_values * self.tile_channels // _PER_WARP)
        return {"VALUES": self.tile_values, "CHANNELS": self.tile_channels, "num_warps": warps}

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


def _tiling(x: Tensor, groups: int) -> Tiling:
    channels, batch = x.shape[1], x.shape[0] // groups
    spatial = x.numel() // (x.shape[0] * channels)
    rows, inner = (batch, spatial) if x.is_contiguous() and spatial > 1 else (batch * spatial, 1)
    tile_channels = 1 if inner > 1 else min(64, triton.next_power_of_2(channels))
    tile_values = min(_TILE // tile_channels, triton.next_power_of_2(rows * inner))
    tiles = triton.cdiv(rows * inner, tile_values)
    wanted = triton.cdiv(_PROGRAMS, groups * triton.cdiv(channels, tile_channels))
    per_segment = triton.cdiv(tiles, min(wanted, tiles))
    segments = triton.cdiv(tiles, per_segment)
    return Tiling(groups, rows, channels, inner, tile_values, tile_channels, segments, per_segment)


def statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of each group, (groups, C)."""
    tiling, acc = _tiling(x, groups), {"ACC": triton_dtype(x.dtype)}
    mean, var = (x.new_empty((groups, tiling.channels), dtype=accumulation_dtype(x)) for _ in range(2))
    means, m2s = (x.new_empty((groups, tiling.segments, tiling.channels), dtype=torch.float64) for _ in range(2))
    moments[tiling.per_segment](x, means, m2s, tiling.shape, tiling.segments, tiling.tiles, **acc, **tiling.sizes)
    combine_moments[grid(triton.cdiv(tiling.channels, COMBINE_CHANNELS) * groups)](
        means,
        m2s,
        mean,
        var,
        tiling.shape,
        groups,
        tiling.segments,
        tiling.tiles * tiling.tile_values,
        **acc,
        **_combine_sizes(),
    )
    return mean, var


def _combine_sizes() -> dict[str, int]:
    return {"BLOCK": _COMBINE_SEGMENTS, "CHANNELS": COMBINE_CHANNELS}


class Launches:
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
        self.combine = _combine_sizes() | self.acc

    def apply(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """x normalised by these statistics, and activated."""
        y = torch.empty_like(x)
        shape, settings = self.tiling.shape, (self.eps, self.slope)
        apply[self.tiling.per_tile](x, *self.affine, mean, var, *self.film, y, shape, *settings, **self.tile)
        return y


class Backward:
    """The launches of one backward pass.

    Attributes:
        segment_sums: three tensors (groups, segments, C), written by ``add_segments``.
    """

    def __init__(
        self,
        grad: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        eps: float,
        negative_slope: float,
        film: Tensor | None,
    ) -> None:
        self.x, self.var, self.film, self.groups = x, var, film, mean.shape[0]
        self.launches = Launches(x, weight, bias, eps, negative_slope, self.groups, film)
        self.given = (grad, x, *self.launches.affine, mean, var, *self.launches.film)
        self.segments = self.launches.images * self.launches.tiling.segments  # of a group
        self.segment_sums = [self._new(self.groups, self.segments, x.shape[1]) for _ in range(3)]

    def _new(self, *shape: int) -> Tensor:
        return self.x.new_empty(shape, dtype=accumulation_dtype(self.x))

    def add_segments(self) -> Tensor:
        """Compute the sums of each segment; return the gradient of film, which is empty without film."""
        launches, tiling, film = self.launches, self.launches.tiling, self.film
        columns = 2 * tiling.channels
        film_sums = None if film is None else self._new(self.groups, self.segments, columns)
        settings = launches.eps, launches.slope
        sums[tiling.per_segment](
            *self.given,
            *self.segment_sums,
            film_sums,
            tiling.shape,
            tiling.segments,
            tiling.tiles,
            *settings,
            **launches.tile,
        )
        if film is None:
            return self._new(0)
        dfilm = self._new(*film.shape)
        combine_film[grid(triton.cdiv(columns, COMBINE_CHANNELS) * film.shape[0])](
            film_sums, dfilm, columns, film.shape[0], tiling.segments, **launches.combine
        )
        return dfilm

    def combine(self, sums: Sequence[Tensor], values: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """The terms that ``gradient`` subtracts, dweight and dbias, from three tensors (groups, segments, C) of sums
        over ``values`` values in each channel of a group."""
        channels, segments = self.x.shape[1], sums[0].shape[1]
        terms = [self.x.new_empty((self.groups, channels), dtype=torch.float64) for _ in range(2)]
        dweight, dbias = self._new(channels), self._new(channels)
        combine_sums[grid(triton.cdiv(channels, COMBINE_CHANNELS))](
            *sums,
            self.var,
            *terms,
            dweight,
            dbias,
            values,
            channels,
            self.groups,
            segments,
            self.launches.eps,
            **self.launches.combine,
        )
        return terms, dweight, dbias

    def gradient(self, terms: list[Tensor], batch_statistics: bool) -> Tensor:
        """dx."""
        launches, tiling = self.launches, self.launches.tiling
        dx, settings = torch.empty_like(self.x), (launches.eps, launches.slope)
        gradient[tiling.per_tile](
            *self.given, *terms, dx, tiling.shape, *settings, BATCH_STATISTICS=batch_statistics, **launches.tile
        )
        return dx
