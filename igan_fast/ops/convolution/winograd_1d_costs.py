"""The times of minimal filtering of sequences and of PyTorch's own convolutions, predicted as in ``winograd_costs``."""

from __future__ import annotations

from typing import NamedTuple

from igan_fast.ops.convolution.winograd_costs import (
    CACHE_BYTES,
    COSTS_1D,
    INSTRUCTION_SET,
    MARGIN,
    PANELS,
    ROWS,
    divided_up,
    predicted,
    rows_as_long,
)

__all__ = [
    "DIRECT_TERMS",
    "FILTER_TERMS",
    "WINOGRAD_TERMS",
    "Work",
    "direct_counts",
    "direct_way",
    "filter_counts",
    "is_faster",
    "parts_of",
    "seconds_of",
    "winograd_counts",
]

#: What the counts of PyTorch's convolution are, in their order.
DIRECT_TERMS = ("call", "multiplications", "values", "weights")

#: What the counts of minimal filtering with a transformed filter are, in their order. The call counts for each group.
#: The values of interleaved sequences, and those that are read with a stride, are not neighbours: they lie apart. A
#: filter that is too large for the caches is read from memory.
WINOGRAD_TERMS = ("call", "multiplications", "transforms", "apart", "filter_reads", "memory_reads")

#: What the counts of a filter's transform are, in their order.
FILTER_TERMS = ("call", "filter", "weights")

#: The outputs of a tile.
_TILE = 4

#: Of csrc/cpu/winograd_1d/convolve.inl: the bytes and the most columns of a block of one thread, the most columns of a
#: block that threads share, and the fewest blocks that they do not share.
_BLOCK_BYTES, _MAX_COLUMNS, _MAX_SHARED_COLUMNS, _MIN_BLOCKS = 3 << 18, 256, 512, 8

#: Of csrc/cpu/winograd_1d/weight_gradient.inl: the bytes of sums that are small, the bytes of a block for small and for
#: large sums, and its fewest columns.
_SUM_BYTES, _FOR_SMALL_SUMS, _FOR_LARGE_SUMS, _MIN_GRADIENT_COLUMNS = 4 << 20, 3 << 20, 24 << 20, 64


class Work(NamedTuple):
    """The sizes of one computation. A convolution reads the large sequences, and its output are the small ones.

    Attributes:
        batch: the number of sequences.
        large, small: their lengths.
        large_channels, small_channels: their channels.
        kernel, stride: of the filter.
        interleaved: the number of sequences that lie in turn in the length.
        groups: of the channels.
        padding: in values of a large sequence, as it lies in memory.
    """

    batch: int
    large: int
    small: int
    large_channels: int
    small_channels: int
    kernel: int
    stride: int = 1
    interleaved: int = 1
    groups: int = 1
    padding: int = 0


