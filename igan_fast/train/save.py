"""Saves a checkpoint of a run atomically. After a kill at any moment the older checkpoints are usable.

The new checkpoint is written under a temporary name, forced to the disk, and only then renamed. Its format is described
in ``igan_fast.checkpoint.folder``.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from igan_fast._version import __version__
from igan_fast.checkpoint.find import REPLACED, checkpoint_folders
from igan_fast.checkpoint.folder import FORMAT, GROUP, MANIFEST, STATE, SUFFIX
from igan_fast.files import clear_write_errors, sync_folder, temporary_path, write_durably
from igan_fast.train.diverged import TrainingDiverged
from igan_fast.train.retention import retire

__all__ = ["checkpoint_folder", "save_checkpoint"]


def checkpoint_folder(run: Path, iteration: int) -> Path:
    """Return the folder of the checkpoint of ``iteration`` in ``run``."""
    return run / "checkpoints" / f"step-{iteration:08d}"


def save_checkpoint(
    run: Path, iteration: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint of ``iteration`` to ``run``. On return it is on the disk.

    A checkpoint of the same iteration is replaced. Checkpoints of later iterations are removed, because the run was
    resumed from an earlier one. If one of these is damaged, it is renamed instead, and never read again.

    Args:
        run: the run's folder, made if needed.
        iteration: the number of iterations done.
        tensors: groups (``"model"``, ``"ema"``, ``"optimizer_d"`` …) of named tensors. They may have any dtype, shape,
            strides and device, and may share memory. Each group becomes one file.
        state: everything else that a resumed run needs, as JSON values. Floats are read back exactly, tuples as lists.

    Returns:
        The new folder, ``run/checkpoints/step-NNNNNNNN``.

    Raises:
        InputError: the disk is full or the folder cannot be written. No incomplete files are left, and the older
            checkpoints are unchanged.
        TrainingDiverged: a floating-point tensor holds NaN or Inf. No incomplete files are left.
        TypeError, ValueError: ``state`` holds a value that JSON cannot hold, such as NaN or Inf.
    """
    final = checkpoint_folder(run, iteration)
    checkpoints = final.parent
    temporary = temporary_path(final)
    consequence = f"the checkpoint of iteration {iteration} was not written, older ones are untouched"
    with clear_write_errors(str(checkpoints), consequence):
        checkpoints.mkdir(parents=True, exist_ok=True)
        try:
            _write_folder(temporary, iteration, tensors, state)
            _put_in_place(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for later, folder in checkpoint_folders(run):
            if later > iteration:
                retire(folder)
    return final


def _put_in_place(temporary: Path, final: Path) -> None:
    # Not every system can swap two folders. So the old one is renamed first, to a name that readers accept too.
    replaced = final.with_name(final.name + REPLACED)
    if final.exists():
        retire(replaced)
        final.rename(replaced)
    temporary.rename(final)
    sync_folder(final.parent)
    retire(replaced)


def _write_folder(
    folder: Path, iteration: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Make ``folder``, which must not exist, and write a checkpoint into it. On return all of it is on the disk."""
    for group in tensors:
        if not GROUP.fullmatch(group):
            raise ValueError(f"tensors: the group {group!r} names a file; expected letters, digits and '_' only")
    _check_json(state, "state")
    folder.mkdir()
    files: dict[str, dict[str, int | str]] = {}

    def write(name: str, data: bytes) -> None:
        write_durably(folder / name, data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    for group, members in tensors.items():
        write(group + SUFFIX, safetensors.torch.save(_packed(group, members, iteration)))
    write(STATE, json.dumps({"iteration": iteration, "state": state}, indent=1).encode("ascii"))
    manifest = {"format": FORMAT, "package": f"igan_fast {__version__}", "iteration": iteration, "files": files}
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1).encode("ascii"))
    sync_folder(folder)


def _packed(group: str, members: Mapping[str, Tensor], iteration: int) -> dict[str, Tensor]:
    """Copy tensors to the CPU, each contiguous and with its own memory, as safetensors requires."""
    packed: dict[str, Tensor] = {}
    for name, tensor in members.items():
        copy = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        # Weights can be infinite after the last update even if its losses were finite. No run may resume from them.
        if copy.is_floating_point() and not bool((finite := copy.isfinite()).all()):
            raise TrainingDiverged(iteration, {f"{group}/{name}": float(copy[~finite][0])})
        packed[name] = copy
    return packed


def _check_json(value: object, where: str) -> None:
    """Refuse values that JSON would lose or change silently. A tuple is allowed, although it is read back as a list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: the key {key!r} is a {type(key).__name__}; expected a string")
            _check_json(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; JSON has no such number: leave it out or save None")
    elif value is not None and not isinstance(value, str | int):
        raise TypeError(
            f"{where} is a {type(value).__name__}; expected what JSON holds: numbers, text, lists, mappings"
        )
