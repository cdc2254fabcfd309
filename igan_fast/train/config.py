"""Everything that decides a training run, in one dataclass: the options, the Python API and a run's config.json."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from igan_fast.data.drawn_faces import MAX_DRAWN
from igan_fast.devices import operators_on, resolve_device
from igan_fast.errors import InputError
from igan_fast.files import FileMissing
from igan_fast.json_files import read_json
from igan_fast.paths import given_path
from igan_fast.reference import StepConfig
from igan_fast.train.balance import Balance
from igan_fast.train.config_values import ALSO_TAKEN, converted, wrong_type
from igan_fast.train.memory import check_memory

__all__ = ["PRESETS", "TrainConfig"]

_Value = TypeVar("_Value")

#: Beyond it the iterations would not be counted in 64 bits.
MAX_EPOCHS = 1_000_000_000
#: More than any machine that this is for has cores.
MOST_THREADS = 1024

#: What a preset decides. ``paper`` is what the paper prints, its losses taken as means; ``default`` is what was
#: measured to make recognition, rebuilds and edits all work.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "lr": 2e-4,
        "lambdas": (5.0, 2.0, 20.0),
        "label_weight_d": 40.0,
        "label_weight_g": 40.0,
        "signed_labels": True,
    },
    "paper": {
        "lr": 2e-5,
        "lambdas": (2.0, 0.5, 1.0),
        "label_weight_d": 1.0,
        "label_weight_g": 1.0,
        "signed_labels": False,
    },
}

#: What may differ when a run is resumed: none of it changes what an iteration is to compute, but for the digits that
#: another device, wing, precision or number of threads keeps. (``data`` may have moved. On other validation photos the
#: scores could not be compared with those of the best checkpoint so far.)
_MAY_CHANGE = {
    "data", "run", "resume", "epochs", "iterations", "device", "impl", "precision", "threads", "cache",
    "log_every", "sample_every", "checkpoint_every", "keep", "sample_attributes",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train the Iterative GAN on labelled faces."""

    # What to learn from.
    data: str = "drawn"
    """'drawn' (the built-in faces), or a folder with CelebA in any of its usual forms, or with pictures and an
    attribute file."""
    split: Literal["official", "paper"] = "official"
    """Which photos are held out: CelebA's own partition, or the paper's random 185,000 / 15,000 (Sec. 5.1)."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes to learn; all where empty."""
    strict: bool = False
    """Refuse a data set with broken photos or unmatched rows instead of skipping them."""
    drawn_count: int = 20_000
    """How many faces to draw, with --data drawn."""
    cache: Path | None = None
    """Folder of prepared pictures; $IGAN_FAST_CACHE or the user's cache folder where omitted."""

    # The model.
    image_size: int = 128
    """Side of the square pictures in pixels: a multiple of 16 from 32 up."""
    width: int = 64
    """Channels of the networks' largest maps; each halving of a map doubles them."""
    latent: int = 100
    """Size of the noise z."""

    # How long.
    batch_size: int = 64
    """Photos per iteration."""
    epochs: float | None = None
    """Passes over the training photos (50 where neither this nor --iterations is given)."""
    iterations: int | None = None
    """Iterations in all, also with --resume."""

    # What an iteration minimises. None means: as the preset has it.
    preset: Literal["default", "paper"] = "default"
    """'default': measured to make recognition, rebuilds and edits all work. 'paper': the numbers that the paper
    prints."""
    lr: float | None = None
    """Adam's learning rate."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates."""
    lambdas: tuple[float, float, float] | None = None
    """Weights of the perceptual, pixel and latent losses (Sec. 3.3)."""
    label_weight_d: float | None = None
    """Weight of the label loss for D and C."""
    label_weight_g: float | None = None
    """Weight of the label loss for G: what makes an edit show."""
    signed_labels: bool | None = None
    """Give G the labels as −1 and 1 instead of 0 and 1."""
    balance: bool = True
    """Give the lagging network extra updates (Sec. 4.1)."""
    balance_ratio: float = 3.0
    """How many times one adversarial loss must exceed the other for extra updates."""
    max_extra_updates: int = 2
    """At most so many extra updates an iteration."""
    ema_decay: float = 0.999
    """Decay of the running average of the weights, used for samples, validation and editing; 0 keeps none."""

    # How to compute.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """'auto' takes the GPU if there is one."""
    impl: Literal["auto", "reference"] = "auto"
    """'auto': the fused operators, the fastest that this machine has. 'reference': the paper in plain PyTorch, equal
    but slower."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the networks, tf32 on GPUs only; weights, statistics and losses are float32 in each."""
    threads: int | None = None
    """CPU threads; PyTorch's choice where omitted, and from the command line fewer beside busy programs."""
    seed: int = 0
    """Seed of the weights, the order of the photos, the flips and the noise; also of the drawn faces and of a random
    split, so that another seed is another data set there."""

    # The run folder.
    run: Path | None = None
    """Folder of the run: config, checkpoints, samples, logs. runs/DATA-SIZE where omitted."""
    resume: bool = False
    """Continue the run in --run exactly where its newest whole checkpoint stands; start it where there is none."""
    log_every: int = 10
    """Iterations between two lines of the log."""
    sample_every: int = 500
    """Iterations between two sample grids."""
    checkpoint_every: int = 500
    """Iterations between two checkpoints; each is scored on validation photos first."""
    keep: int = 3
    """How many of the newest checkpoints to keep, beside the best."""
    sample_attributes: tuple[str, ...] | None = None
    """The attributes reversed in the sample grids: Smiling, Male, Eyeglasses and Blond_Hair where omitted."""
    validation_images: int = 512
    """How many validation photos score a checkpoint."""

    def __post_init__(self) -> None:
        for name in ALSO_TAKEN:
            object.__setattr__(self, name, converted(name, getattr(self, name)))
        preset = PRESETS.get(self.preset, {}) if isinstance(self.preset, str) else {}
        for name, value in preset.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def validate(self) -> None:
        """Refuse what cannot work before anything starts.

        Raises:
            InputError: names the option, its value and what was expected.
        """
        for name, allowed in _CHOICES.items():
            _expect(self, name, getattr(self, name) in allowed, "one of " + ", ".join(allowed))
        for field in dataclasses.fields(self):
            if reason := _wrong_type(field.name, value := getattr(self, field.name)):
                raise InputError(f"{_option(field.name)}: found {reprlib.repr(value)}: {reason}")
        if self.data == "":  # an unset variable of a script, which as a path would mean the current folder
            raise InputError("--data: is empty; expected a folder, or 'drawn' for the built-in faces")
        _expect(self, "image_size", self.image_size >= 32 and self.image_size % 16 == 0, "a multiple of 16 from 32 up")
        counts = ("width", "latent", "log_every", "sample_every", "checkpoint_every", "keep", "validation_images")
        for name in counts:
            _expect(self, name, getattr(self, name) >= 1, "at least 1")
        _expect(self, "drawn_count", 1 <= self.drawn_count <= MAX_DRAWN, f"from 1 to {MAX_DRAWN:,}")
        _expect(self, "batch_size", self.batch_size >= 2, "at least 2: batch normalisation compares pictures")
        if self.epochs is not None and self.iterations is not None:
            raise InputError(f"--epochs {self.epochs} and --iterations {self.iterations} contradict: give one of them")
        _expect(
            self, "epochs", self.epochs is None or 0 < self.epochs <= MAX_EPOCHS, f"above 0, at most {MAX_EPOCHS:,}"
        )
        _expect(self, "iterations", self.iterations is None or self.iterations >= 1, "at least 1")
        with _named_as_options():
            self.step_config()
            self.balance_rule()
        _expect(self, "max_extra_updates", self.max_extra_updates <= 1000, "at most 1000")
        _expect(self, "ema_decay", 0 <= self.ema_decay < 1, "a number in [0, 1)")
        _expect(
            self, "threads", self.threads is None or 1 <= self.threads <= MOST_THREADS, f"from 1 to {MOST_THREADS:,}"
        )
        _expect(self, "seed", 0 <= self.seed < 2**63, "from 0 to 2⁶³ − 1")
        if self.data == "drawn" and self.split != "official":
            raise InputError(f"--split {self.split}: the built-in faces have one division only; leave it out")
        device = resolve_device(self.device)
        if self.precision == "tf32" and device.type != "cuda":
            raise InputError(f"--precision: found tf32, which {device.type} does not have; expected fp32 or bf16")
        if self.impl == "auto":
            operators_on(device)
        check_memory(self, device)
        if self.resume and self.run is None:
            raise InputError("--resume: say which run to continue with --run DIR")

    def step_config(self) -> StepConfig:
        """The part of it that decides one iteration."""
        return StepConfig(
            lr=_given(self.lr),
            betas=self.betas,
            lambdas=_given(self.lambdas),
            label_weight_d=_given(self.label_weight_d),
            label_weight_g=_given(self.label_weight_g),
            precision=self.precision,
        )

    def balance_rule(self) -> Balance:
        """The part of it that decides extra updates, at its beginning."""
        rule = Balance(self.balance_ratio, self.max_extra_updates)
        return rule if self.balance else Balance(max_extra=0)

    def to_json(self) -> dict[str, Any]:
        """As it is saved in config.json: plain JSON values, ``resume`` left out."""
        values = dataclasses.asdict(self)
        del values["resume"]
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str = "config.json", complete: bool = False) -> TrainConfig:
        """The inverse of ``to_json``.

        Args:
            values: options by name; the others have their defaults.
            where: the file that they are from, for messages.
            complete: refuse them where one is missing: ``to_json`` gives all.

        Raises:
            InputError: an unknown name, a value of another type, or a missing one (``complete``).
        """
        names = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            raise InputError(f"{where}: unknown option {unknown[0]!r}; it was written by another version of igan_fast")
        for name, found in values.items():
            try:
                reason = _wrong_type(name, converted(name, found))
            except InputError as error:  # no path
                raise InputError(f"{where}: {error}") from None
            if reason:
                raise InputError(f"{where}: {name} is {reprlib.repr(found)}: {reason}")
        if complete and (missing := sorted(names - {"resume"} - set(values))):
            raise InputError(f"{where}: damaged: {missing[0]} is missing")
        return cls(**values)

    @classmethod
    def load(cls, run: str | Path) -> TrainConfig:
        """The config saved in a run folder, with ``run`` as that folder, wherever it was when it was started.

        ``train(dataclasses.replace(TrainConfig.load(run), resume=True))`` continues it.

        Raises:
            InputError: it is missing, cannot be read, or is damaged.
        """
        run = given_path(run, "run")
        path = run / "config.json"
        try:
            values = read_json(path)
        except FileMissing:
            raise InputError(f"{path}: not found; {run} holds no training run") from None
        # Saved as it was given: none for a folder that was chosen by itself, and a run may have been moved.
        return dataclasses.replace(cls.from_json(values, where=str(path), complete=True), run=Path(run))

    def check_resumable(self, saved: TrainConfig) -> None:
        """Refuse to continue a run under options that would change what it computes.

        Raises:
            InputError: names the first option that differs from the ``saved`` config.
        """
        for f in dataclasses.fields(self):
            mine, theirs = getattr(self, f.name), getattr(saved, f.name)
            if f.name not in _MAY_CHANGE and mine != theirs:
                raise InputError(f"{_option(f.name)} is {mine}, but this run was started with {theirs}")


_CHOICES = {
    "split": ("official", "paper"),
    "preset": tuple(PRESETS),
    "device": ("auto", "cpu", "cuda"),
    "impl": ("auto", "reference"),
    "precision": ("fp32", "tf32", "bf16"),
}


def _given(value: _Value | None) -> _Value:
    """A value that was given or that the preset has filled in, as it has for every preset there is."""
    assert value is not None, "validate() refuses unknown presets"
    return value


@functools.cache
def _types() -> dict[str, Any]:
    return get_type_hints(TrainConfig)


def _wrong_type(name: str, value: object) -> str:
    return wrong_type(value, _types()[name])


@contextmanager
def _named_as_options() -> Iterator[None]:
    """A ``ValueError`` that begins with the name of an argument becomes an ``InputError`` that names the option."""
    try:
        yield
    except ValueError as error:
        name, colon, found = str(error).partition(":")
        raise InputError(f"{_option(name)}{colon}{found}") from None


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _expect(config: TrainConfig, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(f"{_option(name)}: found {getattr(config, name)}, expected {expected}")
