"""Chooses the number of threads of a training run while other programs keep cores busy."""

from __future__ import annotations

import dataclasses
import warnings

import torch

from igan_fast import _start
from igan_fast.cores import free_cores
from igan_fast.devices import resolve_device
from igan_fast.train.run_config import Config

__all__ = ["beside_others"]

#: Other programs that keep fewer cores busy than this are ignored.
HARDLY_BUSY = 0.5


def beside_others(config: Config, *, continued: bool) -> Config:
    """Return the config, with fewer threads if other programs keep cores busy and the user has not set a number.

    If one of two threads shares its core with another program, both are slower than a single thread on a free core,
    because they wait for each other at the end of each operator. A resumed run keeps its number of threads, because the
    rounding depends on it.

    Args:
        config: of the run.
        continued: whether the run is resumed.
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
