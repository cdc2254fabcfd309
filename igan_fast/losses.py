"""The losses on the fused operators. They equal those of ``igan_fast.reference.losses`` and are documented there.

The L1 distances of images and of feature maps take nearly all of the time, and are fused. The other losses are means of
a few thousand numbers. They are the functions of the reference.
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
    """Σᵢ αᵢ · mean|hⁱ(fake) − hⁱ(real)| over D's feature maps (Sec. 3.3.2). ``real`` is detached.

    Args:
        fake, real: h¹..h⁴ as D returns them.
        weights: αᵢ, one per feature map; 1 each where omitted.
    """
    return ops.feature_l1(fake, [feature.detach() for feature in real], weights)


def pixel_loss(fake: Tensor, real: Tensor) -> Tensor:
    """mean|real − fake| of two batches of images of one shape (Sec. 3.3.1)."""
    if backend.switched_off():
        return reference.pixel_loss(fake, real)
    return ops.feature_l1([fake], [real])


class FeatureMatchingLoss(reference.FeatureMatchingLoss):
    """``reference.losses.FeatureMatchingLoss`` on the fused operators: one call for all feature maps, nested or not."""

    operators: ClassVar[Any] = ops


class PerceptualL1Loss(reference.PerceptualL1Loss):
    """``reference.losses.PerceptualL1Loss``, with its distances on the fused operators."""

    operators: ClassVar[Any] = ops


class IntegratedLoss(reference.IntegratedLoss):
    """``reference.losses.IntegratedLoss`` on the fused operators: one call computes its three L1 distances."""

    operators: ClassVar[Any] = ops
