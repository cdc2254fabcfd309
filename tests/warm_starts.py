"""Tiny runs that start from another one, for the tests of ``--init``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from igan_fast.baselines.config import BaselineConfig
from igan_fast.baselines.registry import BaselineName
from igan_fast.train import TrainConfig, train
from igan_fast.train.trainer import Trainer

__all__ = ["CHANGES", "OLD", "assert_equal", "at_start", "baseline_config", "beginning", "options"]

OLD = ("Smiling", "Male", "Eyeglasses", "Bangs")
#: Of the old attributes: permuted, with new ones, without some, and all three at once.
CHANGES: dict[str, tuple[str, ...]] = {
    "same": OLD,
    "permuted": ("Bangs", "Smiling", "Eyeglasses", "Male"),
    "added": ("Young", *OLD, "Blond_Hair"),
    "removed": ("Male", "Bangs"),
    "all": ("Bangs", "Young", "Male"),
    "none known": ("Young", "Blond_Hair"),
}
SIZES = ("image_size", "width", "latent")


def options(tiny: dict[str, Any], run: Path, **more: Any) -> dict[str, Any]:
    own = {"attributes": OLD, "run": run, "iterations": 3, "sample_every": 9, "checkpoint_every": 9}
    return tiny | own | more


def beginning(tiny: dict[str, Any], run: Path, init: Path, **more: Any) -> TrainConfig:
    """A new run from ``init``. The sizes are not given."""
    given = options(tiny, run, init=init, seed=5, drawn_count=40, **more)
    return TrainConfig(**{name: value for name, value in given.items() if name not in SIZES or name in more})


def baseline_config(tiny: dict[str, Any], run: Path, method: BaselineName, **more: Any) -> BaselineConfig:
    common = {name: tiny[name] for name in ("data", "drawn_count", "device", "threads", "cache")}
    sizes = {} if "init" in more else {"image_size": 32, "width": 4}
    attributes = OLD[:1] if method == "cyclegan" else OLD
    own = {"method": method, "batch_size": 4, "iterations": 1, "run": run, "attributes": attributes}
    return BaselineConfig(**common | sizes | own | more)


def at_start(config: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The method of a run before its first iteration."""
    found: list[Any] = []

    class Enough(Exception):
        pass

    def stopped(trainer: Trainer) -> None:
        found.append(trainer.method)
        raise Enough

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", stopped)
        with pytest.raises(Enough):
            train(config)
    return found[0]


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
