"""Who computes which rows of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from igan_fast.distributed.process import Process
from igan_fast.errors import InputError

__all__ = ["BatchPlan", "Part"]


class Part(NamedTuple):
    """Rows that pass through the networks together."""

    start: int
    """The first row in the batch."""
    stop: int
    """The row after the last one."""
    groups: int
    """The number of equal groups of rows that are normalised apart."""

    @property
    def rows(self) -> slice:
        """The rows in the batch."""
        return slice(self.start, self.stop)

    @property
    def size(self) -> int:
        """The number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class BatchPlan:
    """Cuts a batch into the groups that are normalised apart, and these into parts for each process.

    Group s has the rows from ⌊s·B/S⌋ to ⌊(s+1)·B/S⌋. If there are at least as many groups as processes, each process
    has S/W groups. It computes them in ``accumulate`` parts, one after the other. If S does not divide B, or with
    ``exact``, each part is one group. If there are fewer groups, W/S processes share each, and normalise it together.

    Args:
        batch_size: B, the number of rows of a batch.
        norm_groups: S.
        process: this process, one of W.
        accumulate: the number of parts of each process.
        exact: each part is one group, so that the parts do not depend on W.

    Raises:
        InputError: the numbers do not fit; the message begins with an option.
    """

    batch_size: int
    norm_groups: int = 1
    process: Process = Process()  # noqa: RUF009  # it is immutable
    accumulate: int = 1
    exact: bool = False

    def __post_init__(self) -> None:
        size, groups, world = self.batch_size, self.norm_groups, self.process.world_size
        if groups < 1 or size < 2 * groups:
            raise InputError(
                f"--norm-groups: found {groups}, expected from 1 to half of --batch-size {size}: batch normalisation "
                "compares images"
            )
        if groups % world and world % groups:
            raise InputError(
                f"--norm-groups: found {groups} for {world} processes, expected a multiple or a divisor of {world}: "
                "each process has as many of the groups that are normalised apart, or as many share each group"
            )
        if size // groups < self.sharing:
            raise InputError(
                f"--batch-size: found {size} for {world} processes, expected at least a photo for each of the "
                f"{self.sharing} that share a norm group"
            )
        if self.exact and self.sharing > 1:
            raise InputError(
                f"--norm-groups: found {groups} for {world} processes, expected a multiple of {world} with --exact: "
                "what processes share depends on their number"
            )
        own = max(1, groups // world)
        if self.accumulate < 1 or own % self.accumulate:
            raise InputError(
                f"--accumulate: found {self.accumulate}, expected a divisor of {own}, the number of norm groups of "
                "each process: a group cannot be computed in parts, because its statistics are those of all its images"
            )
        if self.exact and self.accumulate > 1:
            raise InputError(
                f"--accumulate: found {self.accumulate}, expected 1 with --exact, which computes one norm group after "
                "the other"
            )

    @property
    def sharing(self) -> int:
        """The number of processes that share a group, in the order of their ranks; 1 where each has whole groups."""
        return max(1, self.process.world_size // self.norm_groups)

    @cached_property
    def parts(self) -> list[Part]:
        """The parts of the whole batch, in order. Each process has as many."""
        size, groups, sharing = self.batch_size, self.norm_groups, self.sharing
        if sharing > 1:
            bounds = [number * size // groups for number in range(groups + 1)]
            return [
                Part(first + i * (stop - first) // sharing, first + (i + 1) * (stop - first) // sharing, 1)
                for first, stop in pairwise(bounds)
                for i in range(sharing)
            ]
        one_by_one = self.exact or size % groups > 0
        together = 1 if one_by_one else groups // self.process.world_size // self.accumulate
        return [
            Part(first * size // groups, (first + together) * size // groups, together)
            for first in range(0, groups, together)
        ]

    @cached_property
    def own(self) -> list[Part]:
        """The parts of this process."""
        count = len(self.parts) // self.process.world_size
        return self.parts[self.process.rank * count : (self.process.rank + 1) * count]

    @property
    def rows(self) -> slice:
        """The rows of this process."""
        return slice(self.own[0].start, self.own[-1].stop)

    @property
    def is_whole(self) -> bool:
        """Whether this process computes the whole batch at once, as one process does without any plan."""
        return len(self.parts) == 1 and not self.exact

    def weight(self, part: Part) -> float:
        """The share of a part in the mean over the batch."""
        return part.size / self.batch_size
