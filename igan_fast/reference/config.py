"""The settings of a training step: the weights of the losses, the optimisers' settings and the precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

__all__ = ["StepConfig"]


@dataclass(frozen=True)
class StepConfig:
    """Weights of the losses, settings of Adam, and the precision of one iteration.

    The default weights are the paper's; the settings of Adam are DCGAN's. The fields from ``edited_share`` on go beyond
    the paper and are off by default: see ``igan_fast.reference.beyond``. ``igan-fast train`` uses other weights and
    these additions, with which changed attributes are visible in the images: ``TrainConfig().step_config()`` returns
    them.

    Raises:
        ValueError: names the field that is out of its range, what was found and what was expected.
    """

    lr: float = 2e-4
    """Adam's learning rate, of both optimisers."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates (DCGAN's)."""
    lambdas: tuple[float, float, float] = (2.0, 0.5, 1.0)
    """λ₁ perceptual, λ₂ pixel, λ₃ latent (Sec. 3.3)."""
    label_weight_d: float = 1.0
    """Weight of the label loss for D and C, on photos and on generated images."""
    label_weight_g: float = 1.0
    """Weight of the label loss for G. The larger it is, the more visible a changed attribute is in the image."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of the networks. tf32 needs a GPU, and switches PyTorch's TF32 mode on during the step. fp32 switches
    it off during the step, whatever PyTorch's flags are. bf16 is autocast: weights, statistics and losses stay
    float32."""
    edited_share: float = 0.0
    """Share of the generated batch that are edited rebuilds of the previous iteration's photos, in [0, 1]."""
    label_weight_fake: float | None = None
    """Weight of the label loss for D and C on generated images. None: ``label_weight_d``."""
    flip_weight: float = 1.0
    """Weight of the flipped attributes of edited rebuilds in G's label loss; that of the others is 1."""
    r1: float = 0.0
    """γ of the gradient penalty on photos (R1)."""
    r1_every: int = 16
    """Iterations from one gradient penalty to the next."""
    latent_lr_scale: float = 0.0
    """Learning rate with which C's layer of z̃ learns from the rebuild, as a multiple of ``lr``. 0: it does not."""
    norm_groups: int = 1
    """Number of contiguous parts of each batch that batch normalisation normalises apart, in every network."""

    @property
    def goes_beyond(self) -> bool:
        """Whether one of the additions to the paper's iteration is on."""
        fakes_as_photos = self.label_weight_fake in (None, self.label_weight_d)
        return not fakes_as_photos or bool(self.edited_share or self.r1 or self.latent_lr_scale)

    @property
    def fake_label_weight(self) -> float:
        """The weight of the label loss for D and C on generated images."""
        return self.label_weight_d if self.label_weight_fake is None else self.label_weight_fake

    def __post_init__(self) -> None:
        for name, count in (("betas", 2), ("lambdas", 3)):
            value = getattr(self, name)
            self._expect(name, isinstance(value, tuple | list) and len(value) == count, f"{count} numbers")
            object.__setattr__(self, name, tuple(value))
        self._expect("lr", _is_number(self.lr) and self.lr > 0, "a number above 0")
        self._expect("betas", all(_is_number(beta) and beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        self._expect("lambdas", all(map(_is_number, self.lambdas)), "numbers that are not negative, and finite")
        for name in ("label_weight_d", "label_weight_g", "label_weight_fake", "flip_weight", "r1", "latent_lr_scale"):
            value = getattr(self, name)
            optional = name == "label_weight_fake" and value is None
            self._expect(name, optional or _is_number(value), "a number that is not negative, and finite")
        self._expect("edited_share", _is_number(self.edited_share) and self.edited_share <= 1, "a number in [0, 1]")
        for name in ("r1_every", "norm_groups"):
            self._expect(name, _is_count(getattr(self, name)), "a whole number from 1 up")
        self._expect("precision", self.precision in ("fp32", "tf32", "bf16"), "one of fp32, tf32, bf16")

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name}: found {getattr(self, name)}, expected {expected}")


def _is_count(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < math.inf
