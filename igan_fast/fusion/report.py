"""What ``fuse`` did, to read and to print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Entry", "FusionReport"]


class Entry(NamedTuple):
    """One run of modules that belong together, or a module that was left alone.

    names: qualified, as in ``named_modules``.
    kinds: the modules' classes, with an activation's slope.
    fused: how many of them are computed together; 0 where nothing was changed.
    reason: why some or all were left alone; empty where all are fused.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    fused: int
    reason: str


class FusionReport(Sequence[Entry]):
    """The entries of a model, in the order of its modules; prints as a table."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)

    @property
    def fused(self) -> tuple[Entry, ...]:
        """What runs on the fused operators."""
        return tuple(entry for entry in self if entry.fused)

    @property
    def left_alone(self) -> tuple[Entry, ...]:
        """What is as it was."""
        return tuple(entry for entry in self if not entry.fused)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"FusionReport({len(self.fused)} fused, {len(self.left_alone)} left alone)"

    def __str__(self) -> str:
        if not self:
            return "nothing to fuse: no convolution, normalisation or activation of torch.nn"
        rows = [(_joined(entry.names), " → ".join(entry.kinds), _result(entry)) for entry in self]
        header = ("Modules", "Kinds", "Result")
        widths = [max(len(row[column]) for row in (header, *rows)) for column in (0, 1)]
        lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in (header, *rows)]
        lines.insert(1, f"{'-' * widths[0]}  {'-' * widths[1]}  {'-' * 6}")
        return "\n".join([*lines, f"{len(self.fused)} fused, {len(self.left_alone)} left alone"])


def _joined(names: tuple[str, ...]) -> str:
    """("main.0", "main.1") as "main.0, 1"."""
    first, *rest = names
    prefix = first.rpartition(".")[0]
    short = [name.rpartition(".")[2] if name.rpartition(".")[0] == prefix else name for name in rest]
    return ", ".join([first or "(the model itself)", *short])


def _result(entry: Entry) -> str:
    if not entry.fused:
        return f"left alone: {entry.reason}"
    return f"fused; {entry.reason}" if entry.reason else "fused"
