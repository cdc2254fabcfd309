"""``model.json``: what a program has to know about exported networks, in a form that every language can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from igan_fast._version import __version__
from igan_fast.checkpoint import LoadedModel
from igan_fast.checkpoint.find import EXPORTED
from igan_fast.export.networks import Network
from igan_fast.files import FileDamaged
from igan_fast.json_files import Natural, read_json
from igan_fast.reference import Companions
from igan_fast.reference.editing import STRENGTH

__all__ = ["FILE", "Description", "describe", "is_export", "metadata", "moves", "read_description", "to_text"]

#: The name of the file.
FILE = EXPORTED
#: What ``format`` says in it.
_FORMAT = "igan_fast export 1"

_SHAPE = {
    "format": str,
    "image_size": Natural,
    "latent": Natural,
    "attributes": [str],
    "label_samples": [str],
    "companions": (None, {"least": float, "covariance": [[float]]}),
    "drawn": bool,
}


class Description(NamedTuple):
    """What ``model.json`` says that ``FaceEditor`` needs."""

    image_size: int
    latent: int
    attributes: tuple[str, ...]
    label_samples: NDArray[np.uint8]
    """(M, A), 0 and 1."""
    companions: Companions | None
    drawn: bool
    """Whether the model was trained on drawn faces."""


def describe(loaded: LoadedModel, networks: list[Network], suffixes: tuple[str, ...]) -> dict[str, Any]:
    """The content of ``model.json``.

    Args:
        loaded: the model.
        networks: what is written of it.
        suffixes: those of the files of each network.
    """
    arguments, companions = loaded.model.arguments(), loaded.companions
    return {
        "format": _FORMAT,
        "igan_fast": __version__,
        "iteration": loaded.iteration,
        "image_size": arguments["image_size"],
        "latent": arguments["latent"],
        "attributes": list(loaded.attributes),
        "strength": STRENGTH,
        "drawn": loaded.config.get("data") == "drawn",
        "networks": {network.NAME: _interface(network, suffixes) for network in networks},
        "moves": moves(companions, loaded.attributes),
        "label_samples": ["".join(map(str, row)) for row in loaded.label_samples.tolist()],
        "companions": None
        if companions is None
        else {"least": companions.least, "covariance": companions.covariance.tolist()},
    }


def moves(companions: Companions | None, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """How far other attributes move when one alone moves from 0 to 1, by name; only those that move."""
    found: dict[str, dict[str, float]] = {}
    for index in range(len(companions or ())):
        (row,) = companions.weights([index]).tolist()  # type: ignore[union-attr]
        if along := {name: round(move, 6) for name, move in zip(names, row, strict=True) if move}:
            found[names[index]] = along
    return found


def metadata(description: dict[str, Any]) -> dict[str, str]:
    """The part of the description that each ONNX file holds too: text as it is, anything else as JSON."""
    kept = ("igan_fast", "image_size", "latent", "attributes", "strength", "moves")
    values = {name: description[name] for name in kept}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def to_text(description: dict[str, Any]) -> str:
    """JSON with one line for each entry."""
    return (
        "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in description.items()) + "\n}\n"
    )


def is_export(folder: Path) -> bool:
    """Whether ``igan-fast export`` has written this folder: it holds ``model.json``, and is no run or checkpoint."""
    return (folder / FILE).is_file()


def read_description(folder: Path) -> Description:
    """Read ``model.json`` of a folder.

    Raises:
        FileMissing, FileUnreadable, FileDamaged: there is no such file, or it cannot be read, or its content is wrong.
    """
    where = folder / FILE
    content = read_json(where, _SHAPE)
    if content["format"] != _FORMAT:
        raise FileDamaged(f"{where}: its format is {content['format']!r}, expected {_FORMAT!r}")
    attributes = tuple(content["attributes"])
    if not attributes or len(set(attributes)) < len(attributes):
        raise FileDamaged(f"{where}: found {len(attributes)} attributes, expected different names, at least one")
    rows: list[str] = content["label_samples"]
    if wrong := next((row for row in rows if len(row) != len(attributes) or set(row) - {"0", "1"}), None):
        raise FileDamaged(f"{where}: label_samples: found {wrong[:60]!r}, expected {len(attributes)} of 0 and 1")
    samples = np.array([[int(value) for value in row] for row in rows], np.uint8).reshape(-1, len(attributes))
    companions = None
    if (found := content["companions"]) is not None:
        try:
            companions = Companions(torch.tensor(found["covariance"], dtype=torch.float64), least=found["least"])
        except ValueError as error:
            raise FileDamaged(f"{where}: companions: {error}") from error
        if len(companions) != len(attributes):
            raise FileDamaged(f"{where}: companions are of {len(companions)} attributes, expected {len(attributes)}")
    return Description(content["image_size"], content["latent"], attributes, samples, companions, content["drawn"])


def _interface(network: Network, suffixes: tuple[str, ...]) -> dict[str, Any]:
    def described(values: tuple[Any, ...]) -> dict[str, Any]:
        return {
            value.name: {
                "type": str(value.dtype).removeprefix("torch."),
                "shape": ["batch", *(network.sizes[axis] for axis in value.shape)],
                "meaning": value.meaning,
            }
            for value in values
        }

    return {
        "files": [network.NAME + suffix for suffix in suffixes],
        "meaning": network.MEANING,
        "inputs": described(network.INPUTS),
        "outputs": described(network.OUTPUTS),
    }
