"""Before the first iteration: which folder, new or continued, and which pictures; whatever is wrong is said here."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from igan_fast.data import open_source
from igan_fast.data.attributes import attribute_indices
from igan_fast.data.store import FaceStore, build_store
from igan_fast.errors import InputError
from igan_fast.files import check_place, clear_write_errors, write_file
from igan_fast.train.config import TrainConfig

__all__ = ["OpenedRun", "locked", "open_data", "open_run", "start_run"]

#: What the paper's figures reverse and ours show, where the data knows them.
PAPERS_ATTRIBUTES = ("Smiling", "Male", "Eyeglasses", "Blond_Hair")


class OpenedRun(NamedTuple):
    """A run folder, not yet written to."""

    folder: Path
    saved: TrainConfig | None
    """The config that a continued run was started with."""


def open_run(config: TrainConfig) -> OpenedRun:
    """Find the folder of a new run, or of one to be continued. Nothing is written.

    Raises:
        InputError: the folder holds another run, or is no folder; or the options contradict those of the run to be
            continued.
    """
    folder = config.run or _unused(Path("runs") / f"{_slug(config.data)}-{config.image_size}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--run {folder}: found a file, expected a folder")
    check_place(folder / "config.json")
    held = (folder / "config.json").exists() or (folder / "checkpoints").exists()
    if held and not config.resume:
        raise InputError(f"--run {folder}: already holds a run; continue it with --resume, or name another folder")
    if not held:
        return OpenedRun(folder, None)
    saved = TrainConfig.load(folder)
    config.check_resumable(saved)
    return OpenedRun(folder, saved)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process from training in ``folder``, which is made if needed, while the block runs.

    Raises:
        InputError: another process trains there now, or the folder cannot be made.
    """
    with clear_write_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    with clear_write_errors(str(folder)):
        try:
            lock.acquire(blocking=False)
        except Timeout:  # an OSError too
            message = f"--run {folder}: another process is training there; wait for it, or stop it first"
            raise InputError(message) from None
    try:
        yield
    finally:
        lock.release()


def open_data(config: TrainConfig) -> tuple[FaceStore, TrainConfig]:
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
    """Write the config into the run folder. Raises ``InputError`` where it cannot."""
    write_file(folder / "config.json", (json.dumps(config.to_json(), indent=2) + "\n").encode())


def _slug(data: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(data).resolve().name.lower()).strip("-") or "data"


def _unused(folder: Path) -> Path:
    number = 1
    candidate = folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
