"""What ``fuse`` did, to read and to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from igan_fast.fusion.convolution import FusedConvolution
from igan_fast.fusion.fused_module import Twin

__all__ = ["Entry", "FusionReport"]


class Entry(NamedTuple):
    """One convolution or normalisation.

    name: qualified, as in ``named_modules``.
    kind: the module's class.
    fused: whether it has a class of ours; where not, it is as it was.
    result: what its last results were computed with, as far as calls have shown; or why it was left alone.
    """

    name: str
    kind: str
    fused: bool
    result: str


class FusionReport(Sequence[Entry]):
    """The entries of a model, in the order of its modules; prints as a table.

    It tells of now: once the model has run, what its modules are computed with.
    """

    def __init__(self, model: nn.Module, left_alone: Mapping[str, str]) -> None:
        self._model, self._left_alone = model, dict(left_alone)

    @property
    def fused(self) -> tuple[Entry, ...]:
        """What runs on the fused operators."""
        return tuple(entry for entry in self if entry.fused)

    @property
    def left_alone(self) -> tuple[Entry, ...]:
        """What is as it was."""
        return tuple(entry for entry in self if not entry.fused)

    def _entries(self) -> list[Entry]:
        names = {id(module): name for name, module in self._model.named_modules()}
        entries = []
        for name, module in self._model.named_modules():
            if isinstance(module, Twin) and module.active():
                entries.append(Entry(name, module.plain.__name__, True, _seen(module, names)))
            elif name in self._left_alone:
                entries.append(Entry(name, type(module).__name__, False, f"left alone: {self._left_alone[name]}"))
        return entries

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._entries()[index]

    def __len__(self) -> int:
        return len(self._entries())

    def __repr__(self) -> str:
        return f"FusionReport({len(self.fused)} fused, {len(self.left_alone)} left alone)"

    def __str__(self) -> str:
        entries = self._entries()
        if not entries:
            return "nothing to fuse: no convolution or normalisation of torch.nn"
        rows = [("Module", "Kind", "Result"), *((e.name or "(the model)", e.kind, e.result) for e in entries)]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in rows]
        lines.insert(1, f"{'-' * widths[0]}  {'-' * widths[1]}  {'-' * 6}")
        return "\n".join([*lines, f"{len(self.fused)} fused, {len(self.left_alone)} left alone"])


def _seen(module: Twin, names: Mapping[int, str]) -> str:
    place = module._place
    if place.slope is not None:
        return f"with the {f'LeakyReLU({place.slope:g})' if place.slope else 'ReLU'} behind it"
    if place.norm is not None and id(place.norm) in names:
        return f"folded with {names[id(place.norm)]} in evaluation without gradients"
    if place.unknown:
        return "nothing seen yet that is large enough to gain"
    return "alone" if not isinstance(module, FusedConvolution) else "alone, by the faster of our kernels and PyTorch's"
