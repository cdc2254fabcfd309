"""The times of minimal filtering and of PyTorch's own convolutions, predicted from the work that each has to do.

A time is a sum of terms. Each term is a count, such as the number of multiplications, times a constant. The constants
are data in ``winograd_costs.json``, which ``python -m bench.winograd_costs`` measures and writes for each instruction
set, in float32 and, of PyTorch's convolutions, in bfloat16. Nothing is timed in a running process, and the number of
threads does not count: the same convolution is always computed in the same way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from igan_fast.ops import backend
from igan_fast.ops.instructions import Products, products_of

__all__ = [
    "CACHE_BYTES",
    "COMPUTATIONS",
    "COSTS_1D",
    "DIRECT_TERMS",
    "FEWEST",
    "FILE",
    "FILTER_TERMS",
    "HALF_TYPES",
    "INSTRUCTION_SET",
    "MARGIN",
    "PANELS",
    "ROWS",
    "TILES",
    "WINOGRAD_TERMS",
    "Work",
    "best_tile",
    "counted",
    "direct_counts",
    "direct_in",
    "divided_up",
    "filter_counts",
    "is_predicted",
    "is_small",
    "predicted",
    "rows_as_long",
    "seconds_of",
    "winograd_counts",
]

#: From the large feature map to the small one, back, and the gradient of the weight.
COMPUTATIONS = ("convolution", "transposed", "weight_gradient")

#: The types other than float32 that the kernels read and write. Products and sums are always float32.
HALF_TYPES = (torch.bfloat16, torch.float16)

#: The outputs of a tile in each direction, in values of the small feature map.
TILES = (2, 4)

FILE = Path(__file__).with_name("winograd_costs.json")

#: Minimal filtering has to be predicted to take at most so much of PyTorch's time. Predictions are about so exact.
MARGIN = 0.95

#: The constants are those of contiguous weights. For channels_last ones PyTorch's convolutions take less time, and a
#: filter's transform takes more: nanoseconds per weight (measured with 128 to 512 channels and AVX-512). By the size of
#: a weight in bytes.
SAVED_BY_CHANNELS_LAST, FILTER_OF_CHANNELS_LAST = {4: 0.7, 2: 0.33}, 0.8

#: With fewer multiplications, a convolution takes less than 0.1 ms, and what surrounds its call counts more.
FEWEST = 1 << 22

#: What the counts of PyTorch's convolution are, in their order.
DIRECT_TERMS = ("call", "multiplications", "values", "weights")

#: What the counts of minimal filtering with a transformed filter are, in their order. A filter that is too large for
#: the caches is read from memory.
WINOGRAD_TERMS = ("call", "multiplications", "transforms", "filter_reads", "memory_reads")

#: What the counts of a filter's transform are, in their order.
FILTER_TERMS = ("call", "filter", "weights")

#: Of csrc/cpu/winograd/convolve.inl: the bytes and the fewest tiles of a block of one thread, a divisor of the number
#: of such blocks, the most tiles of a block that threads share, and what a byte of its planes costs.
_BLOCK_BYTES, _MIN_TILES, _BLOCK_MULTIPLE, _MAX_SHARED_TILES, _PLANE_COST = 1 << 19, 6, 8, 128, 16

#: Of csrc/cpu/winograd/weight_gradient.inl: the bytes of sums that are small, and the bytes and the fewest tiles of a
#: block for small and for large sums.
_SUM_BYTES, _FOR_SMALL_SUMS, _FOR_LARGE_SUMS = 8 << 20, (3 << 20, 32), (24 << 20, 64)

#: Of csrc/cpu/winograd: the columns and the rows of a product that are computed together, by the instruction set. For
#: images these are output channels and tiles, for sequences tiles and output channels.
PANELS = {"avx512": 32, "avx2": 16, "baseline": 8}
ROWS = {"avx512": 12, "avx2": 6, "baseline": 6}

#: The bytes of the largest filter that is expected to stay in the last cache, of which others take their share.
CACHE_BYTES = 16 << 20

#: Fewer rows take as long: the processor waits for each sum.
_FEWEST_ROWS = 4


class Work(NamedTuple):
    """The sizes of one computation. A convolution reads the large feature map, and its output is the small one.

    Attributes:
        batch: the number of images.
        large, small: height and width of the feature maps.
        large_channels, small_channels: their channels.
        kernel, stride: of the filter, in both directions.
        dtype: of the feature maps and the weights.
    """

    batch: int
    large: Sequence[int]
    small: Sequence[int]
    large_channels: int
    small_channels: int
    kernel: int
    stride: int
    dtype: torch.dtype = torch.float32


def counted(transposed: bool, computation: str) -> str:
    """The one of ``COMPUTATIONS`` that a method of an implementation computes.

    Args:
        transposed: whether the convolution is transposed.
        computation: the name of the method.
    """
    if computation == "weight_gradient":
        return computation
    return "transposed" if transposed != (computation == "input_gradient") else "convolution"


def direct_counts(work: Work) -> list[float]:
    """The counts of PyTorch's convolution: ``DIRECT_TERMS``."""
    weights = work.kernel**2 * work.large_channels * work.small_channels
    pixels = work.batch * math.prod(work.small)
    values = pixels * work.small_channels + work.batch * math.prod(work.large) * work.large_channels
    return [1, pixels * weights, values, weights]


