"""Measures how long an iteration of each method takes: by this the lengths of the trainings are chosen."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from statistics import quantiles

import torch

from igan_fast.app.neighbours import HARDLY_BUSY
from igan_fast.cores import free_cores
from igan_fast.data.store import FaceStore
from igan_fast.devices import resolve_device
from igan_fast.train.run_config import RunConfig
from igan_fast.train.trainer import make_method

__all__ = ["busy_machine", "iteration_times", "measured_seconds", "undisturbed"]

#: Iterations of each method before it is measured, at least; whole periods are run, and for as long as a turn. In the
#: first ones libraries choose their algorithms, kernels are compiled and memory is taken. Some kernels are used only
#: once in a period.
WARM_UP = 3
#: The methods are measured in turn so many times, each for at least one period.
ROUNDS = 5
#: Each is measured for this share of the minutes that it will be trained, within these limits in seconds.
SHARE, LEAST, MOST = 0.05, 15.0, 60.0


def measured_seconds(minutes: float) -> float:
    """For how many seconds a method is measured that will be trained for ``minutes``."""
    return min(MOST, max(LEAST, SHARE * minutes * 60))


def undisturbed(times: list[float]) -> float:
    """The time of an iteration with nothing beside: the lower quartile of the measured ones.

    Whatever else runs on the machine only makes iterations longer, and not those of all methods alike.
    """
    return quantiles(times, n=4, method="inclusive")[0] if len(times) > 1 else times[0]


def iteration_times(
    configs: Mapping[str, RunConfig],
    stores: Callable[[RunConfig], FaceStore],
    *,
    seconds: float,
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Measure the time of an iteration of each method, in this process and set up as in its training.

    The methods are measured in turn, ``rounds`` times, so that what slows the machine down for a while slows all of
    them. Nothing is written, and the networks are thrown away.

    Args:
        configs: of the trainings, by the name of the method.
        stores: returns the images of a training.
        seconds: for how long each method is measured, at least.
        rounds: into how many turns this time is divided. In each turn at least one period is measured.
        warm_up: how many iterations come before, at least. They are rounded up to whole periods, and go on for as long
            as a turn; with 0 there are none.
        clock: returns seconds.

    Returns:
        For each method the mean time of an iteration over each measured period (``Method.period``), in seconds.
    """
    # The length is not known yet. The costs of an iteration do not depend on it.
    methods = {
        name: make_method(dataclasses.replace(config, iterations=1_000_000), stores(config))
        for name, config in configs.items()
    }
    found: dict[str, list[float]] = {name: [] for name in methods}

    def run_period(name: str) -> float:
        device = resolve_device(configs[name].device)
        _await(device)
        began = clock()
        for _ in range(methods[name].period):
            methods[name].iterate()
        _await(device)
        return (clock() - began) / methods[name].period

    for name, method in methods.items():
        done = spent = 0.0
        while done < warm_up or (warm_up and spent < seconds / rounds):
            spent += run_period(name) * method.period
            done += method.period
    for turn in range(1, rounds + 1):
        for name, method in methods.items():
            while len(found[name]) < turn or sum(found[name]) * method.period < seconds * turn / rounds:
                found[name].append(run_period(name))
    return found


def busy_machine(config: RunConfig) -> str:
    """Say that other programs slow the measurement down; empty if they do not."""
    if resolve_device(config.device).type != "cpu":
        return ""
    cores = free_cores()
    if cores.busy < HARDLY_BUSY or cores.free >= (config.threads or torch.get_num_threads()):
        return ""
    return (
        f"other programs keep {cores.busy:.1f} of {cores.usable} cores busy: iterations take longer now than with "
        "nothing beside, so each method gets fewer of them"
    )


def _await(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
