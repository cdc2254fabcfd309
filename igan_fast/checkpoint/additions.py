"""The options of a training run that go beyond the paper. Configs that older versions saved lack them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["described_additions", "options_missing", "with_older_values"]

#: Each addition, with the value that means "without it": the one that runs of older versions had.
#: ``label_weight_fake`` is another one: it was ``label_weight_d``.
OFF: dict[str, Any] = {
    "film": False,
    "edited_share": 0.0,
    "flip_weight": 1.0,
    "r1": 0.0,
    "latent_lr_scale": 0.0,
}


def with_older_values(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved config, completed with the values that a run of an older version had."""
    return {**OFF, "r1_every": 16, "label_weight_fake": saved.get("label_weight_d"), **saved}


def options_missing(saved: Mapping[str, Any]) -> list[str]:
    """Return the additions, as options, that a saved config lacks because an older version wrote it."""
    return [_option(name) for name in (*OFF, "label_weight_fake") if name not in saved]


def described_additions(saved: Mapping[str, Any]) -> str:
    """Return the additions that a run was trained with, as the options would be typed; "none" if there are none.

    Args:
        saved: the config in the run's checkpoint.
    """
    values = with_older_values(saved)
    used = {name: values[name] for name, off in OFF.items() if values[name] != off}
    if values["label_weight_fake"] not in (None, values.get("label_weight_d")):
        used["label_weight_fake"] = values["label_weight_fake"]
    if not used.get("edited_share"):
        used.pop("flip_weight", None)  # there is nothing to flip
    words = [_option(name) if value is True else f"{_option(name)} {value:g}" for name, value in used.items()]
    return " ".join(words) or "none"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
