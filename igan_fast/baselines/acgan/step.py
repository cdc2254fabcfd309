"""The training iteration of AC-GAN."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from igan_fast.baselines.acgan.networks import ACGAN
from igan_fast.baselines.adversarial import AdversarialStep

__all__ = ["ACGANStep"]


class ACGANStep(AdversarialStep):
    """One training iteration of ``ACGAN``: D, then G, by source and labels.

    D and G both minimise the cross-entropy of the labels beside the adversarial loss: D that of photos and of generated
    images, G that of generated images. In the paper (Sec. 3) D maximises L_S + L_C and G maximises L_C − L_S, where L_C
    is the logarithm of the probability of the right class. Of A attributes, taken as independent given the image, it is
    the sum of A logarithms. ``label_loss`` is their mean, so its weight is A.

    The learning rate of 2e-4 is the middle one of the three that the paper tries. The batch size is the paper's
    (Appendix A). The paper does not say in which order the networks are trained; here it is that of ``DCGANStep``.

    Args:
        networks, iterations, losses: as of ``AdversarialStep``.
    """

    BATCH_SIZE: ClassVar[int] = 100
    SHOWN: ClassVar[tuple[str, ...]] = ("d_adversarial", "d_label_real", "g_adversarial", "g_label")

    networks: ACGAN

    def discriminator_losses(
        self, images: Tensor, generated: Tensor, labels: Tensor, random: torch.Generator
    ) -> dict[str, Tensor]:
        """The losses of D: ``d_adversarial``, ``d_label_real``, ``d_label_fake``, before they are weighted."""
        real = self.networks.discriminator(images, random)
        fake = self.networks.discriminator(generated, random)
        adversarial_loss = self.losses.adversarial_loss
        return {
            "d_adversarial": adversarial_loss(real.source, real=True) + adversarial_loss(fake.source, real=False),
            "d_label_real": self.losses.label_loss(real.label_logits, labels),
            "d_label_fake": self.losses.label_loss(fake.label_logits, labels),
        }

    def generator_losses(self, generated: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """The losses of G: ``g_adversarial`` and ``g_label``, before they are weighted."""
        fake = self.networks.discriminator(generated, random)
        return {
            "g_adversarial": self.losses.adversarial_loss(fake.source, real=True),
            "g_label": self.losses.label_loss(fake.label_logits, labels),
        }

    def weight(self, name: str) -> float:
        """1 for an adversarial loss, A for a loss of the labels."""
        return float(self.networks.attributes) if "label" in name else 1.0
