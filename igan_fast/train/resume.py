"""Resumes a run from a checkpoint: checks the options, shapes and data of the checkpoint, and loads its networks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from igan_fast.checkpoint.description import check_statistics, described_model
from igan_fast.checkpoint.folder import Checkpoint, Fits
from igan_fast.checkpoint.labels import LABELS, counts_specs
from igan_fast.checkpoint.tensor_specs import Spec, Specs, check_specs, specs_of
from igan_fast.data.store import FaceStore
from igan_fast.errors import InputError
from igan_fast.files import FileDamaged
from igan_fast.json_files import Natural, check_json
from igan_fast.models import IterativeGAN
from igan_fast.reference.edited_rebuilds import EditedRebuilds
from igan_fast.train.config import TrainConfig
from igan_fast.train.optimizer_state import load_optimizer_tensors

__all__ = ["check_data", "data_fingerprint", "in_file", "load_networks", "resumable_by"]

_STATE = {
    "config": dict,
    "loader": {"seed": Natural, "position": Natural, "count": Natural},
    "balance": {"d_sum": float, "g_sum": float, "weight": float, "pending": ([float], None)},
    "ema_count": Natural,
    "metrics": {str: float},
}
_DATA = {"photos": str, "labels": str, "train": str, "val": str, "count": Natural, "named": str}

#: The digests of a fingerprint, and the names of their data in messages.
_PARTS = {
    "photos": "photos",
    "labels": "labels",
    "train": "training photos, as they are divided from the held-out ones,",
    "val": "validation photos",
}


def resumable_by(config: TrainConfig) -> Fits:
    """Return a ``Fits`` that accepts the checkpoints from which a run under ``config`` can be resumed.

    It raises ``InputError`` for an undamaged checkpoint with other options, and ``FileDamaged`` for a checkpoint that
    contradicts itself.
    """

    def fits(folder: Path, state: dict[str, Any], groups: Mapping[str, Specs]) -> None:
        where = folder / "state.json"
        check_json(state, _STATE, where)
        if "data" in state:
            check_json(state["data"], _DATA, where, "data")
        config.check_resumable(TrainConfig.from_json(state["config"], where=str(where), complete=True))
        described = described_model(folder, state)
        for name, value in described.arguments.items():
            if name != "attributes" and value != getattr(config, name):
                raise FileDamaged(f"{where}: its model has {name} {value}, its config {getattr(config, name)}")
        for group, expected in _expected_groups(described.on_meta(), config).items():
            file = folder / f"{group}.safetensors"
            if group not in groups:
                raise FileDamaged(f"{file}: missing")
            check_specs(groups[group], expected, file)
        if LABELS in groups:  # older versions did not save it; it is counted anew at each start
            check_specs(groups[LABELS], counts_specs(len(described.attributes)), folder / f"{LABELS}.safetensors")

    return fits


def data_fingerprint(store: FaceStore, named: str) -> dict[str, Any]:
    """Return a description of the training data for a checkpoint: digests, and the user's name for the data.

    The same photos and labels have the same digests in another folder, in a zip, and on another machine.

    Args:
        store: the decoded images. The store has their digest, so no image is read.
        named: the user's name for the data.
    """
    digests = {
        "photos": store.digest or hashlib.sha256(store.images.tobytes()).hexdigest(),
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


class Step(Protocol):
    """The state of a training step beside its model: ``TrainStep``, the reference's, or ``GraphedStep``."""

    edited: EditedRebuilds

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]: ...


def load_networks(checkpoint: Checkpoint, model: nn.Module, step: Step) -> None:
    """Load the model, its optimisers and the codes of the last batch from the checkpoint.

    Raises:
        InputError: a number in a tensor is impossible. The message names the tensor and its file.
    """
    folder, tensors = checkpoint.folder, checkpoint.tensors
    for group in {"model", "ema"} & tensors.keys():
        check_statistics(tensors[group], folder / f"{group}.safetensors")
    model.load_state_dict(tensors["model"])
    for group, optimizer in step.optimizers.items():
        file = str(folder / f"{group}.safetensors")
        load_optimizer_tensors(optimizer, model.named_parameters(), tensors[group], where=file)
    if step.edited.share:
        device = next(model.parameters()).device
        z, labels = (tensors["edited"][name] for name in ("z", "labels"))
        if bool((z.abs() > 1).any()) or bool(((labels != 0) & (labels != 1)).any()):
            raise InputError(
                f"{folder / 'edited.safetensors'}: holds codes beyond −1 and 1, or labels other than 0 and 1"
            )
        step.edited.keep(z.to(device), labels.to(device))


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Add the file to the message of an error about one of its values."""
    try:
        yield
    except (InputError, RuntimeError, TypeError) as error:
        raise InputError(f"{path}: damaged: {' '.join(str(error).split())}") from error


def _expected_groups(model: IterativeGAN, config: TrainConfig) -> dict[str, Specs]:
    """Return the types and shapes of all tensors of a checkpoint, by group."""
    weights = specs_of(model.state_dict())
    groups = {
        "model": weights,
        "optimizer_d": _adam_specs({"discriminator": model.discriminator, "classifier": model.classifier}),
        "optimizer_g": _adam_specs({"generator": model.generator}),
        "rng": specs_of({"noise": torch.Generator().get_state()}),
    }
    if config.ema_decay:
        groups["ema"] = weights
    if config.latent_lr_scale:
        groups["optimizer_z"] = _adam_specs({"classifier.latent": model.classifier.latent})
    if config.edited_share:
        arguments, rows = model.arguments(), config.batch_size
        sizes = {"z": arguments["latent"], "labels": arguments["attributes"]}
        groups["edited"] = {name: Spec(torch.float32, (rows, size)) for name, size in sizes.items()}
    return groups


def _adam_specs(parts: Mapping[str, nn.Module]) -> Specs:
    specs: Specs = {}
    for part, module in parts.items():
        for name, parameter in module.named_parameters(part):
            specs[f"{name}/step"] = Spec(torch.float32, ())
            for moment in ("exp_avg", "exp_avg_sq"):
                specs[f"{name}/{moment}"] = Spec(parameter.dtype, tuple(parameter.shape))
    return specs
