"""The trainings that the paper's figures need: one for each method, ablation and attribute, of equal duration."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from igan_fast.app.paper.numbers import TRANSLATED, choose
from igan_fast.baselines.config import BaselineConfig
from igan_fast.baselines.registry import BaselineName
from igan_fast.data.store import FaceStore
from igan_fast.devices import resolve_device
from igan_fast.errors import InputError, option
from igan_fast.files import write_file
from igan_fast.json_files import read_json
from igan_fast.train.config import PRESETS, TrainConfig
from igan_fast.train.run_config import RunConfig

__all__ = [
    "ABLATIONS",
    "OURS",
    "PaperOptions",
    "PlannedRun",
    "ablation_name",
    "make_plan",
    "seconds_per_iteration",
]

#: The ablation of Fig. 5: which of λ₁ (perceptual), λ₂ (pixel) and λ₃ (latent) are kept; the others are 0.
ABLATIONS: dict[str, tuple[bool, bool, bool]] = {
    "pixel": (False, True, False),
    "latent": (False, False, True),
    "latent + pixel": (False, True, True),
    "all three": (True, True, True),
}
#: The name of the run of the Iterative GAN, which is also the ablation "all three".
OURS = "iterative-gan"

#: Iterations before the time of an iteration is measured. In the first ones, libraries choose their algorithms.
WARM_UP = 3
#: Seconds over which it is measured.
MEASURE_SECONDS = 15.0

PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class PaperOptions:
    """Train the paper's methods and those it compares itself with, and write its figures and tables (Sec. 4.2, 5)."""

    out: Path
    """Folder for the trainings, the figures and the page. What is there already is kept and not made again."""
    data: str = "drawn"
    """'drawn', or a folder as for train."""
    split: Literal["official", "paper"] = "official"
    """Which photos are held out, as for train."""
    image_size: int = 64
    """Side of the square images in pixels: a multiple of 16 from 32 up."""
    width: int = 32
    """Channels of the networks' largest feature maps, the same for all methods."""
    minutes: float = 8.0
    """Minutes of training that each network gets, by the time that its first iterations take."""
    seed: int = 0
    """Seed of every training and of the noise in the figures."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """'auto' takes the GPU if there is one."""
    threads: int | None = None
    """CPU threads. By default PyTorch chooses."""
    cache: Path | None = None
    """Folder of the prepared images. By default $IGAN_FAST_CACHE, or the user's cache folder."""
    embedder: str | None = None
    """Embedding for the identity scores, as module:function. By default dlib's, if it is installed."""
    inception: Path | None = None
    """File with an Inception network (TorchScript), so that kernel distances are the KID."""
    quick: bool = False
    """A few iterations of tiny networks: shows that everything works, and nothing about the methods."""

    def check(self) -> None:
        """Check what no training checks.

        Raises:
            InputError: names the option, its value and what was expected.
        """
        if not 0 < self.minutes < 1e6:
            raise InputError(f"--minutes: found {self.minutes}, expected above 0")

    def sizes(self) -> dict[str, Any]:
        """The sizes of the images, the networks and the drawn faces."""
        if not self.quick:
            return {"image_size": self.image_size, "width": self.width}
        return {"image_size": 32, "width": 4, **({"drawn_count": 300} if self.data == "drawn" else {})}

    def saved(self) -> dict[str, Any]:
        """The options that decide what is trained, as plan.json holds them."""
        names = ("data", "split", "image_size", "width", "minutes", "seed", "quick")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class PlannedRun:
    """One training."""

    name: str
    """The name of its folder in ``runs``."""
    config: RunConfig
    title: str
    """What figures and tables call it."""
    measured_as: str
    """The name of the method whose time of an iteration it has."""


def ablation_name(title: str) -> str:
    """The name of the run of one of ``ABLATIONS``."""
    return OURS if all(ABLATIONS[title]) else f"{OURS}-{title.replace(' + ', '-')}"


