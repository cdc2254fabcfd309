"""A training run beside other programs: how many threads it takes where they keep cores busy."""

from __future__ import annotations

import dataclasses
import warnings

import torch

from igan_fast import _start
from igan_fast.cores import free_cores
from igan_fast.devices import resolve_device
from igan_fast.train.config import TrainConfig

__all__ = ["beside_others"]

#: Less than this many cores' worth of others' work is no reason to say anything.
HARDLY_BUSY = 0.5


def beside_others(config: TrainConfig, *, continued: bool) -> TrainConfig:
    """The config, with fewer threads where other programs keep cores busy and nobody has said how many to take.

    Two threads of which one has to share its core are slower than one that has a core to itself: each waits for the
    other at the end of every operator. A run that is ``continued`` keeps its number: the last digits hang on it.
    """
    threads = config.threads or torch.get_num_threads()
    if threads == 1 or resolve_device(config.device).type != "cpu":
        return config
    cores = free_cores()
    if cores.busy < HARDLY_BUSY or cores.free >= threads:
        return config
    found = f"other programs keep {cores.busy:.1f} of {cores.usable} cores busy"
    if config.threads is not None or continued or _start.THREADS_GIVEN:
        warnings.warn(f"{found}; --threads {cores.free} would be faster beside them than {threads}", stacklevel=2)
        return config
    warnings.warn(
        f"{found}: this run takes {cores.free} thread{'s' * (cores.free > 1)} instead of {threads}, now and when it is "
        f"resumed; --threads {threads} takes all",
        stacklevel=2,
    )
    return dataclasses.replace(config, threads=cores.free)
