"""The settings of a training run of the Iterative GAN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from igan_fast.checkpoint.additions import options_missing, with_older_values
from igan_fast.distributed.plan import BatchPlan
from igan_fast.distributed.process import Process, this_process
from igan_fast.errors import InputError
from igan_fast.reference import StepConfig
from igan_fast.train.balance import Balance
from igan_fast.train.config_checks import expect, named_as_options
from igan_fast.train.memory import check_memory
from igan_fast.train.run_config import FILLED_IN, RunConfig

if TYPE_CHECKING:
    import torch

    from igan_fast.train.iterative_gan import IterativeGANMethod

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
        "edited_share": 0.75,
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

#: Options that older versions did not have; their runs had the defaults.
ADDED = ("norm_groups", "accumulate", "exact", "process_timeout")

#: The longest timeout that fits PyTorch's numbers: some 30 years.
MOST_SECONDS = 10**9


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Train the Iterative GAN on labelled faces."""

    COMMAND: ClassVar[str] = "train"
    MAY_CHANGE: ClassVar[frozenset[str]] = RunConfig.MAY_CHANGE | {"accumulate", "exact", "process_timeout"}
    NETWORK_OPTIONS: ClassVar[Mapping[str, Any]] = {
        **RunConfig.NETWORK_OPTIONS,
        "latent": 100,
        "signed_labels": None,
        "film": None,
    }

    # The model, and its batches.
    latent: int = FILLED_IN
    """Size of the noise z. By default that of --init, otherwise 100."""
    batch_size: int = 64
    """Photos per iteration, of all processes together."""
    norm_groups: int = 1
    """Into how many parts batch normalisation splits each batch: a multiple of the number of processes, or a divisor of
    it. It belongs to the run, the number of processes does not."""
    accumulate: int = 1
    """Compute the norm groups of a process in so many portions, one after the other: a larger batch fits into the
    memory."""
    exact: bool = False
    """Sum in an order that does not depend on the number of processes, so that the run has the same bits with any; on
    CPUs, with the same number of threads each. Slower."""
    process_timeout: float = 600.0
    """Seconds after which a process that does not answer counts as lost, where torchrun has started several."""

    # What an iteration minimises. None means: as the preset has it (signed_labels and film: as the networks of init).
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
    """Weight of the gradient penalty on photos (R1); 0 for none. With it rebuilds are less blurred, and generated faces
    have more grain."""
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
    validation_images: int = 512
    """How many validation photos score a checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        preset = PRESETS.get(self.preset, {}) if isinstance(self.preset, str) else {}
        for name, value in preset.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def method_class(self) -> type[IterativeGANMethod]:
        from igan_fast.train.iterative_gan import IterativeGANMethod

        return IterativeGANMethod

    @property
    def photos_per_iteration(self) -> int:
        return self.batch_size

    def check_own(self, device: torch.device) -> None:
        for name in ("latent", "validation_images"):
            expect(self, name, getattr(self, name) >= 1, "at least 1")
        expect(self, "batch_size", self.batch_size >= 2, "at least 2: batch normalisation compares images")
        expect(self, "process_timeout", 0 < self.process_timeout <= MOST_SECONDS, f"above 0, at most {MOST_SECONDS:,}")
        if not self.batch_plan(this_process()).is_whole and self.impl == "reference":
            raise InputError(
                "--impl: found reference, which computes the whole batch at once in one process; expected auto with "
                "several processes, with --accumulate, with --exact, or with norm groups of different sizes"
            )
        with named_as_options():
            self.step_config()
            self.balance_rule()
        expect(self, "max_extra_updates", self.max_extra_updates <= 1000, "at most 1000")
        expect(self, "ema_decay", 0 <= self.ema_decay < 1, "a number in [0, 1)")
        check_memory(self, device)

    @classmethod
    def with_older_values(cls, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: cls.__dataclass_fields__[name].default for name in ADDED} | with_older_values(
            super().with_older_values(saved)
        )

    @classmethod
    def added_since(cls, saved: Mapping[str, Any]) -> list[str]:
        return options_missing(saved)

    def batch_plan(self, process: Process) -> BatchPlan:
        """Which part of each batch a process computes.

        Raises:
            InputError: batch size, norm groups, processes and portions do not fit.
        """
        return BatchPlan(self.batch_size, self.norm_groups, process, self.accumulate, self.exact)

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
            norm_groups=self.norm_groups,
        )

    def balance_rule(self) -> Balance:
        """The rule of the extra updates, in its initial state."""
        rule = Balance(self.balance_ratio, self.max_extra_updates)
        return rule if self.balance else Balance(max_extra=0)


def _given(value: _Value | None) -> _Value:
    """Return a value that was given, or that the preset has filled in."""
    assert value is not None, "validate() refuses unknown presets"
    return value
