"""Which checkpoints of a run are kept: the newest, the best, and every one that could not be read."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from igan_fast.checkpoint.find import BEST, REPLACED, best_checkpoint, checkpoint_folders, read_best
from igan_fast.checkpoint.folder import CheckpointError, has_manifest, load_checkpoint
from igan_fast.files import (
    FileDamaged,
    FileUnreadable,
    clear_write_errors,
    is_temporary_name,
    replace_file,
    temporary_path,
)

__all__ = [
    "mark_best",
    "prune_checkpoints",
    "remove_leftovers",
    "restore_best",
    "retire",
    "set_aside_newer",
]

#: Temporary names that older versions of the package gave; a killed process may have left such files.
_OLD_TEMPORARY = re.compile(r"tmp-(removed-)?(step-\d{8,}(\.replaced)?|best\.json)-\d+")


def mark_best(run: Path, iteration: int, score: float) -> None:
    """Note that the checkpoint of ``iteration`` is the best so far, by ``score`` (finite; its meaning is the caller's).

    Raises:
        ValueError: there is no such checkpoint.
        InputError: the note cannot be written.
    """
    if not any(found == iteration for found, _ in checkpoint_folders(run)):
        raise ValueError(f"{run} has no checkpoint of iteration {iteration}")
    path = run / "checkpoints" / BEST
    with clear_write_errors(str(path)):
        replace_file(path, json.dumps({"iteration": iteration, "score": score}, allow_nan=False).encode("ascii"))


def restore_best(run: Path, score: Callable[[Mapping[str, float]], float], report: Callable[[str], None]) -> None:
    """Mark the best anew where the mark is damaged or names no checkpoint, by the metrics that checkpoints hold.

    Args:
        run: the run's folder.
        score: what :func:`mark_best` was given for these ``metrics`` of a state.
        report: told in one line, where the mark was of no use.

    Raises:
        InputError: the mark can be neither read nor written.
    """
    found: list[str] = []
    if best_checkpoint(run, found.append) is not None or not found:
        return
    scores: dict[int, float] = {}
    for iteration, folder in checkpoint_folders(run):
        try:
            metrics = load_checkpoint(folder, only=()).state.get("metrics")
            if metrics:
                scores.setdefault(iteration, score(metrics))
        except (CheckpointError, KeyError, TypeError, AttributeError):
            continue
    if scores:
        iteration = min(scores, key=lambda each: scores[each])
        mark_best(run, iteration, scores[iteration])
        report(f"{found[0].split(';')[0]}; by the scores in the checkpoints the best is that of iteration {iteration}")


def prune_checkpoints(run: Path, keep: int, report: Callable[[str], None] = warnings.warn) -> None:
    """Remove all checkpoints but the newest ``keep`` (at least 1) and the best, and what a killed writer left.

    What is not a checkpoint of this version's format stays, and where the mark of the best is damaged nothing goes: it
    would have said what must stay.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; expected at least 1")
    try:
        best = read_best(run)
    except FileDamaged as error:
        report(f"{error}; no checkpoint is removed")
        return
    folders = checkpoint_folders(run)
    kept = set(sorted({iteration for iteration, _ in folders}, reverse=True)[:keep])
    if best is not None:
        kept.add(best.iteration)
    with clear_write_errors(str(run / "checkpoints")):
        for iteration, folder in folders:
            if folder.name.endswith(REPLACED) and folder.with_suffix("").exists():
                retire(folder)
            elif iteration not in kept and has_manifest(folder):
                _remove(folder)
    remove_leftovers(run / "checkpoints")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer of ours left in ``folder``, known by its name."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if is_temporary_name(path.name) or _OLD_TEMPORARY.fullmatch(path.name):
            _delete(path)


def set_aside_newer(run: Path, whole: Path, report: Callable[[str], None]) -> None:
    """Rename every checkpoint newer than ``whole`` to a name that no reader takes: a run that goes on from that one has
    passed them over, and what it writes will not be their continuation.

    Raises:
        InputError: a name cannot be changed.
    """
    for _, folder in checkpoint_folders(run):
        if folder == whole:
            return
        with clear_write_errors(str(folder)):
            report(f"{folder}: kept as {_set_aside(folder).name}")


def retire(folder: Path) -> None:
    """Remove a checkpoint that another one replaces if it is whole; set it aside if it is not."""
    if not folder.exists():
        return
    try:
        load_checkpoint(folder)
    except CheckpointError:
        _set_aside(folder)
    except FileUnreadable:
        return  # nothing is known of it now
    else:
        _remove(folder)


def _set_aside(folder: Path) -> Path:
    number, name = 1, f"passed-over-{folder.name}"
    aside = folder.with_name(name)
    while aside.exists() or aside.is_symlink():
        number += 1
        aside = folder.with_name(f"{name}-{number}")
    folder.rename(aside)
    return aside


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that a kill half-way leaves nothing that looks like one."""
    doomed = temporary_path(folder)
    folder.rename(doomed)
    _delete(doomed)


def _delete(path: Path) -> None:
    """Remove a folder, a file, or a link without what it points to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
