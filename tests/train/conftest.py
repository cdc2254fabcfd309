"""A tiny run: small enough that training it several times costs seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from warm_starts import baseline_config, options

from igan_fast.train import TrainConfig, train

TINY: dict[str, Any] = {
    "data": "drawn", "drawn_count": 48, "image_size": 32, "width": 2, "latent": 5, "batch_size": 8,
    "log_every": 2, "sample_every": 3, "checkpoint_every": 3, "validation_images": 4, "lr": 1e-3, "device": "cpu",
    "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of a tiny run on drawn faces; the prepared pictures are shared by all tests."""
    cache: Path = tmp_path_factory.mktemp("cache")
    return {**TINY, "cache": cache}


@pytest.fixture(scope="session")
def old(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three iterations with the attributes ``warm_starts.OLD``."""
    run = tmp_path_factory.mktemp("old") / "run"
    train(TrainConfig(**options(tiny, run)))
    return run


@pytest.fixture(scope="session")
def dcgan(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the baseline DCGAN."""
    run = tmp_path_factory.mktemp("dcgan") / "run"
    train(baseline_config(tiny, run, "dcgan"))
    return run