def winograd_counts(work: Work, tile: int, computation: str) -> list[float]:
    """The counts of minimal filtering with a transformed filter: ``WINOGRAD_TERMS``."""
    tiles = work.batch * divided_up(work.small[0], tile) * divided_up(work.small[1], tile)
    planes = (work.stride * (tile - 1) + work.kernel) ** 2
    panel = PANELS[INSTRUCTION_SET]
    inputs, outputs = work.large_channels, work.small_channels
    if computation == "transposed":
        inputs, outputs = outputs, inputs
    padded = divided_up(outputs, panel) * panel
    tile_bytes, filter_bytes = planes * 4 * (inputs + padded), planes * 4 * inputs * padded
    if computation == "weight_gradient":
        blocks, rows = _gradient_blocks(tiles, tile_bytes, filter_bytes), tiles
    else:
        blocks = _blocks(tiles, tile_bytes, filter_bytes)
        rows = blocks * rows_as_long(divided_up(tiles, blocks))
    reads = [planes * blocks * inputs * padded, 0]
    return [
        1,
        planes * rows * inputs * padded,
        planes * tiles * (inputs + padded),
        *(reads if filter_bytes <= CACHE_BYTES else reversed(reads)),
    ]


def filter_counts(work: Work, tile: int) -> list[float]:
    """The counts of a filter's transform: ``FILTER_TERMS``."""
    planes = (work.stride * (tile - 1) + work.kernel) ** 2
    channels = work.large_channels * work.small_channels
    return [1, planes * channels, work.kernel**2 * channels]


