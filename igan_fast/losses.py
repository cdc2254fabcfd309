"""The losses on the fused operators: the twins of ``igan_fast.reference.losses``, and documented there.

The L1 distances over images and activations are where the time goes; the others are means over a few thousand numbers,
and are the reference's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.reference import losses as reference
from igan_fast.reference.losses import IntegratedTerms, adversarial_loss, integrated_loss, label_loss, latent_loss

__all__ = [
    "FeatureMatchingLoss",
    "IntegratedLoss",
    "IntegratedTerms",
    "PerceptualL1Loss",
    "adversarial_loss",
    "integrated_loss",
    "label_loss",
    "latent_loss",
    "perceptual_loss",
    "pixel_loss",
]


def perceptual_loss(fake: Sequence[Tensor], real: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Σᵢ αᵢ · mean|hⁱ(fake) − hⁱ(real)| over D's activations (Sec. 3.3.2). ``real`` is a target: no gradient.

    Args:
        fake, real: h¹..h⁴ as D returns them.
        weights: αᵢ, 1 each where omitted.
    """
    return ops.feature_l1(fake, [feature.detach() for feature in real], weights)


def pixel_loss(fake: Tensor, real: Tensor) -> Tensor:
    """mean|real − fake| of two batches of images (Sec. 3.3.1)."""
    if backend.switched_off():
        return reference.pixel_loss(fake, real)
    return ops.feature_l1([fake], [real])


class FeatureMatchingLoss(reference.FeatureMatchingLoss):
    """``reference.losses.FeatureMatchingLoss``, fused: one launch, however the feature maps are nested."""

    operators: ClassVar[Any] = ops


class PerceptualL1Loss(reference.PerceptualL1Loss):
    """``reference.losses.PerceptualL1Loss``, its distances fused."""

    operators: ClassVar[Any] = ops


class IntegratedLoss(reference.IntegratedLoss):
    """``reference.losses.IntegratedLoss``, fused: its terms are all L1 distances, which are found in one launch."""

    operators: ClassVar[Any] = ops
