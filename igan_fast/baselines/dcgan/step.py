"""The training iteration of DCGAN."""

from __future__ import annotations

from typing import ClassVar

from igan_fast.baselines.adversarial import AdversarialStep

__all__ = ["DCGANStep"]


class DCGANStep(AdversarialStep):
    """One training iteration of ``DCGAN``: D, then G, by the source alone. The labels are not used.

    Adam's settings and the batch size are the paper's (Sec. 4). The paper does not say in which order the networks are
    trained. We follow dcgan.torch (see ``DCGAN``), but for one shortcut: there, G learns from the logits that D gave
    before its own update. The authors' other program, dcgan_code, trains G and D in turn, each on a batch of its own,
    with a weight decay of 1e-5, which the paper does not mention.

    Args:
        networks, iterations, losses: as of ``AdversarialStep``.
    """

    BATCH_SIZE: ClassVar[int] = 128
