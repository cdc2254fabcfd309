"""The error of a run whose losses or weights became NaN or infinite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from igan_fast.errors import InputError

__all__ = ["TrainingDiverged"]


class TrainingDiverged(InputError):
    """A loss term, or a tensor that was about to be saved, is NaN or infinite.

    Args:
        iteration: the first iteration at which it was seen.
        values: the values that are not finite, by name: a loss term or ``group/tensor``.
        checkpoint: the last good checkpoint, if known. The message ends with it.
    """

    def __init__(self, iteration: int, values: Mapping[str, float], checkpoint: Path | None = None) -> None:
        self.iteration = iteration
        self.values = dict(values)
        self.checkpoint = checkpoint
        what = ", ".join(f"{name} is {value}" for name, value in values.items())
        where = f"; the last good checkpoint is {checkpoint}" if checkpoint is not None else ""
        super().__init__(f"training diverged at iteration {iteration}: {what}{where}")
