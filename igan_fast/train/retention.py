"""Decides which checkpoints of a run are kept: the newest, the best, and those that cannot be read."""

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
    "checkpoint_score",
    "mark_best",
    "prune_checkpoints",
    "remove_leftovers",
    "restore_best",
    "retire",
    "set_aside_newer",
]

#: Temporary names in older versions of the package. A killed process may have left such files.
_OLD_TEMPORARY = re.compile(r"tmp-(removed-)?(step-\d{8,}(\.replaced)?|best\.json)-\d+")


def checkpoint_score(metrics: Mapping[str, float]) -> float:
    """Return the score by which checkpoints are ranked. The lowest score is the best.

    It is the sum of two mean absolute errors of comparable size, so the best model is good at both tasks.

    Args:
        metrics: ``TrainResult.metrics``, not empty.
    """
    return metrics["rebuild_l1"] + metrics["hamming_loss"]


def mark_best(run: Path, iteration: int, score: float) -> None:
    """Write to ``best.json`` that the checkpoint of ``iteration`` is the best so far.

    Args:
        run: the run's folder.
        iteration: the iteration of the checkpoint.
        score: the score of the checkpoint, finite, in the caller's units.

    Raises:
        ValueError: there is no such checkpoint.
        InputError: the file cannot be written.
    """
    if not any(found == iteration for found, _ in checkpoint_folders(run)):
        raise ValueError(f"{run} has no checkpoint of iteration {iteration}")
    path = run / "checkpoints" / BEST
    with clear_write_errors(str(path)):
        replace_file(path, json.dumps({"iteration": iteration, "score": score}, allow_nan=False).encode("ascii"))


def restore_best(run: Path, score: Callable[[Mapping[str, float]], float], report: Callable[[str], None]) -> None:
    """If ``best.json`` is damaged or its checkpoint is missing, write it again from the metrics in the checkpoints.

    Args:
        run: the run's folder.
        score: returns the score of the ``metrics`` in a checkpoint's state. The lowest is the best.
        report: called with one line if ``best.json`` is written.

    Raises:
        InputError: the file cannot be read or written.
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
    """Remove all checkpoints except the newest ``keep`` (at least 1) and the best, and leftovers of killed processes.

    A checkpoint of another format is never removed. If ``best.json`` is damaged, nothing is removed, because the best
    checkpoint is then unknown.
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
    """Remove the temporary files and folders that a killed process left in ``folder``. Their names identify them."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if is_temporary_name(path.name) or _OLD_TEMPORARY.fullmatch(path.name):
            _delete(path)


def set_aside_newer(run: Path, whole: Path, report: Callable[[str], None]) -> None:
    """Rename all checkpoints newer than ``whole``, so that they are never read again.

    The run is resumed from ``whole``, so its next checkpoints do not continue the newer ones.

    Raises:
        InputError: a folder cannot be renamed.
    """
    for _, folder in checkpoint_folders(run):
        if folder == whole:
            return
        with clear_write_errors(str(folder)):
            report(f"{folder}: kept as {_set_aside(folder).name}")


def retire(folder: Path) -> None:
    """Remove a checkpoint that has been replaced, or rename it if it is damaged."""
    if not folder.exists():
        return
    try:
        load_checkpoint(folder)
    except CheckpointError:
        _set_aside(folder)
    except FileUnreadable:
        return  # its content is unknown
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
    """Remove a checkpoint. It is renamed first, so that a kill during removal leaves no incomplete checkpoint."""
    doomed = temporary_path(folder)
    folder.rename(doomed)
    _delete(doomed)


def _delete(path: Path) -> None:
    """Remove a folder, a file or a link; the target of a link is left alone."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
