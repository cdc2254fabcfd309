"""Iterative GAN (Ma et al., Neurocomputing 2019): one model that recognises, generates, rebuilds and edits faces.

``igan_fast.reference`` is the paper in plain PyTorch; ``IterativeGAN``, ``TrainStep`` and their company here are its
twins on fused operators (``igan_fast.ops``), with the same names, arguments, results and state. ``igan_fast.train``
trains, ``FaceEditor`` uses what was trained; ``fuse`` puts networks of your own on the operators.
"""

from __future__ import annotations

import igan_fast._interrupt  # isort: skip  # before all else: people press Ctrl-C while PyTorch is loaded
import igan_fast._start  # noqa: F401  # isort: skip  # before PyTorch, which reads what the command line sets

import importlib
from typing import TYPE_CHECKING, Any

from igan_fast import reference
from igan_fast._version import __version__
from igan_fast.errors import InputError
from igan_fast.models import IterativeGAN
from igan_fast.step import StepConfig, StepLosses, TrainStep

if TYPE_CHECKING:
    from igan_fast.editor import FaceEditor
    from igan_fast.fusion import fuse, unfuse

__all__ = [
    "FaceEditor",
    "InputError",
    "IterativeGAN",
    "StepConfig",
    "StepLosses",
    "TrainStep",
    "__version__",
    "fuse",
    "reference",
    "unfuse",
]


def __getattr__(name: str) -> Any:
    if name == "FaceEditor":  # with its photo and checkpoint handling, which importing a network should not wait for
        from igan_fast.editor import FaceEditor

        return FaceEditor
    if name in ("fuse", "unfuse"):
        from igan_fast import fusion

        return getattr(fusion, name)
    if name == "train":  # so that igan_fast.train.train is there after a plain `import igan_fast`
        return importlib.import_module("igan_fast.train")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is there now, and what would be loaded when it is asked for."""
    return sorted({*globals(), *__all__, "train"})
