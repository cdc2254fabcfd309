"""The checkpoints of a run: written atomically, kept or pruned, and found again after a crash.

A kill at any moment leaves the checkpoint before usable, because a new one is written beside it, forced to the disk and
only then renamed to its name; a damaged one is told from a whole one by the checksums of its manifest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from igan_fast.devices import operators_on
from igan_fast.errors import InputError
from igan_fast.files import clear_write_errors, replace_file, sync_folder
from igan_fast.models import IterativeGAN
from igan_fast.train.checkpoint_folder import (
    MANIFEST,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    write_checkpoint_folder,
)

__all__ = [
    "BestCheckpoint",
    "Checkpoint",
    "CheckpointError",
    "LoadedModel",
    "best_checkpoint",
    "find_checkpoint",
    "load_checkpoint",
    "load_model",
    "mark_best",
    "newest_checkpoint",
    "prune_checkpoints",
    "save_checkpoint",
]

_BEST = "best.json"
_REPLACED = ".replaced"
_STEP = re.compile(r"step-(\d{8,})(\.replaced)?")


class BestCheckpoint(NamedTuple):
    """The checkpoint that :func:`mark_best` named last, and the score that it was chosen by."""

    folder: Path
    iteration: int
    score: float


class LoadedModel(NamedTuple):
    """A trained model, ready to use: in eval mode, on the device that was asked for."""

    model: IterativeGAN
    attributes: tuple[str, ...]
    label_samples: list[str]
    """Some rows of real labels, "0" and "1" for each attribute; as the checkpoint has them, not checked."""
    iteration: int
    config: dict[str, Any]
    folder: Path


def save_checkpoint(
    run: Path, iteration: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint of ``iteration`` to ``run``; on return the disk has it whole.

    A checkpoint of the same iteration is replaced. Those of later iterations are removed: a run that saves this
    one has gone back to before them, because they were damaged.

    Args:
        run: the run's folder, made if needed.
        iteration: how many iterations the state has behind it.
        tensors: groups (``"model"``, ``"ema"``, ``"optimizer_d"`` …) of named tensors of any dtype, shape, strides and
            device, memory shared or not; each group becomes one file.
        state: what else a resume needs, as JSON holds it; floats come back exactly, tuples as lists.

    Returns:
        The new folder, ``run/checkpoints/step-NNNNNNNN``.

    Raises:
        InputError: the disk is full or the folder cannot be written; nothing is left behind then and the older
            checkpoints are whole.
        TrainingDiverged: a floating-point tensor holds NaN or Inf; nothing is left behind.
        TypeError, ValueError: ``state`` holds what JSON does not, NaN and Inf among them.
    """
    checkpoints = run / "checkpoints"
    final = checkpoints / f"step-{iteration:08d}"
    temporary = checkpoints / f"tmp-{final.name}-{os.getpid()}"
    consequence = f"the checkpoint of iteration {iteration} was not written, older ones are untouched"
    with clear_write_errors(str(checkpoints), consequence):
        checkpoints.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had our number
        try:
            write_checkpoint_folder(temporary, iteration, tensors, state)
            _put_in_place(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    with clear_write_errors(str(checkpoints)):
        for later, folder in _folders(run):
            if later > iteration:
                _remove(folder)
    return final


def newest_checkpoint(run: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint of ``run``; ``None`` where it has none at all.

    Each damaged newer one is told to ``report`` in one line.

    Raises:
        CheckpointError: there are checkpoints and every one is damaged.
    """
    folders = [folder for _, folder in _folders(run)]
    return _first_whole(run, folders, report) if folders else None


def find_checkpoint(
    path: Path, report: Callable[[str], None] = warnings.warn, *, only: Collection[str] | None = None
) -> Checkpoint:
    """The whole checkpoint that a user means by ``path``: a run (its best, else its newest), or a checkpoint folder.

    ``only`` is that of :func:`load_checkpoint`; files that are not read are not verified.

    Raises:
        InputError: ``path`` is neither, or holds no checkpoint yet.
        CheckpointError: it does, and every one is damaged. A damaged one that another stands in for is only told to
            ``report``, in one line.
    """
    return _first_whole(path, _meant_by(path, report), report, only)


def mark_best(run: Path, iteration: int, score: float) -> None:
    """Note that the checkpoint of ``iteration`` is the best so far, by ``score`` (finite; its meaning is the caller's).

    Raises:
        ValueError: there is no such checkpoint.
        InputError: the note cannot be written.
    """
    if not any(found == iteration for found, _ in _folders(run)):
        raise ValueError(f"{run} has no checkpoint of iteration {iteration}")
    path = run / "checkpoints" / _BEST
    with clear_write_errors(str(path)):
        replace_file(path, json.dumps({"iteration": iteration, "score": score}, allow_nan=False).encode("ascii"))


def best_checkpoint(run: Path, report: Callable[[str], None] = warnings.warn) -> BestCheckpoint | None:
    """The checkpoint that was marked best, not verified; ``None`` where none was.

    A mark that is damaged, or whose checkpoint is gone, counts as none and is told to ``report`` in one line.
    """
    path = run / "checkpoints" / _BEST
    try:
        content = json.loads(path.read_bytes())
        iteration, score = int(content["iteration"]), float(content["score"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        report(f"{path}: damaged; no checkpoint counts as the best")
        return None
    for found, folder in _folders(run):
        if found == iteration:
            return BestCheckpoint(folder, iteration, score)
    report(f"{path}: names iteration {iteration}, whose checkpoint is gone; no checkpoint counts as the best")
    return None


def prune_checkpoints(run: Path, keep: int) -> None:
    """Remove all checkpoints but the newest ``keep`` (at least 1) and the best, and what a killed writer left."""
    if keep < 1:
        raise ValueError(f"keep is {keep}; expected at least 1")
    best = best_checkpoint(run)
    folders = _folders(run)
    kept = set(sorted({iteration for iteration, _ in folders}, reverse=True)[:keep])
    if best is not None:
        kept.add(best.iteration)
    with clear_write_errors(str(run / "checkpoints")):
        for iteration, folder in folders:
            if iteration in kept:
                kept.remove(iteration)  # a second folder of this iteration is the one that it replaced
            else:
                _remove(folder)
        for leftover in (run / "checkpoints").glob("tmp-*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()


def load_model(
    path: Path,
    *,
    device: str | torch.device = "cpu",
    weights: Literal["ema", "model"] = "ema",
    report: Callable[[str], None] = warnings.warn,
) -> LoadedModel:
    """The model in a run or checkpoint folder (as :func:`find_checkpoint` takes it), ready to use.

    Args:
        path: the run or checkpoint folder.
        device: where the model goes.
        weights: the averaged ones (the plain ones where the run kept no average), or the plain ones.
        report: told of each damaged checkpoint that another stands in for.

    Raises:
        InputError, CheckpointError: as :func:`find_checkpoint`; also a checkpoint that holds no model.
    """
    operators_on(device)  # refused here and not at the first photo
    if weights not in ("ema", "model"):
        raise InputError(f"weights: found {weights!r}, expected 'ema' or 'model'")
    loaded = _build_model(find_checkpoint(path, report, only=[weights, "model"]), weights)
    loaded.model.to(device)
    return loaded


def _build_model(checkpoint: Checkpoint, weights: str) -> LoadedModel:
    folder = checkpoint.folder
    tensors = checkpoint.tensors.get(weights) or checkpoint.tensors.get("model")
    if not tensors:
        raise CheckpointError(f"{folder}: holds no model")
    try:
        described = checkpoint.state["model"]
        attributes = tuple(str(name) for name in described["attributes"])
        with torch.random.fork_rng(devices=[]):  # weights that are overwritten at once should not move the caller's RNG
            model = IterativeGAN(**described["arguments"])
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: state.json does not describe a model ({error})") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: the tensors do not fit the model of state.json: {reason}") from error
    if len(attributes) != model.arguments()["attributes"]:
        raise CheckpointError(
            f"{folder}: state.json names {len(attributes)} attributes for a model of {model.arguments()['attributes']}"
        )
    config = dict(checkpoint.state.get("config") or {})
    label_samples = described.get("label_samples") or []
    return LoadedModel(model.eval(), attributes, label_samples, checkpoint.iteration, config, folder)


def _folders(run: Path) -> list[tuple[int, Path]]:
    """(iteration, folder) of every finished checkpoint, newest first; of one iteration, the replaced one last."""
    checkpoints = run / "checkpoints"
    names = (path.name for path in checkpoints.iterdir()) if checkpoints.is_dir() else iter(())
    matches = [match for name in names if (match := _STEP.fullmatch(name))]
    matches.sort(key=lambda match: (int(match[1]), match[2] is None), reverse=True)
    return [(int(match[1]), checkpoints / match[0]) for match in matches]


def _meant_by(path: Path, report: Callable[[str], None]) -> list[Path]:
    """The checkpoints that ``path`` may mean, in the order of preference."""
    if not path.exists():
        raise InputError(f"{path}: no such folder; expected a run or a checkpoint folder")
    if (path / MANIFEST).exists() or _STEP.fullmatch(path.name):
        return [path]
    if not (path / "checkpoints").is_dir():
        raise InputError(
            f"{path}: found no {MANIFEST} and no checkpoints folder; expected a run or a checkpoint folder"
        )
    folders = [folder for _, folder in _folders(path)]
    if not folders:
        raise InputError(f"{path}: this run has no checkpoint yet")
    best = best_checkpoint(path, report)
    return folders if best is None else [best.folder, *(folder for folder in folders if folder != best.folder)]


def _first_whole(
    path: Path, folders: Sequence[Path], report: Callable[[str], None], only: Collection[str] | None = None
) -> Checkpoint:
    damaged: list[CheckpointError] = []
    for folder in folders:
        try:
            whole = load_checkpoint(folder, only)
        except CheckpointError as error:
            if len(folders) == 1:
                raise
            damaged.append(error)
            continue
        for passed in damaged:
            report(f"{passed}; this checkpoint is passed over")
        return whole
    raise CheckpointError(f"{path}: none of its {len(folders)} checkpoints can be used; the first: {damaged[0]}")


def _put_in_place(temporary: Path, final: Path) -> None:
    # No call swaps two folders on every system, so that a replaced one waits under a name that a reader also takes.
    replaced = final.with_name(final.name + _REPLACED)
    if final.exists():
        _remove(replaced)
        final.rename(replaced)
    temporary.rename(final)
    sync_folder(final.parent)
    _remove(replaced)


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that a kill half-way leaves nothing that looks like one."""
    if folder.exists():
        doomed = folder.with_name(f"tmp-removed-{folder.name}-{os.getpid()}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
