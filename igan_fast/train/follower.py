"""The monitor of a process that is not the first of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from igan_fast.train.monitor import Monitor

__all__ = ["Follower"]


class Follower(Monitor):
    """Checks the losses as ``Monitor`` does, and writes nothing.

    The losses are the same in all processes, so all raise ``TrainingDiverged`` in the same iteration.
    """

    def _open(self, start: int) -> None:
        nothing: Any = _Nothing()
        self._log, self._board, self._is_terminal = nothing, nothing, False

    def _show(self, means: object, speed: float) -> None:
        pass

    def image(self, name: str, image: Image.Image) -> Path:
        raise AssertionError("only the first process draws samples")

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        self.flush()
        self._release()


class _Nothing:
    """A file that takes everything and keeps nothing."""

    def write(self, record: object) -> None:
        pass

    def scalars(self, values: object, iteration: int) -> None:
        pass

    def text(self, name: str, text: str, iteration: int) -> None:
        pass

    def close(self) -> None:
        pass