def parts_of(kernel: int) -> tuple[int, int]:
    """The parts that a filter is divided into: the taps of one, and their number (csrc/cpu/winograd_1d/kernels.h)."""
    if kernel <= 3:
        return max(kernel, 2), 1
    four, five = (1 if kernel <= taps else (kernel - taps + 3) // 4 + 1 for taps in (4, 5))
    return (5, five) if 8 * five < 7 * four else (4, four)


def direct_counts(work: Work) -> list[float]:
    """The counts of PyTorch's convolution: ``DIRECT_TERMS``."""
    weights = work.kernel * work.large_channels * work.small_channels // work.groups
    values = work.batch * (work.small * work.small_channels + work.large * work.large_channels)
    return [1, work.batch * work.small * weights, values, weights]


def winograd_counts(work: Work, computation: str) -> list[float]:
    """The counts of minimal filtering with a transformed filter: ``WINOGRAD_TERMS``.

    Args:
        computation: one of ``winograd_costs.COMPUTATIONS``.
    """
    taps, parts = parts_of(divided_up(work.kernel, work.stride))
    products = _TILE + taps - 1
    inputs, outputs = work.stride * work.large_channels // work.groups, work.small_channels // work.groups
    length = work.small
    if computation == "transposed":
        inputs, outputs = outputs, inputs
        # Whole strides of the padding are not computed.
        left = work.padding % (work.interleaved * work.stride) if work.stride > 1 else 0
        length = divided_up(work.large + left, work.stride)
    tiles = divided_up(divided_up(length, work.interleaved), _TILE)
    columns = work.batch * work.interleaved * (tiles + parts)
    column_bytes = 4 * products * (inputs + outputs)
    panel = PANELS[INSTRUCTION_SET]
    if computation == "weight_gradient":
        sums = products * parts * outputs * divided_up(inputs, panel) * panel
        size = _FOR_SMALL_SUMS if 4 * sums <= _SUM_BYTES else _FOR_LARGE_SUMS
        fewest = divided_up(columns, max(size // column_bytes, _MIN_GRADIENT_COLUMNS))
        blocks = divided_up(columns, divided_up(divided_up(columns, fewest), panel // 2) * panel // 2)
        padded = divided_up(inputs, panel // 2) * panel // 2
        multiplications = products * parts * rows_as_long(outputs) * padded * columns
        filter_bytes, reads = 4 * sums, sums * blocks
    else:
        blocks, block_columns = _blocks(columns, column_bytes)
        last = columns - (blocks - 1) * block_columns
        computed = (blocks - 1) * block_columns + divided_up(last, panel // 2) * panel // 2
        multiplications = products * parts * inputs * rows_as_long(outputs) * computed
        reads = products * parts * inputs * divided_up(outputs, ROWS[INSTRUCTION_SET]) * ROWS[INSTRUCTION_SET] * blocks
        filter_bytes = 4 * reads // blocks
    large_apart, small_apart = work.stride * work.interleaved > 1, work.interleaved > 1
    apart = work.large * work.large_channels * large_apart + work.small * work.small_channels * small_apart
    apart *= work.batch
    in_cache = filter_bytes <= CACHE_BYTES
    counts = [multiplications, products * columns * (inputs + outputs), *((reads, 0) if in_cache else (0, reads))]
    multiplications, transforms, filter_reads, memory_reads = (work.groups * count for count in counts)
    return [work.groups, multiplications, transforms, apart, filter_reads, memory_reads]


def _blocks(columns: int, column_bytes: int) -> tuple[int, int]:
    """The number of blocks of columns, for each of which the filter is read, and their columns."""
    panel = PANELS[INSTRUCTION_SET]
    if divided_up(columns, panel) < _MIN_BLOCKS:
        blocks, multiple = divided_up(columns, _MAX_SHARED_COLUMNS), panel // 2
    else:
        most = min(max(_BLOCK_BYTES // column_bytes // panel * panel, panel), _MAX_COLUMNS)
        blocks, multiple = max(divided_up(columns, most), _MIN_BLOCKS), panel
    size = divided_up(divided_up(columns, blocks), multiple) * multiple
    return divided_up(columns, size), size


def filter_counts(work: Work) -> list[float]:
    """The counts of a filter's transform: ``FILTER_TERMS``."""
    taps, parts = parts_of(divided_up(work.kernel, work.stride))
    channels = work.large_channels * work.small_channels // work.groups
    return [work.groups, work.stride * (_TILE + taps - 1) * parts * channels, work.kernel * channels]


def seconds_of(work: Work, computation: str, *, kept: bool = False) -> tuple[float, float]:
    """The predicted times of minimal filtering and of PyTorch's convolution. The arguments are those of
    ``is_faster``."""
    costs = COSTS_1D[computation]
    ours = predicted(costs["winograd"], winograd_counts(work, computation))
    if computation != "weight_gradient" and not kept:
        ours += predicted(costs["filter"], filter_counts(work))
    return ours, predicted(costs[direct_way(work)], direct_counts(work))


def direct_way(work: Work) -> str:
    """The name of the constants of PyTorch's convolution, which is slower with groups."""
    return "direct" if work.groups == 1 else "direct in groups"


def is_faster(work: Work, computation: str, *, kept: bool = False) -> bool:
    """Whether minimal filtering is predicted to be faster than PyTorch's convolution.

    Args:
        computation: one of ``winograd_costs.COMPUTATIONS``.
        kept: whether the transformed filter is there already.
    """
    ours, pytorchs = seconds_of(work, computation, kept=kept)
    return ours < MARGIN * pytorchs
