"""The checkpoints of a run: written atomically, kept or pruned, and found again after a crash.

A kill at any moment leaves the checkpoint before usable, because a new one is written beside it, forced to the disk and
only then renamed to its name; a damaged one is told from a whole one by the checksums of its manifest.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from igan_fast.devices import operators_on
from igan_fast.errors import InputError
from igan_fast.files import FileUnreadable, clear_write_errors, sync_folder, temporary_path
from igan_fast.models import IterativeGAN
from igan_fast.train.checkpoint_folder import (
    MANIFEST,
    Checkpoint,
    CheckpointError,
    Fits,
    NewerFormat,
    load_checkpoint,
    write_checkpoint_folder,
)
from igan_fast.train.checkpoint_state import check_statistics, described_model
from igan_fast.train.checkpoints_kept import (
    REPLACED,
    BestCheckpoint,
    best_checkpoint,
    checkpoint_folders,
    is_checkpoint_name,
    mark_best,
    prune_checkpoints,
    retire,
)
from igan_fast.train.tensor_specs import Specs, check_specs, specs_of

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

    A checkpoint of the same iteration is replaced. Those of later iterations are removed: a run that saves this one has
    gone back to before them. Of both, what is damaged is kept under a name that no reader takes.

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
    temporary = temporary_path(final)
    consequence = f"the checkpoint of iteration {iteration} was not written, older ones are untouched"
    with clear_write_errors(str(checkpoints), consequence):
        checkpoints.mkdir(parents=True, exist_ok=True)
        try:
            write_checkpoint_folder(temporary, iteration, tensors, state)
            _put_in_place(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for later, folder in checkpoint_folders(run):
            if later > iteration:
                retire(folder)
    return final


def newest_checkpoint(run: Path, report: Callable[[str], None], *, fits: Fits | None = None) -> Checkpoint | None:
    """The newest whole checkpoint of ``run``; ``None`` where it has none at all.

    Each damaged newer one is told to ``report`` in one line. ``fits`` is that of :func:`load_checkpoint`.

    Raises:
        CheckpointError: there are checkpoints and every one is damaged; or one of a newer version of the package is
            newer than the newest whole one.
        FileUnreadable: the system does not hand out a file of a newer one: it may be whole.
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
    """The whole checkpoint that a user means by ``path``: a run (its best, else its newest), or a checkpoint folder.

    ``only`` and ``fits`` are those of :func:`load_checkpoint`; files that are not read are not verified.

    Raises:
        InputError: ``path`` is neither, or holds no checkpoint yet.
        CheckpointError: it does, and every one is damaged, or the one that is meant is of a newer version. A damaged
            one that another stands in for is only told to ``report``, in one line.
        FileUnreadable: the system does not hand out a file of the one that is meant.
    """
    return _first_whole(path, _meant_by(path, report), report, only, fits)


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
    checkpoint = find_checkpoint(path, report, only=[weights, "model"], fits=_check_model)
    described = described_model(checkpoint.folder, checkpoint.state)
    group = weights if weights in checkpoint.tensors else "model"
    check_statistics(checkpoint.tensors[group], checkpoint.folder / f"{group}.safetensors")
    with torch.random.fork_rng(devices=[]):  # weights that are overwritten at once should not move the caller's RNG
        model = IterativeGAN(**described.arguments)
    model.load_state_dict(checkpoint.tensors[group])
    return LoadedModel(
        model.eval().to(device),
        described.attributes,
        described.label_samples,
        checkpoint.iteration,
        dict(checkpoint.state.get("config", {})),
        checkpoint.folder,
    )


def _check_model(folder: Path, state: dict[str, Any], groups: Mapping[str, Specs]) -> None:
    """``Fits`` of a checkpoint whose model is wanted, averaged or not."""
    described = described_model(folder, state)
    expected = specs_of(described.on_meta().state_dict())
    if not groups:
        raise CheckpointError(f"{folder}: holds no model")
    for group, found in groups.items():
        where = f"{folder / group}.safetensors: the tensors do not fit the model of state.json"
        check_specs(found, expected, where)


def _meant_by(path: Path, report: Callable[[str], None]) -> list[Path]:
    """The checkpoints that ``path`` may mean, in the order of preference."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such folder; expected a run or a checkpoint folder")
        if (path / MANIFEST).exists() or is_checkpoint_name(path.name):
            return [path]
        if not (path / "checkpoints").is_dir():
            raise InputError(
                f"{path}: found no {MANIFEST} and no checkpoints folder; expected a run or a checkpoint folder"
            )
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
            raise  # it is no damage: to go on from an older one would be to lose what is there
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
    replaced = final.with_name(final.name + REPLACED)
    if final.exists():
        retire(replaced)
        final.rename(replaced)
    temporary.rename(final)
    sync_folder(final.parent)
    retire(replaced)
