"""The paper's losses. Every norm is a mean of absolute values, so that sizes do not change the balance of the terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.reference import ops
from igan_fast.reference.ops import widen

__all__ = ["adversarial_loss", "integrated_loss", "label_loss", "latent_loss", "perceptual_loss", "pixel_loss"]


def adversarial_loss(source_logits: Tensor, *, real: bool) -> Tensor:
    """−log p(source is ``real``), the mean over the batch (Sec. 3.2.1).

    G's loss is that of *its* pictures with ``real=True`` (the non-saturating form).

    Args:
        source_logits: D's source logits, any shape, usually (N,).
    """
    logits = widen(source_logits)
    target = torch.ones_like(logits) if real else torch.zeros_like(logits)
    return F.binary_cross_entropy_with_logits(logits, target)


def label_loss(label_logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the attributes, the mean over batch and attributes (Sec. 3.2.2).

    Args:
        label_logits: C's logits (N, A).
        labels: (N, A) in [0, 1].
    """
    logits = widen(label_logits)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def perceptual_loss(fake: Sequence[Tensor], real: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Σᵢ αᵢ · mean|hⁱ(fake) − hⁱ(real)| over D's activations (Sec. 3.3.2). ``real`` is a target: no gradient.

    Args:
        fake, real: h¹..h⁴ as D returns them.
        weights: αᵢ, 1 each where omitted.
    """
    return ops.feature_l1(fake, [feature.detach() for feature in real], weights)


def pixel_loss(fake: Tensor, real: Tensor) -> Tensor:
    """mean|real − fake| of two batches of images (Sec. 3.3.1)."""
    return F.l1_loss(widen(fake), widen(real))


def latent_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """mean|z̃(G(z, c)) − z|: C finds again the noise an image was made from (Sec. 3.3.3)."""
    return F.l1_loss(widen(predicted), widen(noise))


def integrated_loss(perceptual: Tensor, pixel: Tensor, latent: Tensor, lambdas: tuple[float, float, float]) -> Tensor:
    """λ₁ perceptual + λ₂ pixel + λ₃ latent (Sec. 3.3; the paper's λ are 2.0, 0.5, 1.0)."""
    return lambdas[0] * perceptual + lambdas[1] * pixel + lambdas[2] * latent
