"""The training iteration of the conditional GAN."""

from __future__ import annotations

from typing import ClassVar

from igan_fast.baselines.adversarial import AdversarialStep

__all__ = ["CGANStep"]


class CGANStep(AdversarialStep):
    """One training iteration of ``CGAN``: D, then G, by the source of image and labels.

    The settings are those of ``DCGANStep``. The conditional DCGAN that ``CGAN`` follows adds a weight decay of 2.5e-5,
    which is left out as in ``DCGANStep``. The paper trains its perceptrons otherwise: by gradient descent with
    momentum, in batches of 100, with dropout.

    Args:
        networks, iterations, losses: as of ``AdversarialStep``.
    """

    BATCH_SIZE: ClassVar[int] = 128
