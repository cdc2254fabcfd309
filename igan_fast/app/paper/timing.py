"""Tables 1 and 2: how long training and use of each method take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.app.paper.jobs import Job
from igan_fast.app.paper.markdown import Table
from igan_fast.app.paper.numbers import marked
from igan_fast.data import to_float

__all__ = [
    "Seconds",
    "Training",
    "TrainingTime",
    "TrainingTimes",
    "UseTime",
    "UseTimes",
    "measure",
    "training_times",
    "use_times",
]

#: Batch sizes of the testing times.
BATCHES = (1, 64)


@dataclass(frozen=True)
class Seconds:
    """Measured durations."""

    median: float
    quartiles: tuple[float, float]
    """Between these are half of the repeats."""
    repeats: int

    @classmethod
    def of(cls, durations: Sequence[float]) -> Seconds:
        """The median and the quartiles of durations, at least one."""
        low, median, high = np.quantile(durations, (0.25, 0.5, 0.75))
        return cls(float(median), (float(low), float(high)), len(durations))

    def divided(self, by: float) -> Seconds:
        """The durations of a part."""
        return Seconds(self.median / by, (self.quartiles[0] / by, self.quartiles[1] / by), self.repeats)

    def text(self) -> str:
        """``median (quartile–quartile)`` in a unit that suits it."""
        unit, scale = ("s", 1.0) if self.median >= 1 else ("ms", 1e3) if self.median >= 1e-3 else ("µs", 1e6)
        median, low, high = (
            f"{scale * value:,.0f}" if scale * value >= 1000 else f"{scale * value:.3g}"
            for value in (self.median, *self.quartiles)
        )
        return f"{median} {unit} ({low}–{high})"


def measure(
    runs: Sequence[Callable[[], object]],
    *,
    repeats: int = 10,
    warm_up: int = 2,
    device: str | torch.device = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> list[Seconds]:
    """Measure how long calls take.

    All are called in turn, ``warm_up`` and then ``repeats`` times, so that what slows the machine down for a while
    slows all of them.

    Args:
        runs: the calls.
        repeats: how many are measured, at least 1.
        warm_up: how many come before, for caches and compilation.
        device: a GPU computes on after a call has returned, so its end is awaited.
        clock: returns seconds.
    """
    taken: list[list[float]] = [[] for _ in runs]
    for turn in range(warm_up + repeats):
        for durations, run in zip(taken, runs, strict=True):
            _await(device)
            began = clock()
            run()
            _await(device)
            if turn >= warm_up:
                durations.append(clock() - began)
    return [Seconds.of(durations) for durations in taken]


@dataclass(frozen=True)
class Training:
    """What was measured of one method.

    Args:
        method: its name.
        seconds: the time of an iteration, measured at least once.
        batch_size: the photos that an iteration takes.
        ours: whether the table marks it as ours.
        networks: how many such trainings the method needs, such as one for each attribute.
    """

    method: str
    seconds: Sequence[float]
    batch_size: int
    ours: bool = False
    networks: int = 1


@dataclass(frozen=True)
class TrainingTime:
    """How long the training of one method takes."""

    method: str
    ours: bool
    batch_size: int
    networks: int
    """How many such trainings the method needs. The times are those of one."""
    iteration: Seconds
    epoch: Seconds
    """The time of an iteration, times the training photos divided by the batch size."""


@dataclass(frozen=True)
class TrainingTimes:
    """The numbers of Table 1."""

    image_size: int
    photos: int
    """Training photos, which are one epoch."""
    methods: tuple[TrainingTime, ...]

    @property
    def title(self) -> str:
        return "Table 1: training time"

    @property
    def shown(self) -> str:
        return (
            f"Measured at {self.image_size}² pixels; an epoch is {self.photos:,} photos. Medians, and in brackets the "
            "quartiles. Where a method needs several trainings, the times are those of one."
        )

    def tables(self) -> tuple[Table, ...]:
        rows = tuple(
            (
                marked(method.method, ours=method.ours),
                f"{method.networks:,}",
                f"{method.batch_size:,}",
                method.iteration.text(),
                method.epoch.text(),
            )
            for method in self.methods
        )
        return (Table(("method", "trainings", "batch size", "iteration", "epoch"), rows),)


def training_times(trainings: Sequence[Training], *, image_size: int, photos: int) -> TrainingTimes:
    """Table 1 from what was measured.

    Args:
        trainings: of each method.
        image_size: side of the photos.
        photos: the number of training photos.
    """
    methods = []
    for each in trainings:
        iteration = Seconds.of(each.seconds)
        epoch = iteration.divided(each.batch_size / photos)
        methods.append(TrainingTime(each.method, each.ours, each.batch_size, each.networks, iteration, epoch))
    return TrainingTimes(image_size, photos, tuple(methods))


@dataclass(frozen=True)
class UseTime:
    """How long a method takes for one image."""

    method: str
    ours: bool
    job: str
    batch_size: int
    image: Seconds
    """The time of a batch divided by its size."""


@dataclass(frozen=True)
class UseTimes:
    """The numbers of Table 2."""

    image_size: int
    times: tuple[UseTime, ...]

    @property
    def title(self) -> str:
        return "Table 2: testing time"

    @property
    def shown(self) -> str:
        return f"Time for one image of {self.image_size}² pixels, measured. Medians, and in brackets the quartiles."

    def tables(self) -> tuple[Table, ...]:
        batches = sorted({time.batch_size for time in self.times})
        cells = {(time.method, time.ours, time.job, time.batch_size): time.image.text() for time in self.times}
        rows = dict.fromkeys((time.method, time.ours, time.job) for time in self.times)
        return (
            Table(
                ("method", "job", *(f"batches of {batch}" for batch in batches)),
                tuple(
                    (marked(name, ours=ours), job, *(cells.get((name, ours, job, batch), "–") for batch in batches))
                    for name, ours, job in rows
                ),
            ),
        )


def use_times(
    jobs: Sequence[Job],
    photos: NDArray[np.uint8],
    labels: NDArray[Any],
    *,
    batches: Sequence[int] = BATCHES,
    repeats: int = 10,
    warm_up: int = 2,
) -> UseTimes:
    """Measure all jobs in turn, for each size of batch.

    Args:
        jobs: such as ``igan_fast.app.paper.jobs.rebuilding(method)``.
        photos: (N, S, S, 3) uint8, N at least 1. They are repeated to fill a batch.
        labels: (N, A), their labels, 0 and 1.
        batches: the batch sizes.
        repeats, warm_up: as of ``measure``.
    """
    found: list[UseTime] = []
    for batch in batches:
        rows = np.arange(batch) % len(photos)
        x, c = torch.from_numpy(photos[rows]), torch.from_numpy(np.asarray(labels[rows], np.float32))
        runs = [_call(job, to_float(x.to(job.device)), c.to(job.device)) for job in jobs]
        device = next((job.device for job in jobs if job.device.type == "cuda"), torch.device("cpu"))
        for job, seconds in zip(jobs, measure(runs, repeats=repeats, warm_up=warm_up, device=device), strict=True):
            found.append(UseTime(job.method, job.ours, job.name, batch, seconds.divided(batch)))
    return UseTimes(photos.shape[1], tuple(found))


def _call(job: Job, x: Tensor, c: Tensor) -> Callable[[], object]:
    return lambda: job.run(x, c)


def _await(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
