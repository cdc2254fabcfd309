"""Defines the format of a checkpoint, and reads checkpoints.

A checkpoint is a folder: a safetensors file for each group of tensors, ``state.json`` for everything else, and
``manifest.json`` with the size and SHA-256 of each of these files. Nothing in it is a pickle. ``igan_fast.train.save``
writes it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from igan_fast._version import __version__
from igan_fast.checkpoint.tensor_specs import Specs, read_specs
from igan_fast.errors import InputError
from igan_fast.files import FileDamaged, FileMissing, reading
from igan_fast.json_files import MAX_BYTES, Natural, check_json, parse_json, read_json

__all__ = [
    "FORMAT",
    "GROUP",
    "MANIFEST",
    "STATE",
    "SUFFIX",
    "Checkpoint",
    "CheckpointError",
    "Fits",
    "NewerFormat",
    "has_manifest",
    "load_checkpoint",
]

#: The file that makes a folder a checkpoint. It holds the format, the package's version, the iteration, and the size
#: and SHA-256 of each other file.
MANIFEST = "manifest.json"

#: The version of the format, which the manifest states. Version 1 had no ``film`` in the model's arguments, and none of
#: the groups ``edited``, ``labels`` and ``optimizer_z``.
FORMAT = 2

#: The file of everything other than tensors.
STATE = "state.json"

#: The suffix of a file that holds one group of tensors, such as ``model``.
SUFFIX = ".safetensors"

#: The names that a group may have.
GROUP = re.compile(r"[A-Za-z0-9_]+")

#: If the tensors of a file do not fit, its checksum shows whether the file is damaged. This is checked for files of at
#: most so many bytes: a larger file would take long to hash, and a damaged manifest may claim any size.
_MAX_EXPLAINED = 2**30

#: The content of a manifest, as a shape for ``check_json``.
_MANIFEST_SHAPE = {"format": Natural, "iteration": Natural, "files": {str: {"bytes": Natural, "sha256": str}}}


class CheckpointError(InputError):
    """A checkpoint is damaged or incomplete, or another program wrote it. The message names the file."""


class NewerFormat(CheckpointError):
    """A newer version of the package wrote the checkpoint."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read and verified. The tensors are on the CPU, with the dtypes and bits that were saved."""

    folder: Path
    iteration: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


#: A check that :func:`load_checkpoint` calls before it reads any tensor. It gets the folder, the state, and the types
#: and shapes of the tensors by group, and raises ``CheckpointError`` if they are not the expected ones.
Fits: TypeAlias = Callable[[Path, dict[str, Any], Mapping[str, Specs]], None]


class _Manifest(NamedTuple):
    iteration: int
    files: dict[str, tuple[int, str]]  # name → (size in bytes, SHA-256 in hex)


def load_checkpoint(folder: Path, only: Collection[str] | None = None, fits: Fits | None = None) -> Checkpoint:
    """Read the checkpoint in ``folder``. Each file is verified against the manifest before it is used.

    Args:
        folder: a checkpoint folder of any name.
        only: the groups of tensors to read. Groups that the checkpoint lacks are left out. ``None`` reads all.
        fits: called before any tensor is read, so that a file that claims to be huge takes no memory.

    Raises:
        CheckpointError: there is no checkpoint; one of its files is missing, truncated or changed; a file has contents
            that are not allowed, such as NaN or Inf in a tensor; or ``fits`` raises it.
        NewerFormat: a newer version of the package wrote it.
        FileUnreadable: the system could not read a file (permission, input/output error), so its content is unknown.
    """
    try:
        manifest = _read_manifest(folder)
        content = parse_json(_verified(folder, STATE, manifest), folder / STATE)
        check_json(content, {"iteration": Natural, "state": dict}, folder / STATE)
        if content["iteration"] != manifest.iteration:
            raise CheckpointError(f"{folder / MANIFEST}: damaged: it does not belong to this {STATE}")
        groups = {name.removesuffix(SUFFIX): name for name in manifest.files if name != STATE}
        groups = {group: name for group, name in groups.items() if only is None or group in only}
        if fits is not None:
            _check_fits(fits, folder, content["state"], groups, manifest)
        tensors = {group: _read_tensors(folder, name, manifest) for group, name in groups.items()}
    except (FileDamaged, FileMissing) as error:
        raise CheckpointError(str(error)) from error
    return Checkpoint(folder, manifest.iteration, content["state"], tensors)


def has_manifest(folder: Path) -> bool:
    """Whether this version can read the manifest in ``folder``. The other files are not checked."""
    try:
        _read_manifest(folder)
    except InputError:
        return False
    return True


def _check_fits(
    fits: Fits, folder: Path, state: dict[str, Any], groups: Mapping[str, str], manifest: _Manifest
) -> None:
    try:
        fits(folder, state, {group: read_specs(folder / name) for group, name in groups.items()})
    except (CheckpointError, FileDamaged):
        for name in groups.values():
            if manifest.files[name][0] <= _MAX_EXPLAINED:  # if the file is damaged, that message is more useful
                _verify(folder, name, manifest)
        raise


def _read_tensors(folder: Path, name: str, manifest: _Manifest) -> dict[str, Tensor]:
    path = folder / name
    try:
        tensors = safetensors.torch.load(_verified(folder, name, manifest))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    for tensor_name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool((finite := tensor.isfinite()).all()):
            raise CheckpointError(f"{path}: {tensor_name} holds {float(tensor[~finite][0])}, expected finite numbers")
    return tensors


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    content = read_json(path)
    if isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise NewerFormat(
            f"{path}: format {content['format']}, written by {content.get('package')}; igan_fast {__version__} "
            f"reads up to {FORMAT}: update it"
        )
    check_json(content, _MANIFEST_SHAPE, path)
    files = {name: (entry["bytes"], entry["sha256"]) for name, entry in content["files"].items()}
    groups = {name.removesuffix(SUFFIX) for name in files if name != STATE}
    known = 1 <= content["format"] <= FORMAT and STATE in files and all(map(GROUP.fullmatch, groups))
    if not known or files[STATE][0] > MAX_BYTES:
        raise CheckpointError(f"{path}: damaged: not a checkpoint's manifest")
    return _Manifest(content["iteration"], files)


def _verified(folder: Path, name: str, manifest: _Manifest) -> bytes:
    """Return the bytes of one file. The file is read once, so that the bytes returned are those that were hashed."""
    path = folder / name
    size, digest = manifest.files[name]
    with reading(path) as file:
        _check_size(path, file, size)
        data = file.read(size + 1)
    _check_digest(path, hashlib.sha256(data).hexdigest(), digest)
    return data


def _verify(folder: Path, name: str, manifest: _Manifest) -> None:
    """Refuse a file that has changed. It is read in pieces, so it may be of any size."""
    path = folder / name
    size, digest = manifest.files[name]
    hashed = hashlib.sha256()
    with reading(path) as file:
        _check_size(path, file, size)
        while part := file.read(2**20):
            hashed.update(part)
    _check_digest(path, hashed.hexdigest(), digest)


def _check_size(path: Path, file: BinaryIO, expected: int) -> None:
    found = os.fstat(file.fileno()).st_size
    if found != expected:
        raise CheckpointError(f"{path}: damaged: {found} bytes, the manifest says {expected}")


def _check_digest(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise CheckpointError(f"{path}: damaged: its content does not match the manifest's SHA-256")
