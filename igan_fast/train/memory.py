"""Checks before any allocation that the memory of a device is large enough for a training run."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from igan_fast.checkpoint.meta_model import model_on_meta
from igan_fast.distributed.process import this_process
from igan_fast.errors import InputError, option

if TYPE_CHECKING:
    from igan_fast.train.config import TrainConfig

__all__ = ["check_memory", "least_training_bytes", "machine_memory"]

#: The options that determine how much memory a run takes.
_SIZES = ("image_size", "width", "latent", "batch_size")


def check_memory(config: TrainConfig, device: torch.device) -> None:
    """Raise an error if the memory of ``device`` is certainly too small for the options.

    Raises:
        InputError: names the option that takes most memory.
    """
    process = this_process()
    sharing = process.local_world_size if device.type == "cpu" else 1

    def needed_by(config: TrainConfig) -> float:
        """The bytes that all processes take that share the memory. Each holds all weights, and its part of a batch."""
        return sharing * least_training_bytes(config, math.ceil(config.batch_size / process.world_size))

    there, needed = machine_memory(device), needed_by(config)
    if there is None or needed <= there:
        return

    usual = type(config)()

    def without(name: str) -> float:
        return needed_by(dataclasses.replace(config, **{name: getattr(usual, name)}))

    name = min(_SIZES, key=without)
    raise InputError(
        f"{option(name)}: found {getattr(config, name)}: training would take more than {_gib(needed)}, "
        f"this machine has {_gib(there)}"
    )


def least_training_bytes(config: TrainConfig, photos: int | None = None) -> float:
    """Return a lower bound of the bytes that a process takes. A real run takes a few times as many.

    Args:
        config: of the run.
        photos: the photos of each batch that the process computes; by default all.
    """
    arguments: dict[str, int] = {name: getattr(config, name) for name in ("image_size", "latent", "width")}
    try:
        model = model_on_meta({**arguments, "attributes": len(config.attributes) or 1})
    except ValueError:  # a layer too large for any tensor
        return 2.0**40 * max(arguments.values())
    # float32: weights, their gradients, Adam's two moments, the average.
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4 * (5 if config.ema_decay else 4)
    pixels = config.image_size**2
    # D saves h¹ … h⁴ of each photo for its backward pass; each has half as many elements as the one before.
    features = config.width * pixels * (8 + 4 + 2 + 1) // 32
    each = 3 * 4 * pixels + features * (2 if config.precision == "bf16" else 4) + 4 * config.latent
    return float(weights + (config.batch_size if photos is None else photos) * each)


def machine_memory(device: torch.device) -> int | None:
    """Return the bytes of memory of ``device`` that a process can use; None if that is unknown."""
    if device.type == "cuda":
        total: int = torch.cuda.get_device_properties(device).total_memory
        return total
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
    return min([installed, *_container_limits()])


def _container_limits() -> list[int]:
    limits = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return limits


def _gib(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count < 2**50 else f"{count / 2**30:.1e} GiB"
