"""Training: ``train(TrainConfig(...))`` is what ``igan-fast train`` runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from igan_fast.train.config import TrainConfig

if TYPE_CHECKING:
    from igan_fast.train.loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the other commands need the options of ``train``, but not the loop.
    if name in ("loop", "TrainResult", "train"):
        loop = importlib.import_module("igan_fast.train.loop")
        return loop if name == "loop" else getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names that are loaded already, and those that are loaded on first use."""
    return sorted({*globals(), *__all__, "loop"})