def planned_runs(options: PaperOptions, attributes: tuple[str, ...]) -> list[PlannedRun]:
    """The trainings for a dataset with these attributes, without their lengths.

    For attributes that the data does not have, CycleGAN takes the first ones of the data.
    """
    common: dict[str, Any] = {
        "data": options.data,
        "split": options.split,
        "seed": options.seed,
        "device": options.device,
        "threads": options.threads,
        "cache": options.cache,
        "resume": True,
        **options.sizes(),
    }
    batch: dict[str, Any] = {"batch_size": 8} if options.quick else {}
    lambdas = PRESETS["default"]["lambdas"]
    runs: list[PlannedRun] = []
    for title, kept in ABLATIONS.items():
        name = ablation_name(title)
        called = "iterative GAN" if name == OURS else f"iterative GAN, {title} only"
        weights = (lambdas[0] * kept[0], lambdas[1] * kept[1], lambdas[2] * kept[2])
        runs.append(PlannedRun(name, TrainConfig(**common, **batch, lambdas=weights), called, OURS))
    methods: dict[BaselineName, str] = {"dcgan": "DCGAN", "cgan": "CGAN", "acgan": "AC-GAN", "stargan": "StarGAN"}
    for method, called in methods.items():
        runs.append(PlannedRun(method, BaselineConfig(method=method, **common, **batch), called, method))
    for attribute in choose(attributes, TRANSLATED).names:
        config = BaselineConfig(method="cyclegan", attributes=(attribute,), **common)
        runs.append(PlannedRun(f"cyclegan-{attribute}", config, f"CycleGAN, {attribute}", "cyclegan"))
    # Ours first: the figures of a folder that is not finished yet begin with it.
    return sorted(runs, key=lambda run: run.name != OURS)


def make_plan(
    options: PaperOptions,
    stores: Callable[[RunConfig], FaceStore],
    attributes: tuple[str, ...],
    report: Callable[[str], None],
) -> tuple[dict[str, PlannedRun], dict[str, list[float]]]:
    """Decide the length of each training, or read what was decided when the folder was made.

    The time of an iteration is measured for each method, with nothing beside. Each network then gets as many iterations
    as take ``options.minutes``. They are written to ``plan.json``, so that an interrupted experiment goes on with the
    same numbers.

    Args:
        stores: returns the images of a training.
        attributes: those of the data.
        report: called with one line for each measurement.

    Returns:
        The runs by name, with their numbers of iterations; and for each method the seconds of an iteration, measured
        several times.

    Raises:
        InputError: the folder was made with other options, or plan.json is damaged or cannot be written.
    """
    runs = planned_runs(options, attributes)
    path = options.out / PLAN
    saved = read_plan(path, options)
    measured: dict[str, list[float]] = dict(saved.get("seconds_per_iteration", {}))
    for run in runs:
        if run.measured_as not in measured:
            report(f"measuring an iteration of {run.measured_as}")
            measured[run.measured_as] = seconds_per_iteration(run.config, stores(run.config), quick=options.quick)
            write_plan(path, options, measured)
    lengths = {
        name: 4 if options.quick else max(1, round(options.minutes * 60 / fmean(seconds)))
        for name, seconds in measured.items()
    }
    planned = {
        run.name: dataclasses.replace(
            run,
            config=dataclasses.replace(
                run.config, iterations=lengths[run.measured_as], run=options.out / "runs" / run.name
            ),
        )
        for run in runs
    }
    return planned, measured


def seconds_per_iteration(config: RunConfig, store: FaceStore, *, quick: bool = False) -> list[float]:
    """Measure the time of an iteration in this process. Nothing is written; the networks are thrown away.

    Returns:
        Means over the period after which the costs of iterations repeat, one for each period that was measured.
    """
    device = resolve_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config = dataclasses.replace(config, iterations=1_000_000)
    method = config.method_class()(config, store, device)
    for _ in range(1 if quick else WARM_UP):
        method.iterate()
    _wait(device)
    found: list[float] = []
    while not found or (not quick and sum(found) * method.period < MEASURE_SECONDS):
        began = time.perf_counter()
        for _ in range(method.period):
            method.iterate()
        _wait(device)
        found.append((time.perf_counter() - began) / method.period)
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def read_plan(path: Path, options: PaperOptions) -> Mapping[str, Any]:
    """Read ``plan.json``; empty if there is none.

    Raises:
        InputError: the folder was made with other options, or the file is damaged.
    """
    if not path.exists():
        return {}
    shape = {"options": dict, "seconds_per_iteration": {str: [float]}}
    content: Mapping[str, Any] = read_json(path, shape)
    for name, value in options.saved().items():
        if (found := content["options"].get(name)) != value:
            raise InputError(
                f"{option(name)}: found {value}, but {path.parent} was made with {found}; take it, or another --out"
            )
    return content


def write_plan(path: Path, options: PaperOptions, measured: Mapping[str, list[float]]) -> None:
    """Write ``plan.json``."""
    content = {"options": options.saved(), "seconds_per_iteration": dict(measured)}
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())