def _blocks(tiles: int, tile_bytes: int, filter_bytes: int) -> int:
    """The number of blocks of tiles, for each of which the filter is read."""
    small = divided_up(tiles, max(_BLOCK_BYTES // tile_bytes, _MIN_TILES))
    large = divided_up(tiles, _MAX_SHARED_TILES)
    cost_of_large = large * filter_bytes + _PLANE_COST * tiles * tile_bytes
    if small >= _BLOCK_MULTIPLE and small * filter_bytes < cost_of_large:
        return _BLOCK_MULTIPLE * divided_up(small, _BLOCK_MULTIPLE)
    return large


def _gradient_blocks(tiles: int, tile_bytes: int, sum_bytes: int) -> int:
    """The number of blocks of tiles of a weight gradient, for each of which the sums are read and written."""
    size, fewest = _FOR_SMALL_SUMS if sum_bytes <= _SUM_BYTES else _FOR_LARGE_SUMS
    return divided_up(tiles, max(size // tile_bytes, fewest))


def rows_as_long(rows: int) -> int:
    """The number of rows in whole groups that take as long as these rows."""
    full, rest = divmod(rows, ROWS[INSTRUCTION_SET])
    return full * ROWS[INSTRUCTION_SET] + (max(rest, _FEWEST_ROWS) if rest else 0)


def best_tile(work: Work, computation: str, *, kept: bool = False, channels_last: bool = False) -> int | None:
    """The size of the tiles with which minimal filtering is faster than PyTorch's convolution; None if none is.

    Of two such sizes it is the faster one where a filter in memory takes twice as long to read as predicted: threads
    share the memory, and the times are those of one thread.

    Args:
        computation: one of ``COMPUTATIONS``.
        kept: whether the transformed filter is there already.
        channels_last: whether the weight is channels_last.
    """
    if is_small(work) or not is_predicted(work.dtype):
        return None
    direct, *ways = seconds_of(work, computation, kept=kept, channels_last=channels_last)
    faster = [(each, tile) for each, tile in zip(ways, TILES, strict=True) if each < MARGIN * direct]
    return min((each + _reading(work, computation, tile), tile) for each, tile in faster)[1] if faster else None


def _reading(work: Work, computation: str, tile: int) -> float:
    """The predicted time in which a transformed filter is read from memory."""
    if computation == "weight_gradient":
        return 0.0
    cost = _costs_of(work)[computation]["winograd"][-1]
    return cost * winograd_counts(work, tile, computation)[-1] * 1e-9


def is_small(work: Work) -> bool:
    """Whether a convolution takes so little time that minimal filtering gains nothing."""
    return math.prod((work.batch, *work.small, work.kernel**2, work.small_channels, work.large_channels)) < FEWEST


def is_predicted(dtype: torch.dtype) -> bool:
    """Whether the time of PyTorch's convolution in this type is predicted. It is not where the CPU has instructions
    for products of the type whose speed was not measured, such as those of whole matrices."""
    return _direct_way(dtype) is not None


def direct_in(dtype: torch.dtype) -> str:
    """The name of the constants of PyTorch's convolution by the products of a half type."""
    return f"direct in {str(dtype).removeprefix('torch.')}"


def _direct_way(dtype: torch.dtype) -> str | None:
    """The constants of PyTorch's convolution in this type. Without instructions for a half type, it takes at least as
    long as in float32."""
    if dtype == torch.float32 or _PRODUCTS[dtype] == "none":
        return "direct"
    way = direct_in(dtype)
    measured = all(way in costs[computation] for costs in _COSTS.values() for computation in COMPUTATIONS)
    return way if measured and _PRODUCTS[dtype] == "vectors" else None


def seconds_of(work: Work, computation: str, *, kept: bool = False, channels_last: bool = False) -> list[float]:
    """The predicted times of PyTorch's convolution, and of minimal filtering with each of ``TILES``. The arguments are
    those of ``best_tile``; the time has to be predicted (``is_predicted``)."""
    way = _direct_way(work.dtype)
    assert way is not None
    costs = _costs_of(work)[computation]
    weights = work.kernel**2 * work.large_channels * work.small_channels * channels_last * 1e-9
    seconds = [predicted(costs[way], direct_counts(work)) - SAVED_BY_CHANNELS_LAST[work.dtype.itemsize] * weights]
    for tile in TILES:
        needed = predicted(costs["winograd"], winograd_counts(work, tile, computation))
        if computation != "weight_gradient" and not kept:
            needed += predicted(costs["filter"], filter_counts(work, tile)) + FILTER_OF_CHANNELS_LAST * weights
        seconds.append(needed)
    return seconds


def _costs_of(work: Work) -> dict[str, dict[str, list[float]]]:
    return _COSTS[f"{work.kernel}x{work.kernel} stride {work.stride}"]


def predicted(costs: Sequence[float], counts: Sequence[float]) -> float:
    """The sum of the counts, each times its constant, in seconds."""
    return sum(cost * count for cost, count in zip(costs, counts, strict=True)) * 1e-9


def divided_up(count: int, size: int) -> int:
    """``count / size``, rounded up."""
    return -(-count // size)


def _load(name: str) -> dict[str, Any]:
    """The constants of this machine's instruction set, or AVX2's if it was not measured.

    Args:
        name: "costs", or "costs_1d" of sequences.
    """
    measured = json.loads(FILE.read_text(encoding="utf-8"))
    return measured.get(INSTRUCTION_SET, measured["avx2"])[name]  # type: ignore[no-any-return]


#: Of our kernels.
INSTRUCTION_SET = backend.build_info().get("cpu_instruction_set_used", "avx2")

#: Loaded with this module, because a compiler cannot trace the reading of a file.
_COSTS: dict[str, dict[str, dict[str, list[float]]]] = _load("costs")

#: Those of ``winograd_1d_costs``.
COSTS_1D: dict[str, dict[str, list[float]]] = _load("costs_1d")

_PRODUCTS: dict[torch.dtype, Products | None] = {dtype: products_of(dtype) for dtype in HALF_TYPES}
