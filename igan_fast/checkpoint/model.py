"""Loads the model in a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from igan_fast.checkpoint.description import check_statistics, described_model
from igan_fast.checkpoint.find import find_checkpoint
from igan_fast.checkpoint.folder import CheckpointError
from igan_fast.checkpoint.labels import LABELS, counts_specs, read_companions, unpack_rows
from igan_fast.checkpoint.tensor_specs import Specs, check_specs, specs_of
from igan_fast.devices import operators_on
from igan_fast.errors import InputError
from igan_fast.models import IterativeGAN
from igan_fast.reference import Companions

__all__ = ["LoadedModel", "load_model"]


class LoadedModel(NamedTuple):
    """A trained model in eval mode."""

    model: IterativeGAN
    attributes: tuple[str, ...]
    label_samples: Tensor
    """Some rows of the training labels: (M, A) uint8, 0 and 1, M from 0 to 256."""
    companions: Companions | None
    """The attributes that go along with an edited one, from all training labels. A checkpoint of an older version has
    only ``label_samples``, and gives them from these; None if it has none."""
    iteration: int
    config: dict[str, Any]
    folder: Path


def load_model(
    path: Path,
    *,
    device: str | torch.device = "cpu",
    weights: Literal["ema", "model"] = "ema",
    report: Callable[[str], None] = warnings.warn,
) -> LoadedModel:
    """Load the model in a run or checkpoint folder.

    Args:
        path: the folder, as for :func:`find_checkpoint`.
        device: the model's device.
        weights: ``"ema"`` takes the averaged weights, or the plain ones if the run kept no average; ``"model"`` takes
            the plain ones.
        report: as for :func:`find_checkpoint`.

    Raises:
        InputError, CheckpointError: as :func:`find_checkpoint`; ``CheckpointError`` also if the checkpoint holds no
            model, or contradicts itself.
    """
    operators_on(device)  # an error is raised here and not at the first photo
    if weights not in ("ema", "model"):
        raise InputError(f"weights: found {weights!r}, expected 'ema' or 'model'")
    checkpoint = find_checkpoint(path, report, only=[weights, "model", LABELS], fits=_check_model)
    described = described_model(checkpoint.folder, checkpoint.state)
    group = weights if weights in checkpoint.tensors else "model"
    check_statistics(checkpoint.tensors[group], checkpoint.folder / f"{group}.safetensors")
    rows = unpack_rows(described.label_samples, len(described.attributes), checkpoint.folder)
    companions = read_companions(checkpoint.tensors, rows, checkpoint.folder)
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: keep the caller's random state
        model = IterativeGAN(**described.arguments)
    model.load_state_dict(checkpoint.tensors[group])
    return LoadedModel(
        model.eval().to(device),
        described.attributes,
        rows,
        companions,
        checkpoint.iteration,
        dict(checkpoint.state.get("config", {})),
        checkpoint.folder,
    )


def _check_model(folder: Path, state: dict[str, Any], groups: Mapping[str, Specs]) -> None:
    """Check that the tensors of a checkpoint are those of its model. This function is a ``Fits``."""
    described = described_model(folder, state)
    weights = specs_of(described.on_meta().state_dict())
    if not groups.keys() - {LABELS}:
        raise CheckpointError(f"{folder}: holds no model")
    for group, found in groups.items():
        where = f"{folder / group}.safetensors: the tensors do not fit the model of state.json"
        check_specs(found, counts_specs(len(described.attributes)) if group == LABELS else weights, where)
