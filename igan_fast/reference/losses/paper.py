"""The paper's losses. Each L1 distance is a mean over elements: tensor sizes do not change the balance of the terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.reference import ops
from igan_fast.reference.losses.labels import check_labels
from igan_fast.reference.losses.weights import finite, per_entry
from igan_fast.reference.ops import Features, pairs_of, widen
from igan_fast.reference.recorded import Unscriptable

__all__ = [
    "IntegratedLoss",
    "IntegratedTerms",
    "adversarial_loss",
    "integrated_loss",
    "label_loss",
    "latent_loss",
    "perceptual_loss",
    "pixel_loss",
]


def adversarial_loss(source_logits: Tensor, *, real: bool) -> Tensor:
    """Binary cross-entropy of D's source logits, the mean over the batch (Sec. 3.2.1).

    D minimises it for photos with ``real=True`` and for generated images with ``real=False``. G minimises it for
    generated images with ``real=True`` (the non-saturating form).

    Args:
        source_logits: logits of "real", any shape, usually (N,).
        real: the target.
    """
    logits = widen(source_logits)
    target = torch.ones_like(logits) if real else torch.zeros_like(logits)
    return F.binary_cross_entropy_with_logits(logits, target)


def label_loss(label_logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the attributes, the mean over batch and attributes (Sec. 3.2.2).

    Args:
        label_logits: C's logits (N, A).
        labels: (N, A) in [0, 1].

    Raises:
        ValueError: a label is not in [0, 1]. Only labels on the CPU are checked.
    """
    if labels.device.type == "cpu":
        check_labels(labels)
    logits = widen(label_logits)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def perceptual_loss(fake: Sequence[Tensor], real: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Σᵢ αᵢ · mean|hⁱ(fake) − hⁱ(real)| over D's feature maps (Sec. 3.3.2). ``real`` is detached.

    Args:
        fake, real: h¹..h⁴ as D returns them.
        weights: αᵢ, one per feature map; 1 each where omitted.
    """
    return ops.feature_l1(fake, [feature.detach() for feature in real], weights)


def pixel_loss(fake: Tensor, real: Tensor) -> Tensor:
    """mean|real − fake| of two batches of images of one shape (Sec. 3.3.1)."""
    return F.l1_loss(widen(fake), widen(real))


def latent_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """mean|z̃(G(z, c)) − z|: C has to recover the noise from which an image was generated (Sec. 3.3.3)."""
    return F.l1_loss(widen(predicted), widen(noise))


def integrated_loss(perceptual: Tensor, pixel: Tensor, latent: Tensor, lambdas: tuple[float, float, float]) -> Tensor:
    """λ₁ perceptual + λ₂ pixel + λ₃ latent (Sec. 3.3; the paper's λ are 2.0, 0.5, 1.0)."""
    return lambdas[0] * perceptual + lambdas[1] * pixel + lambdas[2] * latent


class IntegratedTerms(NamedTuple):
    """The terms of ``IntegratedLoss``, unweighted: differentiable scalars."""

    perceptual: Tensor
    pixel: Tensor
    latent: Tensor


class IntegratedLoss(Unscriptable):
    """λ₁ perceptual + λ₂ pixel + λ₃ latent as a module: the distance of an image and its rebuild (Sec. 3.3).

    Args:
        lambdas: λ₁, λ₂, λ₃; the paper's where omitted.
        layer_weights: αᵢ of the perceptual term, one per feature map; 1 each where omitted.

    Raises:
        ValueError: ``lambdas`` are not three finite numbers, or ``layer_weights`` are not finite.
        TypeError: a weight is not a number.

    ``terms`` returns the unweighted terms, for a log; ``integrated_loss(*terms, loss.lambdas)`` is their weighted sum.
    """

    #: The module whose operators it calls. The fused loss replaces it by ``igan_fast.ops``.
    operators: ClassVar[Any] = ops

    def __init__(
        self,
        lambdas: tuple[float, float, float] = (2.0, 0.5, 1.0),
        layer_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        first, second, third = per_entry("lambdas", lambdas, 3, "terms")
        self.lambdas = (first, second, third)
        self.layer_weights = None if layer_weights is None else finite("layer_weights", layer_weights)

    def forward(
        self,
        fake_features: Features,
        real_features: Features,
        fake_images: Tensor,
        real_images: Tensor,
        predicted_noise: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """The weighted sum of the terms.

        Args:
            fake_features, real_features: h¹..h⁴ of the rebuilt and of the real images, or any two sequences of feature
                maps of the same structure and shapes. The real ones are detached.
            fake_images, real_images: the rebuilt and the real images, of one shape.
            predicted_noise, noise: z̃(G(z, c)) and z, of one shape.

        Returns:
            A scalar, float64 where an input is float64, else float32.

        Raises:
            ValueError: shapes or structures do not match, or the number of ``layer_weights`` is not the number of
                feature maps.
            TypeError: an argument is neither a tensor nor a sequence.
        """
        fakes, reals, weights = self._features(fake_features, real_features)
        image, real_image = _pair("fake_images", fake_images, real_images)
        code, real_code = _pair("predicted_noise", predicted_noise, noise)
        perceptual, pixel, latent = self.lambdas
        loss: Tensor = self.operators.feature_l1(
            [*fakes, image, code],
            [*reals, real_image, real_code],
            [*(perceptual * weight for weight in weights), pixel, latent],
        )
        return loss

    def terms(
        self,
        fake_features: Features,
        real_features: Features,
        fake_images: Tensor,
        real_images: Tensor,
        predicted_noise: Tensor,
        noise: Tensor,
    ) -> IntegratedTerms:
        """The three terms, unweighted. The arguments are those of ``forward``."""
        features = self._features(fake_features, real_features)
        images = _pair("fake_images", fake_images, real_images)
        codes = _pair("predicted_noise", predicted_noise, noise)
        return IntegratedTerms(
            self.operators.feature_l1(*features),
            self.operators.feature_l1(*images),
            latent_loss(*codes),
        )

    def _features(self, fake: Features, real: Features) -> tuple[list[Tensor], list[Tensor], list[float]]:
        """The fake feature maps, the real ones (detached), and their weights αᵢ."""
        pairs = list(pairs_of(fake, real, "fake_features"))
        if not pairs:
            raise ValueError("fake_features is empty; expected at least one feature map")
        weights = [1.0] * len(pairs)
        if self.layer_weights is not None:
            weights = per_entry("layer_weights", self.layer_weights, len(pairs), "feature maps")
        return [f for f, _ in pairs], [r.detach() for _, r in pairs], weights

    def extra_repr(self) -> str:
        return f"lambdas={self.lambdas}, layer_weights={self.layer_weights}"


def _pair(name: str, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    for argument, value in ((name, fake), (f"{name}'s real counterpart", real)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{argument} is a {type(value).__name__}; expected a tensor")
    (pair,) = pairs_of(fake, real, name)
    return pair
