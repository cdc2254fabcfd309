"""One checkpoint on disk: a folder of safetensors, a JSON state and a manifest with checksums. No pickle anywhere."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from igan_fast._version import __version__
from igan_fast.errors import InputError
from igan_fast.files import FileDamaged, FileMissing, reading, sync_folder, write_durably
from igan_fast.json_files import MAX_BYTES, Natural, check_json, parse_json, read_json
from igan_fast.train.diverged import TrainingDiverged
from igan_fast.train.tensor_specs import Specs, read_specs

__all__ = [
    "MANIFEST",
    "Checkpoint",
    "CheckpointError",
    "Fits",
    "NewerFormat",
    "has_manifest",
    "load_checkpoint",
    "write_checkpoint_folder",
]

#: The file that makes a folder a checkpoint: format, package, iteration, and size and SHA-256 of every other file.
MANIFEST = "manifest.json"

_FORMAT = 1
#: A file that does not fit is hashed to say why, unless that would take long: it may claim to have any size.
_MAX_EXPLAINED = 2**30
_STATE = "state.json"
_SUFFIX = ".safetensors"
_GROUP = re.compile(r"[A-Za-z0-9_]+")


#: What a manifest holds, as ``check_json`` takes it.
_MANIFEST_SHAPE = {"format": Natural, "iteration": Natural, "files": {str: {"bytes": Natural, "sha256": str}}}


class CheckpointError(InputError):
    """A checkpoint is damaged or incomplete, or is none of ours; the message names the file."""


class NewerFormat(CheckpointError):
    """A checkpoint that a newer version of the package wrote."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read and verified; the tensors lie on the CPU, with dtype and bits as they were saved."""

    folder: Path
    iteration: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


#: Refuses, by a ``CheckpointError``, a checkpoint whose state or whose tensors' types and shapes (by group) do not fit:
#: it gets the folder, the state and the shapes before any tensor is read.
Fits: TypeAlias = Callable[[Path, dict[str, Any], Mapping[str, Specs]], None]


class _Manifest(NamedTuple):
    iteration: int
    files: dict[str, tuple[int, str]]  # name → (size in bytes, SHA-256 in hex)


def write_checkpoint_folder(
    folder: Path, iteration: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Make ``folder`` (which must not exist) and write a checkpoint into it; on return the disk has every byte.

    The arguments are those of :func:`igan_fast.train.checkpoint.save_checkpoint`, which makes this atomic.
    """
    for group in tensors:
        if not _GROUP.fullmatch(group):
            raise ValueError(f"tensors: the group {group!r} names a file; expected letters, digits and '_' only")
    _check_json(state, "state")
    folder.mkdir()
    files: dict[str, dict[str, int | str]] = {}

    def write(name: str, data: bytes) -> None:
        write_durably(folder / name, data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    for group, members in tensors.items():
        write(group + _SUFFIX, safetensors.torch.save(_packed(group, members, iteration)))
    write(_STATE, json.dumps({"iteration": iteration, "state": state}, indent=1).encode("ascii"))
    manifest = {"format": _FORMAT, "package": f"igan_fast {__version__}", "iteration": iteration, "files": files}
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1).encode("ascii"))
    sync_folder(folder)


def load_checkpoint(folder: Path, only: Collection[str] | None = None, fits: Fits | None = None) -> Checkpoint:
    """Read the checkpoint in ``folder``, every file verified against the manifest before it is used.

    Args:
        folder: a checkpoint folder, whatever its name.
        only: the groups of tensors to read; those that the checkpoint lacks are left out. ``None`` reads all.
        fits: asked before any tensor is read, so that a file which claims to be huge takes no memory.

    Raises:
        CheckpointError: no checkpoint is there, or a file of it is missing, cut, changed or holds what no checkpoint
            may (NaN and Inf among its tensors); or what ``fits`` raises.
        NewerFormat: a newer version wrote it.
        FileUnreadable: the system does not hand out a file (permission, input/output error): nothing is known of it.
    """
    try:
        manifest = _read_manifest(folder)
        content = parse_json(_verified(folder, _STATE, manifest), folder / _STATE)
        check_json(content, {"iteration": Natural, "state": dict}, folder / _STATE)
        if content["iteration"] != manifest.iteration:
            raise CheckpointError(f"{folder / MANIFEST}: damaged: it does not belong to this {_STATE}")
        groups = {name.removesuffix(_SUFFIX): name for name in manifest.files if name != _STATE}
        groups = {group: name for group, name in groups.items() if only is None or group in only}
        if fits is not None:
            _ask(fits, folder, content["state"], groups, manifest)
        tensors = {group: _read_tensors(folder, name, manifest) for group, name in groups.items()}
    except (FileDamaged, FileMissing) as error:
        raise CheckpointError(str(error)) from error
    return Checkpoint(folder, manifest.iteration, content["state"], tensors)


def has_manifest(folder: Path) -> bool:
    """Whether this version can read the manifest in ``folder``; the other files may be damaged."""
    try:
        _read_manifest(folder)
    except InputError:
        return False
    return True


def _ask(fits: Fits, folder: Path, state: dict[str, Any], groups: Mapping[str, str], manifest: _Manifest) -> None:
    try:
        fits(folder, state, {group: read_specs(folder / name) for group, name in groups.items()})
    except (CheckpointError, FileDamaged):
        for name in groups.values():
            if manifest.files[name][0] <= _MAX_EXPLAINED:  # where bytes have changed, that is the reason to give
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


def _packed(group: str, members: Mapping[str, Tensor], iteration: int) -> dict[str, Tensor]:
    """Copies on the CPU, each contiguous and with memory of its own, as safetensors asks."""
    packed: dict[str, Tensor] = {}
    for name, tensor in members.items():
        copy = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        # A loss can be finite while the update that follows it is not: a run must never fall back on such weights.
        if copy.is_floating_point() and not bool((finite := copy.isfinite()).all()):
            raise TrainingDiverged(iteration, {f"{group}/{name}": float(copy[~finite][0])})
        packed[name] = copy
    return packed


def _check_json(value: object, where: str) -> None:
    """Refuse what JSON would lose or change without a word. (A tuple is allowed; it is read back as a list.)"""
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


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    content = read_json(path)
    if isinstance(content.get("format"), int) and content["format"] > _FORMAT:
        raise NewerFormat(
            f"{path}: format {content['format']}, written by {content.get('package')}; igan_fast {__version__} "
            f"reads up to {_FORMAT}: update it"
        )
    check_json(content, _MANIFEST_SHAPE, path)
    files = {name: (entry["bytes"], entry["sha256"]) for name, entry in content["files"].items()}
    groups = {name.removesuffix(_SUFFIX) for name in files if name != _STATE}
    known = content["format"] == _FORMAT and _STATE in files and all(map(_GROUP.fullmatch, groups))
    if not known or files[_STATE][0] > MAX_BYTES:
        raise CheckpointError(f"{path}: damaged: not a checkpoint's manifest")
    return _Manifest(content["iteration"], files)


def _verified(folder: Path, name: str, manifest: _Manifest) -> bytes:
    """The bytes of one file. What is hashed is what is parsed: the file is read once."""
    path = folder / name
    size, digest = manifest.files[name]
    with reading(path) as file:
        _check_size(path, file, size)
        data = file.read(size + 1)
    _check_digest(path, hashlib.sha256(data).hexdigest(), digest)
    return data


def _verify(folder: Path, name: str, manifest: _Manifest) -> None:
    """Refuse a file that has changed, whatever its size, without holding it in memory."""
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
