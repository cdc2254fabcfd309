"""The trainings that the paper's figures need: one for each method, ablation and attribute, of equal duration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from igan_fast.app.paper.iteration_times import busy_machine, iteration_times, measured_seconds, undisturbed
from igan_fast.app.paper.numbers import TRANSLATED, choose
from igan_fast.app.paper.plan_file import PLAN, PlanFile
from igan_fast.baselines.config import BaselineConfig
from igan_fast.baselines.registry import BaselineName
from igan_fast.checkpoint.find import checkpoint_folders
from igan_fast.data.store import FaceStore
from igan_fast.errors import InputError
from igan_fast.train.config import PRESETS, TrainConfig
from igan_fast.train.run_config import RunConfig

__all__ = [
    "ABLATIONS",
    "OURS",
    "PaperOptions",
    "PlannedRun",
    "ablation_name",
    "make_plan",
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

#: The length of each training with ``quick``.
QUICK_ITERATIONS = 4


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
    """Minutes of training that each network gets, by the time of its iterations, which is measured first."""
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


def planned_runs(
    options: PaperOptions, attributes: tuple[str, ...], *, constant: Collection[str] = ()
) -> list[PlannedRun]:
    """The trainings for a dataset with these attributes, without their lengths.

    If the data has none of the attributes of Fig. 9a, CycleGAN takes its first ones.

    Args:
        constant: attributes that all training photos have, or none. CycleGAN cannot learn them.
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
        if attribute in constant:
            continue
        config = BaselineConfig(method="cyclegan", attributes=(attribute,), **common)
        runs.append(PlannedRun(f"cyclegan-{attribute}", config, f"CycleGAN, {attribute}", "cyclegan"))
    # Ours first: the figures of a folder that is not finished yet begin with it.
    return sorted(runs, key=lambda run: run.name != OURS)


def make_plan(
    options: PaperOptions,
    stores: Callable[[RunConfig], FaceStore],
    store: FaceStore,
    report: Callable[[str], None],
) -> tuple[dict[str, PlannedRun], dict[str, list[float]]]:
    """Decide the length of each training, or read what was decided when the folder was made.

    The time of an iteration of each method is measured. Each network then gets as many iterations as fill
    ``options.minutes``, by the lower quartile of the times. All of this is written to ``plan.json``, so that an
    interrupted experiment goes on with the same lengths. Where ``plan.json`` has no length, a training that has begun
    keeps its own.

    Args:
        stores: returns the images of a training.
        store: those with all attributes.
        report: called with lines on what is measured, and on what cannot be trained.

    Returns:
        The runs by name, with their numbers of iterations; and for each method the seconds of an iteration, measured
        several times.

    Raises:
        InputError: the folder was made with other options, a training in it has begun with another length, or
            plan.json is damaged or cannot be written.
    """
    labels = store.labels[store.splits["train"]]
    constant = [name for name, column in zip(store.attributes, labels.T, strict=True) if len(np.unique(column)) < 2]
    runs = planned_runs(options, store.attributes, constant=constant)
    if left := [name for name in choose(store.attributes, TRANSLATED).names if name in constant]:
        report(f"CycleGAN does not learn {', '.join(left)}: all training photos have the same label")
    path = options.out / PLAN
    plan = PlanFile.read(path, options.saved())
    missing: dict[str, RunConfig] = {}
    for run in runs:
        if run.measured_as not in plan.seconds:
            missing.setdefault(run.measured_as, run.config)
    if missing:
        plan.seconds |= _measured(options, missing, stores, report)
        if not options.quick:
            report(f"{len(runs)} trainings of {options.minutes:g} minutes each")
    folders = {run.name: options.out / "runs" / run.name for run in runs}
    begun = {run.name: _begun_length(run, folders[run.name]) for run in runs}
    for run in runs:
        method = run.measured_as
        if method not in plan.iterations:
            fitting = max(1, round(options.minutes * 60 / undisturbed(plan.seconds[method])))
            known = [length for each in runs if each.measured_as == method and (length := begun[each.name])]
            plan.iterations[method] = [*known, QUICK_ITERATIONS if options.quick else fitting][0]
        if (begun[run.name] or plan.iterations[method]) != plan.iterations[method]:
            raise InputError(
                f"{folders[run.name]}: was begun with {begun[run.name]} iterations, but {path} has "
                f"{plan.iterations[method]} for {method}; write the former number there, or remove the run's folder to "
                "train it again"
            )
    plan.write(path)
    planned = {
        run.name: dataclasses.replace(
            run,
            config=dataclasses.replace(run.config, iterations=plan.iterations[run.measured_as], run=folders[run.name]),
        )
        for run in runs
    }
    return planned, plan.seconds


def _begun_length(run: PlannedRun, folder: Path) -> int | None:
    """The length with which a training has begun; None if it has not."""
    return type(run.config).load(folder).iterations if checkpoint_folders(folder) else None


def _measured(
    options: PaperOptions,
    configs: Mapping[str, RunConfig],
    stores: Callable[[RunConfig], FaceStore],
    report: Callable[[str], None],
) -> dict[str, list[float]]:
    """The time of an iteration of each method. For ``options.quick`` a single period is enough."""
    if options.quick:
        return iteration_times(configs, stores, seconds=0.0, rounds=1, warm_up=0)
    seconds = measured_seconds(options.minutes)
    report(f"measuring the time of an iteration of {', '.join(configs)}: {seconds:.0f} seconds each, in turn")
    if busy := busy_machine(next(iter(configs.values()))):
        report(busy)
    found = iteration_times(configs, stores, seconds=seconds)
    for name, times in found.items():
        report(f"{name}: {undisturbed(times):.3g} seconds")
    return found
