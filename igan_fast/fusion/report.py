"""The report that ``fuse`` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from igan_fast.fusion.convolution import FusedConvolution
from igan_fast.fusion.fused_module import FusedModule
from igan_fast.fusion.linear import FusedLinear

__all__ = ["Entry", "FusionReport"]


class Entry(NamedTuple):
    """One convolution, normalisation or large linear layer.

    name: the module's qualified name, as in ``named_modules``.
    kind: the name of its class in ``torch.nn``.
    fused: whether it is fused. If False, it was left alone.
    result: the operation that it computes together with itself, learnt from the calls so far; or why it was left alone.
    """

    name: str
    kind: str
    fused: bool
    result: str


class FusionReport(Sequence[Entry]):
    """One entry per convolution, normalisation and large linear layer, in the order of ``named_modules``. It prints as
    a table.

    The entries are read from the model at each access: they show the operations that it combines at that time.
    """

    def __init__(self, model: nn.Module, left_alone: Mapping[str, str]) -> None:
        self._model, self._left_alone = model, dict(left_alone)

    @property
    def fused(self) -> tuple[Entry, ...]:
        """The entries of modules that are fused."""
        return tuple(entry for entry in self if entry.fused)

    @property
    def left_alone(self) -> tuple[Entry, ...]:
        """The entries of modules that were left alone."""
        return tuple(entry for entry in self if not entry.fused)

    def _entries(self) -> list[Entry]:
        names = {id(module): name for name, module in self._model.named_modules()}
        entries = []
        for name, module in self._model.named_modules():
            if isinstance(module, FusedModule) and module.is_fused():
                entries.append(Entry(name, module.plain_class.__name__, True, _learnt(module, names)))
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
            return "nothing to fuse: no convolution, normalisation or large linear layer of torch.nn"
        rows = [("Module", "Kind", "Result"), *((e.name or "(the model)", e.kind, e.result) for e in entries)]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in rows]
        lines.insert(1, f"{'-' * widths[0]}  {'-' * widths[1]}  {'-' * 6}")
        return "\n".join([*lines, f"{len(self.fused)} fused, {len(self.left_alone)} left alone"])


def _learnt(module: FusedModule, names: Mapping[int, str]) -> str:
    """The operation that a fused module computes together with itself, in words."""
    expectation = module._expectation
    if expectation.left and not expectation.gains:
        return "by PyTorch, which is as fast for the calls so far"
    if expectation.slope is not None:
        return f"with the {f'LeakyReLU({expectation.slope:g})' if expectation.slope else 'ReLU'} after it"
    if expectation.norm is not None and id(expectation.norm) in names:
        return f"folded with {names[id(expectation.norm)]} in evaluation without gradients"
    if isinstance(module, FusedLinear):
        return "alone, by the fastest of MKL, oneDNN and our kernel"
    if expectation.unknown:
        return "not called yet with a tensor large enough to gain"
    return "alone" if not isinstance(module, FusedConvolution) else "alone, by the faster of our kernels and PyTorch's"
