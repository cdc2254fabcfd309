"""Finds the checkpoints of a run, the best of them, and the checkpoint that a path names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from igan_fast.checkpoint.folder import MANIFEST, Checkpoint, CheckpointError, Fits, NewerFormat, load_checkpoint
from igan_fast.errors import InputError
from igan_fast.files import FileDamaged, FileMissing, FileUnreadable
from igan_fast.json_files import Natural, read_json

__all__ = [
    "BEST",
    "EXPORTED",
    "REPLACED",
    "BestCheckpoint",
    "best_checkpoint",
    "checkpoint_folders",
    "find_checkpoint",
    "is_checkpoint_name",
    "newest_checkpoint",
    "read_best",
]

#: The file that names the best checkpoint of a run, in its folder of checkpoints.
BEST = "best.json"

#: The file that ``igan-fast export`` describes the networks in its folder with.
EXPORTED = "model.json"

#: The suffix of a checkpoint while another one of the same iteration replaces it.
REPLACED = ".replaced"

_STEP = re.compile(r"step-(\d{8,})(\.replaced)?")


def newest_checkpoint(run: Path, report: Callable[[str], None], *, fits: Fits | None = None) -> Checkpoint | None:
    """Load the newest undamaged checkpoint of ``run``. Return ``None`` if it has no checkpoints.

    Args:
        run: the run's folder.
        report: called with one line for each newer checkpoint that is damaged.
        fits: as for :func:`load_checkpoint`.

    Raises:
        CheckpointError: all checkpoints are damaged; or a newer version of the package wrote a checkpoint that is newer
            than the newest undamaged one.
        FileUnreadable: the system could not read a file of a newer checkpoint, which may be undamaged.
    """
    folders = [folder for _, folder in checkpoint_folders(run)]
    return _first_whole(run, folders, report, fits=fits) if folders else None


def find_checkpoint(
    path: Path,
    report: Callable[[str], None] = warnings.warn,
    *,
    only: Collection[str] | None = None,
    fits: Fits | None = None,
) -> Checkpoint:
    """Load the checkpoint in ``path``, which is a checkpoint folder or a run.

    Of a run the best checkpoint is loaded; if there is none, the newest. If that one is damaged, the newest undamaged
    checkpoint is loaded instead.

    Args:
        path: the run or checkpoint folder.
        report: called with one line for each damaged checkpoint that another one replaces.
        only, fits: as for :func:`load_checkpoint`. Files that are not read are not verified.

    Raises:
        InputError: ``path`` is neither a checkpoint folder nor a run, or is a run without a checkpoint.
        CheckpointError: all checkpoints are damaged, or a newer version of the package wrote the one to be loaded.
        FileUnreadable: the system could not read a file of the checkpoint to be loaded.
    """
    return _first_whole(path, _candidates(path, report), report, only, fits)


def _candidates(path: Path, report: Callable[[str], None]) -> list[Path]:
    """Return the checkpoints that ``path`` may mean, the preferred one first."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such folder; expected a run or a checkpoint folder")
        if (path / MANIFEST).exists() or is_checkpoint_name(path.name):
            return [path]
        if not (path / "checkpoints").is_dir():
            there = f"no {MANIFEST} and no checkpoints folder"
            if (path / EXPORTED).is_file():
                there = "networks that igan-fast export wrote"
            raise InputError(f"{path}: found {there}; expected a run or a checkpoint folder")
    except OSError as error:
        raise FileUnreadable(f"{path}: cannot be read ({error.strerror or error})") from error
    folders = [folder for _, folder in checkpoint_folders(path)]
    if not folders:
        raise InputError(f"{path}: this run has no checkpoint yet")
    best = best_checkpoint(path, report)
    return folders if best is None else [best.folder, *(folder for folder in folders if folder != best.folder)]


def _first_whole(
    path: Path,
    folders: Sequence[Path],
    report: Callable[[str], None],
    only: Collection[str] | None = None,
    fits: Fits | None = None,
) -> Checkpoint:
    damaged: list[CheckpointError] = []
    for folder in folders:
        try:
            whole = load_checkpoint(folder, only, fits)
        except NewerFormat:
            raise  # it is not damaged, and training from an older checkpoint would lose it
        except CheckpointError as error:
            if len(folders) == 1:
                raise
            damaged.append(error)
            continue
        for skipped in damaged:
            report(f"{skipped}; this checkpoint is skipped")
        return whole
    raise CheckpointError(f"{path}: none of its {len(folders)} checkpoints can be used; the first: {damaged[0]}")


class BestCheckpoint(NamedTuple):
    """The checkpoint in ``best.json``, and the score by which it was chosen."""

    folder: Path
    iteration: int
    score: float


def is_checkpoint_name(name: str) -> bool:
    """Whether a folder of this name is a finished checkpoint of a run."""
    return _STEP.fullmatch(name) is not None


def checkpoint_folders(run: Path) -> list[tuple[int, Path]]:
    """Return (iteration, folder) of each finished checkpoint, newest first. A replaced one follows its replacement.

    Raises:
        FileUnreadable: the system could not list them.
    """
    checkpoints = run / "checkpoints"
    try:
        names = [path.name for path in checkpoints.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FileUnreadable(f"{checkpoints}: cannot be read ({error.strerror or error})") from error
    matches = [match for name in names if (match := _STEP.fullmatch(name))]
    matches.sort(key=lambda match: (int(match[1]), match[2] is None), reverse=True)
    return [(int(match[1]), checkpoints / match[0]) for match in matches]


def best_checkpoint(run: Path, report: Callable[[str], None] = warnings.warn) -> BestCheckpoint | None:
    """Return the checkpoint that ``best.json`` names, without verifying it, or ``None`` if there is none.

    If the file is damaged or its checkpoint is missing, ``report`` is called with one line, and the result is ``None``.

    Raises:
        FileUnreadable: the system could not read ``best.json``.
    """
    try:
        best = read_best(run)
    except FileDamaged as error:
        report(f"{error}; no checkpoint counts as the best")
        return None
    if best is not None and not best.folder.exists():
        report(
            f"{run / 'checkpoints' / BEST}: names iteration {best.iteration}, whose checkpoint is gone; "
            "no checkpoint counts as the best"
        )
        return None
    return best


def read_best(run: Path) -> BestCheckpoint | None:
    """Read ``best.json``, even if its checkpoint is missing. Raises ``FileDamaged`` and ``FileUnreadable``."""
    try:
        content = read_json(run / "checkpoints" / BEST, {"iteration": Natural, "score": float})
    except FileMissing:
        return None
    iteration = content["iteration"]
    folder = next((folder for found, folder in checkpoint_folders(run) if found == iteration), None)
    folder = folder or run / "checkpoints" / f"step-{iteration:08d}"
    return BestCheckpoint(folder, iteration, float(content["score"]))
