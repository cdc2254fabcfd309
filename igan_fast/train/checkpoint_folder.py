"""One checkpoint on disk: a folder of safetensors, a JSON state and a manifest with checksums. No pickle anywhere."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from igan_fast._version import __version__
from igan_fast.errors import InputError
from igan_fast.files import sync_folder, write_durably
from igan_fast.train.diverged import TrainingDiverged

__all__ = [
    "MANIFEST",
    "Checkpoint",
    "CheckpointError",
    "load_checkpoint",
    "write_checkpoint_folder",
]

#: The file that makes a folder a checkpoint: format, package, iteration, and size and SHA-256 of every other file.
MANIFEST = "manifest.json"

_FORMAT = 1
_STATE = "state.json"
_SUFFIX = ".safetensors"
_GROUP = re.compile(r"[A-Za-z0-9_]+")


class CheckpointError(InputError):
    """A checkpoint is damaged, incomplete, or of another format; the message names the file."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read and verified; the tensors lie on the CPU, with dtype and bits as they were saved."""

    folder: Path
    iteration: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


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


def load_checkpoint(folder: Path, only: Collection[str] | None = None) -> Checkpoint:
    """Read the checkpoint in ``folder``, every file verified against the manifest before it is used.

    Args:
        folder: a checkpoint folder, whatever its name.
        only: the groups of tensors to read; those that the checkpoint lacks are left out. ``None`` reads all.

    Raises:
        CheckpointError: no checkpoint is there, or a file of it is missing, cut, changed, unreadable or of a newer
            format.
    """
    manifest = _read_manifest(folder)
    content = _parse_json(folder / _STATE, _verified(folder, _STATE, manifest))
    iteration, state = content.get("iteration"), content.get("state")
    if not isinstance(state, dict) or iteration != manifest.iteration:
        raise CheckpointError(f"{folder / MANIFEST}: damaged: it does not belong to this {_STATE}")
    tensors: dict[str, dict[str, Tensor]] = {}
    for name in manifest.files:
        group = name.removesuffix(_SUFFIX)
        if name == _STATE or (only is not None and group not in only):
            continue
        try:
            tensors[group] = safetensors.torch.load(_verified(folder, name, manifest))
        except SafetensorError as error:
            raise CheckpointError(f"{folder / name}: not a safetensors file ({error})") from error
    return Checkpoint(folder, manifest.iteration, state, tensors)


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
    content = _parse_json(path, _read(path))
    if isinstance(content.get("format"), int) and content["format"] > _FORMAT:
        raise CheckpointError(
            f"{path}: format {content['format']}, written by {content.get('package')}; igan_fast {__version__} "
            f"reads up to {_FORMAT}: update it"
        )
    try:
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in content["files"].items()}
        manifest = _Manifest(int(content["iteration"]), files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: not a checkpoint's manifest") from error
    groups = {name.removesuffix(_SUFFIX) for name in files if name != _STATE}
    if content.get("format") != _FORMAT or _STATE not in files or not all(map(_GROUP.fullmatch, groups)):
        raise CheckpointError(f"{path}: damaged: not a checkpoint's manifest")
    return manifest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _verified(folder: Path, name: str, manifest: _Manifest) -> bytes:
    """The bytes of one file. What is hashed is what is parsed: the file is read once."""
    path = folder / name
    size, digest = manifest.files[name]
    data = _read(path)
    if len(data) != size:
        raise CheckpointError(f"{path}: damaged: {len(data)} bytes, the manifest says {size}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{path}: damaged: its content does not match the manifest's SHA-256")
    return data


def _parse_json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as error:  # also what bytes that are no text raise
        raise CheckpointError(f"{path}: damaged: not JSON") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: damaged: found a JSON {type(content).__name__}, expected an object")
    return content
