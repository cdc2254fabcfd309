"""The options of a training run that go beyond the paper. Configs that older versions saved lack them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from igan_fast.errors import option

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
    # None means label_weight_d, but the default preset would fill in its own value.
    fake = None if saved.get("preset") == "paper" else saved.get("label_weight_d")
    return {**OFF, "r1_every": 16, "label_weight_fake": fake, **saved}


def options_missing(saved: Mapping[str, Any]) -> list[str]:
    """Return the additions, as options, that a saved config lacks because an older version wrote it."""
    return [option(name) for name in (*OFF, "label_weight_fake") if name not in saved]


def described_additions(saved: Mapping[str, Any]) -> str:
    """Return the additions that a run was trained with, as the options would be typed.

    Args:
        saved: the config in the run's checkpoint.

    Returns:
        The options; "none" if there are none, "unknown" if the checkpoint has no config.
    """
    if not saved:
        return "unknown"
    values = with_older_values(saved)
    used = {name: values[name] for name, off in OFF.items() if values[name] != off}
    if values["label_weight_fake"] not in (None, values.get("label_weight_d")):
        used["label_weight_fake"] = values["label_weight_fake"]
    if not used.get("edited_share"):
        used.pop("flip_weight", None)  # there is nothing to flip
    words = [f"{option(name)} {value if value is True else format(value, 'g')}" for name, value in used.items()]
    return " ".join(words) or "none"
