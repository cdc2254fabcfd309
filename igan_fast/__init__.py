"""Iterative GAN (Ma et al., Neurocomputing 2019): one model that recognises, generates, rebuilds and edits faces.

``igan_fast.reference`` is the paper in plain PyTorch. ``IterativeGAN`` and ``TrainStep`` here compute the same with
fused operators (``igan_fast.ops``). Their names, arguments, results and ``state_dict`` keys are the reference's.
``igan_fast.train`` trains a model, ``FaceEditor`` uses it, and ``fuse`` puts your own networks on the
operators.
"""

from __future__ import annotations

import igan_fast._interrupt  # isort: skip  # first: people press Ctrl-C while PyTorch is loaded
import igan_fast._start  # noqa: F401  # isort: skip  # before PyTorch, whose OpenMP reads what it sets

import importlib
from typing import TYPE_CHECKING, Any

from igan_fast import reference
from igan_fast._version import __version__
from igan_fast.errors import InputError
from igan_fast.models import IterativeGAN
from igan_fast.ops.constant import freeze
from igan_fast.reference.editing import Amount
from igan_fast.step import StepConfig, StepLosses, TrainStep

if TYPE_CHECKING:
    from igan_fast.editor import FaceEditor
    from igan_fast.fusion import fuse, unfuse

__all__ = [
    "Amount",
    "FaceEditor",
    "InputError",
    "IterativeGAN",
    "StepConfig",
    "StepLosses",
    "TrainStep",
    "__version__",
    "freeze",
    "fuse",
    "reference",
    "unfuse",
]


def __getattr__(name: str) -> Any:
    if name == "FaceEditor":  # on first use: it imports libraries that a network alone does not need
        from igan_fast.editor import FaceEditor

        return FaceEditor
    if name in ("fuse", "unfuse"):
        from igan_fast import fusion

        return getattr(fusion, name)
    if name == "train":  # so that igan_fast.train.train works after a plain `import igan_fast`
        return importlib.import_module("igan_fast.train")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names that are loaded already, and those that are loaded on first use."""
    return sorted({*globals(), *__all__, "train"})
