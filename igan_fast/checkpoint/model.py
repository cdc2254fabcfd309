"""Loads the model in a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from igan_fast.checkpoint.description import check_statistics, described_model
from igan_fast.checkpoint.find import find_checkpoint
from igan_fast.checkpoint.folder import CheckpointError
from igan_fast.checkpoint.tensor_specs import Specs, check_specs, specs_of
from igan_fast.devices import operators_on
from igan_fast.errors import InputError
from igan_fast.models import IterativeGAN

__all__ = ["LoadedModel", "load_model"]


class LoadedModel(NamedTuple):
    """A trained model in eval mode."""

    model: IterativeGAN
    attributes: tuple[str, ...]
    label_samples: list[str]
    """Some rows of real labels: one string per row, with "0" or "1" for each attribute. They are not checked."""
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
            model.
    """
    operators_on(device)  # an error is raised here and not at the first photo
    if weights not in ("ema", "model"):
        raise InputError(f"weights: found {weights!r}, expected 'ema' or 'model'")
    checkpoint = find_checkpoint(path, report, only=[weights, "model"], fits=_check_model)
    described = described_model(checkpoint.folder, checkpoint.state)
    group = weights if weights in checkpoint.tensors else "model"
    check_statistics(checkpoint.tensors[group], checkpoint.folder / f"{group}.safetensors")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: keep the caller's random state
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
    """Check that the tensors of a checkpoint are those of its model. This function is a ``Fits``."""
    described = described_model(folder, state)
    expected = specs_of(described.on_meta().state_dict())
    if not groups:
        raise CheckpointError(f"{folder}: holds no model")
    for group, found in groups.items():
        where = f"{folder / group}.safetensors: the tensors do not fit the model of state.json"
        check_specs(found, expected, where)
