"""The training iteration that DCGAN, CGAN and AC-GAN have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from igan_fast import losses as fused_losses
from igan_fast.baselines.convolutional import NoiseNetworks
from igan_fast.baselines.interface import BaselineStep, LabelledImages

__all__ = ["AdversarialStep"]


class AdversarialStep(BaselineStep):
    """One update of D, then one of G with the updated D, both on the same generated images.

    The labels c of the generated images are those of the batch. D sees the photos, then the generated images in a
    batch of their own, then, after its update, the generated images again. Each pass is normalised by its own
    statistics and updates the running statistics once. G and D have each an Adam optimiser with a learning rate of 2e-4
    and betas (0.5, 0.999).

    By default D and G minimise the binary cross-entropy of D's source logit, G in the non-saturating form. D is called
    with images and labels; a D without attributes does not use the labels.

    Args:
        networks, iterations, losses: as of ``BaselineStep``. The length of the training changes nothing.
    """

    SHOWN: ClassVar[tuple[str, ...]] = ("d_adversarial", "g_adversarial")

    networks: NoiseNetworks

    def __init__(self, networks: NoiseNetworks, *, iterations: int, losses: ModuleType = fused_losses) -> None:
        super().__init__(networks, iterations=iterations, losses=losses)
        self.optimizers = {
            "optimizer_d": torch.optim.Adam(networks.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999)),
            "optimizer_g": torch.optim.Adam(networks.generator.parameters(), lr=2e-4, betas=(0.5, 0.999)),
        }

    def __call__(self, batches: Sequence[LabelledImages], random: torch.Generator) -> Mapping[str, Tensor]:
        """Train one iteration, as described in ``BaselineStep``.

        Returns:
            The losses, each computed before the update that it drives: ``d_adversarial`` (of photos plus of generated
            images) and ``g_adversarial``; AC-GAN has more.
        """
        ((images, labels),) = batches
        z = self.networks.draw_noise(len(images), random)
        generated = self.networks.generator(z, labels)
        losses_d = self.discriminator_losses(images, generated.detach(), labels, random)
        self._update("optimizer_d", losses_d)
        losses_g = self.generator_losses(generated, labels, random)
        self._update("optimizer_g", losses_g)
        self.iteration += 1
        return {name: loss.detach() for name, loss in (losses_d | losses_g).items()}

    def discriminator_losses(
        self, images: Tensor, generated: Tensor, labels: Tensor, random: torch.Generator
    ) -> dict[str, Tensor]:
        """The losses of D: scalars by name.

        Args:
            images: photos (N, 3, S, S).
            generated: generated images (N, 3, S, S) without a graph.
            labels: (N, A), of both.
            random: as of ``__call__``.
        """
        networks, adversarial_loss = self.networks, self.losses.adversarial_loss
        real = adversarial_loss(networks.discriminator(images, labels), real=True)
        fake = adversarial_loss(networks.discriminator(generated, labels), real=False)
        return {"d_adversarial": real + fake}

    def generator_losses(self, generated: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """The losses of G: scalars by name.

        Args:
            generated: generated images (N, 3, S, S) with their graph.
            labels, random: as of ``discriminator_losses``.
        """
        logits = self.networks.discriminator(generated, labels)
        return {"g_adversarial": self.losses.adversarial_loss(logits, real=True)}

    def weight(self, name: str) -> float:
        """The weight of a loss in the sum that its network minimises."""
        return 1.0

    def _update(self, name: str, losses: Mapping[str, Tensor]) -> None:
        """Take one step of an optimiser. Only its parameters get a gradient, whatever else the losses depend on."""
        optimizer = self.optimizers[name]
        total = torch.stack([self.weight(loss) * value for loss, value in losses.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total, inputs=optimizer.param_groups[0]["params"])
        optimizer.step()
