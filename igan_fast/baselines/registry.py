"""The baselines by name. Their modules are imported on first use."""

from __future__ import annotations

import importlib
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch

from igan_fast.baselines.interface import BaselineNetworks, BaselineStep

__all__ = ["BASELINES", "Baseline", "BaselineName", "baseline", "networks_on_meta"]

#: What ``igan-fast baseline --method`` takes.
BaselineName: TypeAlias = Literal["dcgan", "cgan", "acgan", "stargan", "cyclegan"]

BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)

#: The names of the classes of networks and step.
_CLASSES: dict[BaselineName, tuple[str, str]] = {
    "dcgan": ("DCGAN", "DCGANStep"),
    "cgan": ("CGAN", "CGANStep"),
    "acgan": ("ACGAN", "ACGANStep"),
    "stargan": ("StarGANNetworks", "StarGANStep"),
    "cyclegan": ("CycleGANNetworks", "CycleGANStep"),
}


class Baseline(NamedTuple):
    """The two classes of a baseline."""

    networks: type[BaselineNetworks]
    step: type[BaselineStep]


def baseline(name: BaselineName) -> Baseline:
    """The classes of a baseline."""
    networks, step = _CLASSES[name]
    return Baseline(
        getattr(importlib.import_module(f"igan_fast.baselines.{name}.networks"), networks),
        getattr(importlib.import_module(f"igan_fast.baselines.{name}.step"), step),
    )


def networks_on_meta(name: BaselineName, arguments: dict[str, Any]) -> BaselineNetworks:
    """The networks of a baseline without memory: shapes and types.

    Raises:
        TypeError, ValueError: the networks do not take these arguments.
    """
    with torch.device("meta"):
        return baseline(name).networks(**arguments)
