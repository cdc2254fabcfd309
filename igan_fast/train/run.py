"""Opens a run before its first iteration: its new or existing folder, its data, and its lock."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from igan_fast.checkpoint.find import checkpoint_folders
from igan_fast.data import open_source
from igan_fast.data.attributes import attribute_indices
from igan_fast.data.store import FaceStore, build_store
from igan_fast.errors import InputError, printable
from igan_fast.faces import training_aligner
from igan_fast.files import check_place, clear_write_errors, write_file
from igan_fast.train.retention import remove_leftovers, set_aside_newer
from igan_fast.train.run_config import Config, RunConfig

__all__ = ["OpenedRun", "locked", "open_data", "open_run", "start_run"]

#: The attributes that the paper's figures flip. The sample grids flip those that the data has.
PAPERS_ATTRIBUTES = ("Smiling", "Male", "Eyeglasses", "Blond_Hair")


class OpenedRun(NamedTuple):
    """A run folder before anything is written to it."""

    folder: Path
    resumed: bool
    """Whether the folder holds a run to be resumed."""


def open_run(config: RunConfig) -> OpenedRun:
    """Find the folder of a new or a resumed run. Nothing is written.

    Raises:
        InputError: the path is not a folder, the folder holds another run, or the options contradict those of the
            resumed run.
    """
    folder = config.run or _unused(Path("runs") / f"{_slug(config.data)}-{config.image_size}")
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--run {folder}: found a file, expected a folder")
        check_place(folder / "config.json")
        resumed = bool(checkpoint_folders(folder))
        if resumed and not config.resume:
            raise InputError(f"--run {folder}: already holds a run; continue it with --resume, or name another folder")
        if resumed:
            config.check_resumable(type(config).load(folder))
        elif os.path.lexists(folder / "config.json"):
            _check_failed_start(folder, type(config))
    except OSError as error:
        raise InputError(f"--run {folder}: cannot be read ({error.strerror or error})") from error
    return OpenedRun(folder, resumed)


def _check_failed_start(folder: Path, kind: type[RunConfig]) -> None:
    """Raise an error if config.json is not the config of a run. A run that failed before its first checkpoint may be
    started again with other options; its config.json is then replaced."""
    try:
        kind.load(folder)
    except InputError as error:
        raise InputError(
            f"--run {folder}: its config.json belongs to no run that can start again; name another folder ({error})"
        ) from error


@contextmanager
def locked(folder: Path, *, called: str = "--run") -> Iterator[None]:
    """Lock ``folder`` (made if needed), so that no other process trains in it while the block runs.

    Args:
        folder: the folder of a run, or of several.
        called: the option that names it, for the message.

    Raises:
        InputError: another process is training there, or the folder cannot be made.
    """
    with clear_write_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    with clear_write_errors(str(folder)):
        try:
            lock.acquire(blocking=False)
        except Timeout:  # an OSError too
            message = f"{called} {folder}: another process is training there; wait for it, or stop it first"
            raise InputError(message) from None
    try:
        yield
    finally:
        lock.release()


def open_data(config: Config, *, progress: bool = True) -> tuple[FaceStore, Config]:
    """Return the decoded images at the run's size, and the config, completed with the options that depend on the data.

    If several processes of a machine open the same images, one prepares them and the others wait.

    Args:
        config: of the run.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the data cannot be used, an attribute is unknown, or there is no photo to train on.
    """
    source = open_source(
        config.data,
        split=config.split,
        attributes=config.attributes,
        strict=config.strict,
        seed=config.seed,
        drawn_count=config.drawn_count,
        align=training_aligner(config.align),
    )
    print(printable(source.describe()))
    if config.sample_attributes is None:
        known = [name for name in PAPERS_ATTRIBUTES if name in source.attributes]
        config = dataclasses.replace(config, sample_attributes=tuple(known or source.attributes[:4]))
    attribute_indices(config.sample_attributes or (), source.attributes, where="--sample-attributes")
    if not len(source.splits["train"]):
        raise InputError(f"--data {config.data}: no photo is left to train on")
    return build_store(source, config.image_size, cache=config.cache, strict=config.strict, progress=progress), config


def start_run(folder: Path, config: RunConfig, checkpoint: Path | None) -> None:
    """Prepare the folder for the first iteration.

    The config is written. Leftovers of a killed process are removed. Damaged checkpoints that are newer than
    ``checkpoint`` are renamed.

    Args:
        folder: the folder of the run.
        config: the config of the run.
        checkpoint: the checkpoint to resume from; None for a new run.

    Raises:
        InputError: a file cannot be written.
    """
    with clear_write_errors(str(folder)):
        for place in (folder, folder / "samples"):
            remove_leftovers(place)
    if checkpoint is not None:
        set_aside_newer(folder, checkpoint, report=lambda line: print(printable(line)))
    write_file(folder / "config.json", (json.dumps(config.to_json(), indent=2) + "\n").encode())


def _slug(data: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(os.path.realpath(data)).name.lower()).strip("-") or "data"


def _unused(folder: Path) -> Path:
    number = 1
    candidate = folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
