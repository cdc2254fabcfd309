"""The settings of a training run in one dataclass, for the command line, for Python and for a run's config.json."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from igan_fast.checkpoint.additions import with_older_values
from igan_fast.errors import InputError, option
from igan_fast.files import FileMissing
from igan_fast.json_files import read_json
from igan_fast.paths import given_path
from igan_fast.reference import StepConfig
from igan_fast.train.balance import Balance
from igan_fast.train.config_checks import check_config
from igan_fast.train.config_values import ALSO_TAKEN, converted, option_types, wrong_type

__all__ = ["PRESETS", "TrainConfig"]

_Value = TypeVar("_Value")

#: The options that a preset sets. ``paper`` has the numbers that the paper prints, for losses that are means, and no
#: additions. With ``default``, recognition, rebuilds and edits all work, according to our measurements.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "lr": 2e-4,
        "lambdas": (10.0, 4.0, 20.0),
        "label_weight_d": 40.0,
        "label_weight_g": 40.0,
        "signed_labels": True,
        "film": True,
        "edited_share": 0.5,
        "label_weight_fake": 0.0,
        "flip_weight": 4.0,
        "r1": 0.1,
        "latent_lr_scale": 3.0,
    },
    "paper": {
        "lr": 2e-5,
        "lambdas": (2.0, 0.5, 1.0),
        "label_weight_d": 1.0,
        "label_weight_g": 1.0,
        "signed_labels": False,
        "film": False,
        "edited_share": 0.0,
        "flip_weight": 1.0,
        "r1": 0.0,
        "latent_lr_scale": 0.0,
    },
}

#: The options that may differ when a run is resumed. None of them changes what an iteration computes, except for the
#: rounding of another device, implementation, precision or number of threads. ``data`` may have moved.
#: ``validation_images`` is not among them, because new scores are compared with that of the best checkpoint so far.
_MAY_CHANGE = {
    "data", "run", "resume", "epochs", "iterations", "device", "impl", "precision", "threads", "cache",
    "log_every", "sample_every", "checkpoint_every", "keep", "sample_attributes",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train the Iterative GAN on labelled faces."""

    # What to learn from.
    data: str = "drawn"
    """'drawn' (the built-in faces), or a folder with CelebA in any of its usual forms, or with photos and an
    attribute file."""
    split: Literal["official", "paper"] = "official"
    """Which photos are held out: CelebA's own partition, or the paper's random 185,000 / 15,000 (Sec. 5.1)."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes to learn. By default all."""
    strict: bool = False
    """Refuse a dataset with broken photos or unmatched rows instead of skipping them."""
    drawn_count: int = 20_000
    """How many faces to draw, with --data drawn."""
    cache: Path | None = None
    """Folder of the prepared images. By default $IGAN_FAST_CACHE, or the user's cache folder."""

    # The model.
    image_size: int = 128
    """Side of the square images in pixels: a multiple of 16 from 32 up."""
    width: int = 64
    """Channels of the networks' largest feature maps; each halving of the side doubles them."""
    latent: int = 100
    """Size of the noise z."""

    # How long.
    batch_size: int = 64
    """Photos per iteration."""
    epochs: float | None = None
    """Passes over the training photos. 50 if neither --epochs nor --iterations is given."""
    iterations: int | None = None
    """Iterations in total, with --resume those before included."""

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
    """Weight of the label loss for D and C on photos."""
    label_weight_fake: float | None = None
    """Weight of the label loss for D and C on generated images; with --preset paper by default --label-weight-d.
    With 0, C learns attributes from photos only."""
    label_weight_g: float | None = None
    """Weight of the label loss for G, which makes edits show."""
    signed_labels: bool | None = None
    """Give G the labels as −1 and 1 instead of 0 and 1."""
    film: bool | None = None
    """Let the labels also scale and shift G's feature maps (FiLM)."""
    edited_share: float | None = None
    """Share of the generated batch that are edited rebuilds of photos: G is trained on what edits use. Half of them
    get flipped attributes, the others the labels of other photos."""
    flip_weight: float | None = None
    """Weight of the flipped attributes of edited rebuilds in G's label loss; that of the others is 1."""
    r1: float | None = None
    """Weight of the gradient penalty on photos (R1), which keeps grain out of the images; 0 for none."""
    r1_every: int = 16
    """Iterations from one gradient penalty to the next."""
    latent_lr_scale: float | None = None
    """Learning rate with which the latent code learns from the rebuild, as a multiple of --lr; 0: it does not."""
    balance: bool = True
    """Give the lagging network extra updates (Sec. 4.1)."""
    balance_ratio: float = 3.0
    """How many times one adversarial loss must exceed the other for extra updates."""
    max_extra_updates: int = 2
    """Largest number of extra updates per iteration."""
    ema_decay: float = 0.999
    """Decay of the running average of the weights, used for samples, validation and editing; 0 keeps none."""

    # How to compute.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """'auto' takes the GPU if there is one."""
    impl: Literal["auto", "reference"] = "auto"
    """'auto': the fused operators, the fastest that this machine has. 'reference': the paper in plain PyTorch, equal
    up to rounding, but slower."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of the networks. Weights, statistics and losses are always float32. tf32 needs a GPU."""
    threads: int | None = None
    """CPU threads. By default PyTorch chooses; the command line takes fewer while other programs are busy."""
    seed: int = 0
    """Seed of the weights, the order of the photos, their mirroring, the noise and the flipped attributes; also of the
    drawn faces and of a random split, so another seed gives another dataset there."""

    # The run folder.
    run: Path | None = None
    """Folder of the run: config, checkpoints, samples, logs. By default runs/DATA-SIZE."""
    resume: bool = False
    """Continue the run in --run exactly from its newest undamaged checkpoint. Start the run if there is none."""
    log_every: int = 10
    """Iterations between two lines of the log."""
    sample_every: int = 500
    """Iterations between two sample grids."""
    checkpoint_every: int = 500
    """Iterations between two checkpoints; each is scored on validation photos first."""
    keep: int = 3
    """How many of the newest checkpoints to keep, beside the best."""
    sample_attributes: tuple[str, ...] | None = None
    """The attributes reversed in the sample grids. By default Smiling, Male, Eyeglasses and Blond_Hair."""
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
        """Check the options before anything starts.

        Raises:
            InputError: names the option, its value and what was expected.
        """
        check_config(self)

    def step_config(self) -> StepConfig:
        """The options of one iteration."""
        return StepConfig(
            lr=_given(self.lr),
            betas=self.betas,
            lambdas=_given(self.lambdas),
            label_weight_d=_given(self.label_weight_d),
            label_weight_g=_given(self.label_weight_g),
            precision=self.precision,
            edited_share=_given(self.edited_share),
            label_weight_fake=self.label_weight_fake,
            flip_weight=_given(self.flip_weight),
            r1=_given(self.r1),
            r1_every=self.r1_every,
            latent_lr_scale=_given(self.latent_lr_scale),
        )

    def balance_rule(self) -> Balance:
        """The rule of the extra updates, in its initial state."""
        rule = Balance(self.balance_ratio, self.max_extra_updates)
        return rule if self.balance else Balance(max_extra=0)

    def to_json(self) -> dict[str, Any]:
        """Return the options as config.json holds them: plain JSON values, without ``resume``."""
        values = dataclasses.asdict(self)
        del values["resume"]
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str = "config.json", complete: bool = False) -> TrainConfig:
        """The inverse of ``to_json``.

        Args:
            values: options by name. The other options get their defaults; with ``complete``, those that older versions
                did not have get the value that their runs had.
            where: the file that the values come from, for messages.
            complete: raise an error if an option is missing that every version saves.

        Raises:
            InputError: a name is unknown, a value has the wrong type, or an option is missing (``complete``).
        """
        names = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            raise InputError(f"{where}: unknown option {unknown[0]!r}; it was written by another version of igan_fast")
        if complete:
            values = with_older_values(values)
        types = option_types(cls)
        for name, found in values.items():
            try:
                reason = wrong_type(converted(name, found), types[name])
            except InputError as error:  # from given_path
                raise InputError(f"{where}: {error}") from None
            if reason:
                raise InputError(f"{where}: {name} is {reprlib.repr(found)}: {reason}")
        if complete and (missing := sorted(names - {"resume"} - set(values))):
            raise InputError(f"{where}: damaged: {missing[0]} is missing")
        return cls(**values)

    @classmethod
    def load(cls, run: str | Path) -> TrainConfig:
        """Load the config saved in a run folder. Its ``run`` is that folder, even if the run has been moved.

        ``train(dataclasses.replace(TrainConfig.load(run), resume=True))`` continues it.

        Raises:
            InputError: the config is missing, cannot be read, or is damaged.
        """
        run = given_path(run, "run")
        path = run / "config.json"
        try:
            values = read_json(path)
        except FileMissing:
            raise InputError(f"{path}: not found; {run} holds no training run") from None
        # The saved `run` is the value that was given, perhaps None, and the folder may have been moved since.
        return dataclasses.replace(cls.from_json(values, where=str(path), complete=True), run=Path(run))

    def check_resumable(self, saved: TrainConfig) -> None:
        """Check that no option changes what a resumed run computes.

        Raises:
            InputError: names the first option that differs from the ``saved`` config.
        """
        for f in dataclasses.fields(self):
            mine, theirs = getattr(self, f.name), getattr(saved, f.name)
            if f.name not in _MAY_CHANGE and mine != theirs:
                raise InputError(f"{option(f.name)} is {mine}, but this run was started with {theirs}")


def _given(value: _Value | None) -> _Value:
    """Return a value that was given, or that the preset has filled in."""
    assert value is not None, "validate() refuses unknown presets"
    return value
