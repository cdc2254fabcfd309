"""How a run that blew up says so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from igan_fast.errors import InputError

__all__ = ["TrainingDiverged"]


class TrainingDiverged(InputError):
    """NaN or Inf in a loss term or in a tensor that was about to be saved.

    Args:
        iteration: the first iteration at which it was seen.
        values: each name that was not finite, a loss term or ``group/tensor``, and its value.
        checkpoint: the last good checkpoint, where the one who raises knows it; it ends the message.
    """

    def __init__(self, iteration: int, values: Mapping[str, float], checkpoint: Path | None = None) -> None:
        self.iteration = iteration
        self.values = dict(values)
        self.checkpoint = checkpoint
        what = ", ".join(f"{name} is {value}" for name, value in values.items())
        where = f"; the last good checkpoint is {checkpoint}" if checkpoint is not None else ""
        super().__init__(f"training diverged at iteration {iteration}: {what}{where}")
