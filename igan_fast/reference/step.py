"""One training iteration in the paper's two stages (Sec. 1, Sec. 3.1, Fig. 1), in plain PyTorch.

x are real images, c their labels, z noise; G, D and C are the generator, the discriminator and the classifier.

    Stage 1   x_fake = G(z, c)
              z̃, c̃ = C(D(x))
              D and C minimise
              L_D = adversarial(x real, x_fake not) + w_D · (label(x) + label(x_fake)) + λ₃ latent

    Stage 2   x_rebuild = G(z̃, σ(c̃))
              G minimises
              L_G = adversarial(x_fake real) + w_G · label(x_fake) + λ₁ perceptual + λ₂ pixel + λ₃ latent

=============  ================================  ==========
adversarial    BCE of D's source logit           Sec. 3.2.1
label          BCE of C's label logits           Sec. 3.2.2
pixel          mean|x − x_rebuild|               Sec. 3.3.1
perceptual     Σᵢ mean|hⁱ(x_rebuild) − hⁱ(x)|    Sec. 3.3.2
latent         mean|z̃(x_fake) − z|               Sec. 3.3.3
=============  ================================  ==========
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from igan_fast.reference.config import StepConfig
from igan_fast.reference.losses import (
    adversarial_loss,
    integrated_loss,
    label_loss,
    latent_loss,
    perceptual_loss,
    pixel_loss,
)
from igan_fast.reference.losses.labels import check_labels
from igan_fast.reference.models import Codes, DiscriminatorOutput, IterativeGAN
from igan_fast.reference.precision import autocast, check_precision, tf32_mode

__all__ = ["PaperStep", "StepConfig", "StepLosses"]


class StepLosses(NamedTuple):
    """The terms of L_D and L_G in one iteration: detached float32 scalars on the model's device.

    They are not multiplied by their weights in L_D and L_G. With edited rebuilds, ``g_label`` is a weighted mean, in
    which flipped attributes count ``StepConfig.flip_weight`` times.
    """

    d_adversarial: Tensor
    d_label_real: Tensor
    d_label_fake: Tensor
    d_latent: Tensor
    g_adversarial: Tensor
    g_label: Tensor
    g_perceptual: Tensor
    g_pixel: Tensor
    g_latent: Tensor


class _Stage1(NamedTuple):
    """The results of stage 1: the tensors that stage 2 uses, and the loss terms."""

    x_fake: Tensor
    """G(z, c), with its autograd graph."""
    codes: Codes
    """(z̃, c̃) of the real images."""
    features: tuple[Tensor, ...]
    """h¹..h⁴ of the real images."""
    losses: tuple[Tensor, Tensor, Tensor, Tensor]
    """adversarial, label of the real images, label of the generated ones, latent."""


class PaperStep:
    """The iteration of the paper: stage 1 trains D and C, stage 2 trains G.

    Real, generated and rebuilt images pass through a network in separate batches, in the order below. Batch
    normalisation therefore normalises them separately, and each pass updates the running statistics once.

    Args:
        model: the networks, on their device, in training mode.
        config: weights of the losses, settings of Adam, precision; ``StepConfig()`` where omitted. Its fields that go
            beyond the paper are not used here, but in ``beyond.TrainStep``.

    Raises:
        ValueError: the model's device does not have ``config.precision``.
    """

    def __init__(self, model: IterativeGAN, config: StepConfig | None = None) -> None:
        self.model = model
        self.config = config or StepConfig()
        check_precision(self.config.precision, next(model.parameters()).device)
        self._parameters_d = [*model.discriminator.parameters(), *model.classifier.parameters()]
        self._parameters_g = list(model.generator.parameters())
        self.optimizer_d = torch.optim.Adam(self._parameters_d, lr=self.config.lr, betas=self.config.betas)
        self.optimizer_g = torch.optim.Adam(self._parameters_g, lr=self.config.lr, betas=self.config.betas)

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor) -> StepLosses:
        """Train one iteration.

        Args:
            images: x, real images (N, 3, S, S) in [−1, 1].
            labels: c, their attributes (N, A) in {0, 1}; the generated images get the same ones.
            noise: z (N, latent), uniform on [−1, 1].

        Returns:
            The loss terms of both stages, each computed before its update.

        Raises:
            ValueError: a label is not in [0, 1] (``losses.labels.check_labels``).
        """
        check_labels(labels)
        with tf32_mode(self.config.precision, images.device):
            stage1 = self._stage1(images, labels, noise)
            losses_g = self._stage2(images, labels, noise, stage1)
        return StepLosses(*(loss.detach() for loss in (*stage1.losses, *losses_g)))

    def extra_discriminator(self, images: Tensor, labels: Tensor, noise: Tensor) -> None:
        """One more update of D and C (Sec. 4.1): stage 1 again, with fresh noise."""
        check_labels(labels)
        with tf32_mode(self.config.precision, images.device):
            self._stage1(images, labels, noise)

    def extra_generator(self, labels: Tensor, noise: Tensor) -> None:
        """One more update of G (Sec. 4.1): stage 2 without the rebuild, with fresh noise."""
        check_labels(labels)
        config = self.config
        with tf32_mode(config.precision, labels.device):
            with self._autocast(labels.device):
                x_fake = self.model.generator(noise, labels)
                fake, fake_codes = self._discriminate(x_fake)
            loss = (
                adversarial_loss(fake.source, real=True)
                + config.label_weight_g * label_loss(fake_codes.label_logits, labels)
                + config.lambdas[2] * latent_loss(fake_codes.z, noise)
            )
            self._update(self.optimizer_g, self._parameters_g, loss)

    def _stage1(self, images: Tensor, labels: Tensor, noise: Tensor) -> _Stage1:
        """Train D and C on real and generated images: one Adam step on L_D for the parameters of both. G gets no
        gradients."""
        config = self.config
        with self._autocast(images.device):
            x_fake = self.model.generator(noise, labels)
            real, real_codes = self._discriminate(images)
            fake, fake_codes = self._discriminate(x_fake.detach())
        adversarial = adversarial_loss(real.source, real=True) + adversarial_loss(fake.source, real=False)
        label_real = label_loss(real_codes.label_logits, labels)
        label_fake = label_loss(fake_codes.label_logits, labels)
        latent = latent_loss(fake_codes.z, noise)
        loss = adversarial + config.label_weight_d * (label_real + label_fake) + config.lambdas[2] * latent
        self._update(self.optimizer_d, self._parameters_d, loss)
        return _Stage1(x_fake, real_codes, real.features, (adversarial, label_real, label_fake, latent))

    def _stage2(self, images: Tensor, labels: Tensor, noise: Tensor, stage1: _Stage1) -> tuple[Tensor, ...]:
        """Train G with the updated D and C: one Adam step on L_G. The codes and the features of the real images are
        detached. D and C get no gradients."""
        config = self.config
        with self._autocast(images.device):
            x_rebuild = self.model.generator(stage1.codes.z.detach(), torch.sigmoid(stage1.codes.label_logits.detach()))
            fake, fake_codes = self._discriminate(stage1.x_fake)
            rebuild = self.model.discriminator(x_rebuild)
        adversarial = adversarial_loss(fake.source, real=True)
        label = label_loss(fake_codes.label_logits, labels)
        perceptual = perceptual_loss(rebuild.features, stage1.features)
        pixel = pixel_loss(x_rebuild, images)
        latent = latent_loss(fake_codes.z, noise)
        integrated = integrated_loss(perceptual, pixel, latent, config.lambdas)
        self._update(self.optimizer_g, self._parameters_g, adversarial + config.label_weight_g * label + integrated)
        return adversarial, label, perceptual, pixel, latent

    def _discriminate(self, x: Tensor) -> tuple[DiscriminatorOutput, Codes]:
        """Return D(x) and C(D(x))."""
        output = self.model.discriminator(x)
        return output, self.model.classifier(output.shared)

    @staticmethod
    def _update(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], loss: Tensor) -> None:
        """Take one optimiser step. Only ``parameters`` get a gradient, whatever else the loss depends on."""
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, inputs=parameters)
        optimizer.step()

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        return autocast(self.config.precision, device)
