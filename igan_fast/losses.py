"""The paper's losses on the fused operators: the twins of ``igan_fast.reference.losses``.

The L1 distances over images and activations are where the time goes; the others are means over a few thousand numbers,
and are the reference's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from igan_fast import ops
from igan_fast.reference.losses import adversarial_loss, integrated_loss, label_loss, latent_loss

__all__ = ["adversarial_loss", "integrated_loss", "label_loss", "latent_loss", "perceptual_loss", "pixel_loss"]


def perceptual_loss(fake: Sequence[Tensor], real: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Σᵢ αᵢ · mean|hⁱ(fake) − hⁱ(real)| over D's activations (Sec. 3.3.2). ``real`` is a target: no gradient.

    Args:
        fake, real: h¹..h⁴ as D returns them.
        weights: αᵢ, 1 each where omitted.
    """
    return ops.feature_l1(fake, [feature.detach() for feature in real], weights)


def pixel_loss(fake: Tensor, real: Tensor) -> Tensor:
    """mean|real − fake| of two batches of images (Sec. 3.3.1)."""
    return ops.feature_l1([fake], [real])
