"""Loads the networks of a baseline from a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from igan_fast.baselines.interface import BaselineNetworks
from igan_fast.baselines.registry import BASELINES, BaselineName, baseline, networks_on_meta
from igan_fast.checkpoint.description import check_statistics
from igan_fast.checkpoint.find import find_checkpoint
from igan_fast.checkpoint.tensor_specs import Specs, check_specs, specs_of
from igan_fast.errors import InputError
from igan_fast.files import FileDamaged
from igan_fast.json_files import Natural, check_json

__all__ = ["BaselineDescription", "LoadedBaseline", "described_baseline", "load_baseline"]

_MODEL = {
    "model": {
        "method": str,
        "arguments": dict.fromkeys(("image_size", "attributes", "width"), Natural),
        "attributes": [str],
    }
}


class BaselineDescription(NamedTuple):
    """The networks of a baseline without their weights."""

    method: BaselineName
    arguments: dict[str, Any]
    attributes: tuple[str, ...]

    def on_meta(self, attributes: int | None = None) -> BaselineNetworks:
        """The networks on the ``meta`` device: shapes and types without memory.

        Args:
            attributes: another number of attributes than their own.
        """
        arguments = self.arguments if attributes is None else {**self.arguments, "attributes": attributes}
        return networks_on_meta(self.method, arguments)


class LoadedBaseline(NamedTuple):
    """The trained networks of a baseline, in eval mode."""

    networks: BaselineNetworks
    method: BaselineName
    attributes: tuple[str, ...]
    iteration: int
    config: dict[str, Any]
    folder: Path


def described_baseline(folder: Path, state: dict[str, Any]) -> BaselineDescription:
    """The description of the networks in the state of the checkpoint in ``folder``.

    Raises:
        InputError: the checkpoint is of an Iterative GAN.
        FileDamaged: a value is missing or has another type, or two values contradict each other.
    """
    where = folder / "state.json"
    if isinstance(model := state.get("model"), dict) and "arguments" in model and "method" not in model:
        raise InputError(f"{folder}: holds an Iterative GAN, expected the networks of a baseline")
    check_json(state, _MODEL, where)
    described = state["model"]
    if described["method"] not in BASELINES:
        raise FileDamaged(f"{where}: names a method {described['method']!r}, expected one of {', '.join(BASELINES)}")
    found = BaselineDescription(described["method"], dict(described["arguments"]), tuple(described["attributes"]))
    if len(set(found.attributes)) != found.arguments["attributes"]:
        raise FileDamaged(f"{where}: names {len(set(found.attributes))} attributes for networks of "
                          f"{found.arguments['attributes']}")  # fmt: skip
    try:
        found.on_meta()
    except (TypeError, ValueError, RuntimeError) as error:
        raise FileDamaged(f"{where}: does not describe networks ({' '.join(str(error).split())})") from error
    return found


def load_baseline(
    path: Path, *, device: str | torch.device = "cpu", report: Callable[[str], None] = warnings.warn
) -> LoadedBaseline:
    """Load the networks in a run (its newest checkpoint) or a checkpoint folder.

    Args:
        path, report: as for ``igan_fast.checkpoint.find.find_checkpoint``.
        device: the device of the networks.

    Raises:
        InputError, CheckpointError: as ``find_checkpoint``; also if the checkpoint holds no baseline or contradicts
            itself.
    """
    checkpoint = find_checkpoint(path, report, only=["model"], fits=_check_networks)
    described = described_baseline(checkpoint.folder, checkpoint.state)
    check_statistics(checkpoint.tensors["model"], checkpoint.folder / "model.safetensors")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: keep the caller's random state
        networks = baseline(described.method).networks(**described.arguments)
    networks.load_state_dict(checkpoint.tensors["model"])
    return LoadedBaseline(
        networks.eval().to(device),
        described.method,
        described.attributes,
        checkpoint.iteration,
        dict(checkpoint.state.get("config", {})),
        checkpoint.folder,
    )


def _check_networks(folder: Path, state: dict[str, Any], groups: Mapping[str, Specs]) -> None:
    """Check that the tensors of a checkpoint are those of its networks. This function is a ``Fits``."""
    expected = specs_of(described_baseline(folder, state).on_meta().state_dict())
    if "model" not in groups:
        raise FileDamaged(f"{folder}: holds no networks")
    check_specs(groups["model"], expected, folder / "model.safetensors")
