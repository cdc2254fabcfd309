"""Runs the whole experiment: the trainings that are missing, then all figures and tables, then the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from igan_fast.app.doctor import described_machine, described_software
from igan_fast.app.identity_scores import choose_embedder
from igan_fast.app.kid_scores import choose_network
from igan_fast.app.paper.materials import Materials, TrainedRun, make_materials
from igan_fast.app.paper.page import Experiment, TrainedMethod, write_page
from igan_fast.app.paper.parts import make_parts
from igan_fast.app.paper.plan import OURS, PaperOptions, PlannedRun, make_plan
from igan_fast.app.paper.plan_file import PLAN, PlanFile
from igan_fast.baselines.config import BaselineConfig
from igan_fast.baselines.registry import baseline, networks_on_meta
from igan_fast.checkpoint.find import newest_checkpoint
from igan_fast.data.store import FaceStore
from igan_fast.devices import resolve_device
from igan_fast.errors import InputError, PackageMissing, printable
from igan_fast.train.config import TrainConfig
from igan_fast.train.diverged import TrainingDiverged
from igan_fast.train.loop import train
from igan_fast.train.run import locked, open_data
from igan_fast.train.run_config import RunConfig
from igan_fast.train.run_log import read_log

__all__ = ["run_paper"]

#: A training whose minutes differ from those that it should take by more than this share is named.
TOLERANCE = 0.1


def run_paper(options: PaperOptions, *, report: Callable[[str], None] = print) -> Path:
    """Train what is missing and write every figure and table.

    An interrupted experiment continues where it was: finished trainings are not repeated, an unfinished one is resumed.

    Args:
        options: of the experiment.
        report: called with lines on the progress.

    Returns:
        The page, ``paper.md`` in ``options.out``.

    Raises:
        InputError: an option, the data or the folder cannot be used, or the folder was made with other options.
        KeyboardInterrupt: a training was interrupted; it is saved.
    """
    options.check()
    first = TrainConfig(
        data=options.data,
        split=options.split,
        seed=options.seed,
        device=options.device,
        threads=options.threads,
        cache=options.cache,
        **options.sizes(),
    )
    first.validate()
    # A folder of other options is refused before the images are decoded, which may take minutes.
    PlanFile.read(options.out / PLAN, options.saved())
    try:
        embedder = choose_embedder(options.embedder)
    except PackageMissing as error:
        if options.embedder is not None:
            raise
        embedder, why = None, str(error)
    else:
        why = ""
    comparison, missing = choose_network(options.inception, resolve_device(options.device))
    with locked(options.out, called="--out"):
        stores = _Stores()
        store = stores(first)
        _check_held_out(options, store)
        runs, seconds = make_plan(options, stores, store, lambda line: report(printable(line)))
        trained = {name: _trained(run, options, report) for name, run in runs.items()}
        materials = make_materials(options, runs, trained, stores(runs[OURS].config), embedder, comparison)
        parts = make_parts(materials, seconds, report)
        networks = (
            embedder[0] if embedder else f"none: {why}",
            f"features of {comparison.name}" if comparison else f"none: {missing}",
        )
        experiment = _protocol(options, runs, trained, materials, *networks)
        return write_page(options.out, experiment, parts)[-1]


def _check_held_out(options: PaperOptions, store: FaceStore) -> None:
    if not len(store.splits["val"]):
        raise InputError(
            f"--data {options.data}: found no photos for validation, expected some: figures are made of photos that "
            "no method was trained on"
        )


class _Stores:
    """The images of each training. Those with the same attributes are opened once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], FaceStore] = {}

    def __call__(self, config: RunConfig) -> FaceStore:
        if config.attributes not in self._known:
            self._known[config.attributes] = open_data(config)[0]
        return self._known[config.attributes]


def _trained(run: PlannedRun, options: PaperOptions, report: Callable[[str], None]) -> TrainedRun:
    """Train a method, or continue its training, to the planned iteration."""
    folder = run.config.run
    assert folder is not None
    report(printable(f"{run.name}: training to iteration {run.config.iterations:,}"))
    failed = ""
    try:
        if train(run.config).interrupted:
            raise KeyboardInterrupt
    except TrainingDiverged as error:
        failed = str(error)
        report(printable(f"{run.name}: {failed}"))
    checkpoint = newest_checkpoint(folder, report)
    minutes = _logged_minutes(folder)
    if not (options.quick or failed) and minutes is not None and abs(minutes / options.minutes - 1) > TOLERANCE:
        report(
            printable(
                f"{run.name}: took {minutes:.3g} minutes, not {options.minutes:g}: its iterations were not as fast as "
                "when they were measured; other programs may have slowed down one of the two"
            )
        )
    return TrainedRun(
        run.name,
        None if checkpoint is None or failed else checkpoint.folder,
        0 if checkpoint is None else checkpoint.iteration,
        minutes,
        failed,
    )


def _logged_minutes(folder: Path) -> float | None:
    """The minutes that the iterations of a run took, by its log; None if it cannot be read."""
    try:
        records = list(read_log(folder / "log.jsonl"))
    except InputError:
        return None
    return sum(float(record["seconds"]) for record in records if record["kind"] == "losses") / 60


def _protocol(
    options: PaperOptions,
    runs: dict[str, PlannedRun],
    trained: dict[str, TrainedRun],
    materials: Materials,
    identity: str,
    comparison: str,
) -> Experiment:
    store = materials.store
    methods = tuple(_described(run, trained[name]) for name, run in runs.items())
    return Experiment(
        data=materials.described_data,
        split="val",
        photos=len(materials.rows),
        training_photos=len(store.splits["train"]),
        image_size=store.size,
        attributes=len(store.attributes),
        minutes=None if options.quick else options.minutes,
        machine=described_machine(),
        software=described_software(),
        methods=methods,
        judges=tuple(
            f"{name} ({'the defaults of' if not index else 'another seed, augmentation and weights for'} "
            "igan_fast.baselines.cnn), trained on the training photos"
            for index, name in enumerate(judge.name for judge in materials.judges)
        ),
        identity=identity,
        comparison=comparison,
    )


def _described(run: PlannedRun, trained: TrainedRun) -> TrainedMethod:
    config = run.config
    if isinstance(config, TrainConfig):
        assert config.lambdas is not None
        settings = {"preset": config.preset, "λ": " ".join(format(value, "g") for value in config.lambdas)}
        source = "this package's default preset: the paper, with the additions of igan_fast.reference.beyond"
    else:
        assert isinstance(config, BaselineConfig)
        sizes = {"image_size": config.image_size, "attributes": len(config.attributes) or 1, "width": config.width}
        step = baseline(config.method).step(networks_on_meta(config.method, sizes), iterations=1)
        defaults = step.optimizers["optimizer_g"].defaults
        settings = {"learning rate": f"{defaults['lr']:g}", "β": " ".join(map(str, defaults["betas"]))}
        source = f"the authors', see igan_fast.baselines.{config.method}"
    return TrainedMethod(
        name=run.title,
        ours=run.name == OURS,
        minutes=trained.minutes,
        iterations=trained.iteration,
        batch_size=config.photos_per_iteration,
        settings=settings,
        source=source,
    )
