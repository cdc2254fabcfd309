"""The description of a model in a checkpoint's state.json, checked for consistency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from igan_fast.checkpoint.meta_model import model_on_meta
from igan_fast.errors import InputError
from igan_fast.files import FileDamaged
from igan_fast.json_files import Natural, check_json
from igan_fast.models import IterativeGAN

__all__ = ["ModelDescription", "check_statistics", "described_model"]

_MODEL = {"model": {"arguments": dict, "attributes": [str]}}
_ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("image_size", "attributes", "latent", "width"), Natural),
    "signed_labels": bool,
    "film": bool,
}
#: The options of the run that the evaluation reads: those that decide which photos were held out, and the additions to
#: the paper.
_OPTIONS: dict[str, Any] = {
    **{"split": str, "align": str, "strict": bool, "seed": Natural, "drawn_count": Natural, "film": bool},
    **dict.fromkeys(("edited_share", "flip_weight", "r1", "latent_lr_scale", "label_weight_d"), float),
    "label_weight_fake": (float, None),
}


class ModelDescription(NamedTuple):
    """A model without its weights."""

    arguments: dict[str, Any]
    """All of its constructor's, also those that older versions did not have."""
    attributes: tuple[str, ...]
    label_samples: Any
    """As in the state; ``igan_fast.checkpoint.labels.unpack_rows`` checks them."""

    def on_meta(self, attributes: int | None = None) -> IterativeGAN:
        """Return the model on the ``meta`` device: shapes and types without memory.

        Args:
            attributes: another number of attributes than its own.
        """
        return model_on_meta(self.arguments if attributes is None else {**self.arguments, "attributes": attributes})


def described_model(folder: Path, state: dict[str, Any]) -> ModelDescription:
    """Return the description of the model in the state of the checkpoint in ``folder``.

    Raises:
        InputError: the checkpoint is of a baseline.
        FileDamaged: a value is missing or has another type, or two values contradict each other.
    """
    where = folder / "state.json"
    if isinstance(found := state.get("model"), dict) and isinstance(method := found.get("method"), str):
        raise InputError(f"{folder}: holds the networks of the baseline {method}, expected an Iterative GAN")
    try:
        check_json(state, _MODEL, where)
        described = state["model"]
        _check_present(described["arguments"], _ARGUMENTS, where, "model.arguments")
        check_json(state, {"config": dict} if "config" in state else {}, where)
        _check_present(state.get("config", {}), _OPTIONS, where, "config")
        attributes = tuple(described["attributes"])
        model = ModelDescription(described["arguments"], attributes, described.get("label_samples", []))
        model = model._replace(arguments=model.on_meta().arguments())
    except (FileDamaged, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise FileDamaged(f"{folder}: state.json does not describe a model ({reason})") from error
    if len(attributes) != (count := model.arguments["attributes"]):
        raise FileDamaged(f"{folder}: state.json names {len(attributes)} attributes for a model of {count}")
    if len(set(attributes)) < len(attributes):
        raise FileDamaged(f"{folder}: state.json names an attribute twice")
    return model


def check_statistics(tensors: Mapping[str, Tensor], where: Path) -> None:
    """Raise ``FileDamaged`` if a running variance is below 0: its square root would be NaN."""
    for name, tensor in tensors.items():
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise FileDamaged(f"{where}: {name} holds {float(tensor.min())}, expected no variance below 0")


def _check_present(content: Mapping[str, Any], shapes: Mapping[str, Any], where: Path, name: str) -> None:
    for key, shape in shapes.items():
        if key in content:
            check_json(content[key], shape, where, f"{name}.{key}")
