"""Before the first iteration: which folder, new or continued, and which pictures; whatever is wrong is said here."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from igan_fast.data import open_source
from igan_fast.data.attributes import attribute_indices
from igan_fast.data.store import FaceStore, build_store
from igan_fast.errors import InputError
from igan_fast.train.checkpoint import Checkpoint, newest_checkpoint
from igan_fast.train.config import TrainConfig
from igan_fast.train.files import clear_write_errors, replace_file

__all__ = ["OpenedRun", "open_data", "open_run", "start_run"]


class OpenedRun(NamedTuple):
    """A run folder, not yet written to."""

    folder: Path
    saved: TrainConfig | None
    """The config that a continued run was started with."""
    checkpoint: Checkpoint | None
    """The newest whole checkpoint of a continued run."""


def open_run(config: TrainConfig, report: Callable[[str], None]) -> OpenedRun:
    """Find the folder of a new run, or the newest checkpoint of one to be continued. Nothing is written.

    Args:
        report: told of each damaged checkpoint that is passed over, in one line.

    Raises:
        InputError: the folder holds another run, or is no folder; or the options contradict those of the run to be
            continued; or each of its checkpoints is damaged.
    """
    folder = config.run or _unused(Path("runs") / f"{_slug(config.data)}-{config.image_size}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--run {folder}: found a file, expected a folder")
    held = (folder / "config.json").exists() or (folder / "checkpoints").exists()
    if not config.resume:
        if held:
            raise InputError(f"--run {folder}: already holds a run; continue it with --resume, or name another folder")
        return OpenedRun(folder, None, None)
    if not held:
        return OpenedRun(folder, None, None)
    saved = TrainConfig.load(folder)
    config.check_resumable(saved)
    return OpenedRun(folder, saved, newest_checkpoint(folder, report))


def open_data(config: TrainConfig, saved: TrainConfig | None) -> tuple[FaceStore, TrainConfig]:
    """The pictures, prepared at the run's size, and the config with what depends on them filled in.

    Raises:
        InputError: the data cannot be used, or an attribute is unknown, or there is nothing to train on.
    """
    source = open_source(
        config.data,
        split=config.split,
        attributes=config.attributes,
        strict=config.strict,
        seed=config.seed,
        drawn_count=config.drawn_count,
    )
    print(source.describe())
    if config.sample_attributes is None:
        known = [name for name in PAPERS_ATTRIBUTES if name in source.attributes]
        config = dataclasses.replace(config, sample_attributes=tuple(known or source.attributes[:4]))
    attribute_indices(config.sample_attributes or (), source.attributes, where="--sample-attributes")
    if not len(source.splits["train"]):
        raise InputError(f"--data {config.data}: no picture is left to train on")
    return build_store(source, config.image_size, cache=config.cache, strict=config.strict), config


def start_run(folder: Path, config: TrainConfig) -> None:
    """Write the config into the run folder, which is made if needed. Raises ``InputError`` where it cannot."""
    with clear_write_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "config.json", (json.dumps(config.to_json(), indent=2) + "\n").encode())


#: What the paper's figures reverse and ours show, where the data knows them.
PAPERS_ATTRIBUTES = ("Smiling", "Male", "Eyeglasses", "Blond_Hair")


def _slug(data: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(data).resolve().name.lower()).strip("-") or "data"


def _unused(folder: Path) -> Path:
    number = 1
    candidate = folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
