"""Resumes a run from a checkpoint: checks the options, shapes and data of the checkpoint, and loads its networks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from igan_fast.checkpoint.folder import Checkpoint, Fits
from igan_fast.checkpoint.tensor_specs import Specs, check_specs
from igan_fast.data.store import FaceStore
from igan_fast.errors import InputError
from igan_fast.files import FileDamaged
from igan_fast.json_files import Natural, check_json
from igan_fast.train.optimizer_state import load_optimizer_tensors
from igan_fast.train.run_config import RunConfig
from igan_fast.train.tuning import check_choices

__all__ = ["check_data", "check_groups", "data_fingerprint", "in_file", "load_networks", "resumable_by"]

_STATE = {"config": dict, "metrics": {str: float}}
_DATA = {"photos": str, "labels": str, "train": str, "val": str, "count": Natural, "named": str}

#: The digests of a fingerprint, and the names of their data in messages.
_PARTS = {
    "photos": "photos",
    "labels": "labels",
    "train": "training photos, as they are divided from the held-out ones,",
    "val": "validation photos",
}


def resumable_by(config: RunConfig) -> Fits:
    """Return a ``Fits`` that accepts the checkpoints from which a run under ``config`` can be resumed.

    It raises ``InputError`` for an undamaged checkpoint with other options, and ``FileDamaged`` for a checkpoint that
    contradicts itself.
    """

    def fits(folder: Path, state: dict[str, Any], groups: Mapping[str, Specs]) -> None:
        where = folder / "state.json"
        check_json(state, _STATE, where)
        if "data" in state:
            check_json(state["data"], _DATA, where, "data")
        if "tuning" in state:
            check_choices(state["tuning"], where)
        config.check_resumable(type(config).from_json(state["config"], where=str(where), complete=True))
        config.method_class().check_checkpoint(config, folder, state, groups)

    return fits


def data_fingerprint(store: FaceStore, named: str) -> dict[str, Any]:
    """Return a description of the training data for a checkpoint: digests, and the user's name for the data.

    The same photos and labels have the same digests in another folder, in a zip, and on another machine.

    Args:
        store: the decoded images. The store has their digest, so no image is read.
        named: the user's name for the data.
    """
    digests = {
        "photos": store.digest or hashlib.sha256(np.asarray(store.images).tobytes()).hexdigest(),
        "labels": hashlib.sha256(store.labels.astype("u1").tobytes()).hexdigest(),
        **{name: hashlib.sha256(store.splits[name].astype("<i8").tobytes()).hexdigest() for name in ("train", "val")},
    }
    return {**digests, "count": len(store.images), "named": named}


def check_data(saved: Mapping[str, Any] | None, given: Mapping[str, Any], where: Path) -> None:
    """Raise an error if the data is not that which the run was trained on.

    Args:
        saved: the fingerprint in the checkpoint; None if an older version without fingerprints wrote the checkpoint.
        given: the fingerprint of the data at hand.
        where: the checkpoint.

    Raises:
        InputError: names what differs, the data that the run was trained on, and the data at hand.
    """
    if saved is None:
        print(f"{where}: was written by a version that kept no fingerprint of its data; they are not compared")
        return
    for part, called in _PARTS.items():
        if saved[part] != given[part]:
            raise InputError(
                f"--data {given['named']}: its {called} are not those that this run was trained on: found "
                f"{given['count']:,} photos, {part} {given[part][:12]}; expected {saved['named']}: {saved['count']:,} "
                f"photos, {part} {saved[part][:12]}"
            )


def check_groups(found: Mapping[str, Specs], expected: Mapping[str, Specs], folder: Path) -> None:
    """Check that a checkpoint has the groups of tensors that a run needs.

    Raises:
        FileDamaged: a group is missing, or one of its tensors is missing, unexpected, or of another type or shape.
    """
    for group, specs in expected.items():
        file = folder / f"{group}.safetensors"
        if group not in found:
            raise FileDamaged(f"{file}: missing")
        check_specs(found[group], specs, file)


def load_networks(checkpoint: Checkpoint, networks: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
    """Load networks and optimisers from the checkpoint.

    Raises:
        InputError: a number in a tensor is impossible. The message names the tensor and its file.
    """
    networks.load_state_dict(checkpoint.tensors["model"])
    for group, optimizer in optimizers.items():
        file = str(checkpoint.folder / f"{group}.safetensors")
        load_optimizer_tensors(optimizer, networks.named_parameters(), checkpoint.tensors[group], where=file)


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Add the file to the message of an error about one of its values."""
    try:
        yield
    except (InputError, RuntimeError, TypeError) as error:
        raise InputError(f"{path}: damaged: {' '.join(str(error).split())}") from error
