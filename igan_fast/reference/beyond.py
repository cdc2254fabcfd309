"""One training iteration with the additions that make edits show, in plain PyTorch. Each is off by default.

The notation is that of ``igan_fast.reference.step``, the paper's iteration. x', z̃', c' are the photos, codes and labels
of the previous iteration.

    Stage 1   x_fake = G(z, c), with edited rebuilds among z and c         (1)
              L_D = adversarial + w_D · label(x) + w_F · label(x_fake)     (2)
                    + λ₃ latent
                    + 16 · γ/2 · Σ (∂source(x)/∂x)²                        (3)

    Stage 2   x_rebuild = G(z̃, σ(c̃)), where z̃ learns from the rebuild     (4)
              L_G = adversarial + w_G · weighted label(x_fake)             (5)
                    + λ₁ perceptual + λ₂ pixel + λ₃ latent

1. *Edited rebuilds* (``edited_share``): G is trained on what it is used for, see
   ``igan_fast.reference.edited_rebuilds``.
2. *Weight of C's label loss on generated images* (``label_weight_fake``). In the paper it is w_D, so C learns to read
   attributes from images in which they do not show, and then G need not show them. With 0, C learns attributes from
   photos only. StarGAN (Choi et al., CVPR 2018) also trains its classifier on real images only.
3. *Gradient penalty on photos* (``r1``, ``r1_every``): R1 of Mescheder et al. (ICML 2018), the mean over photos of
   γ/2 · Σ (∂source/∂x)². It keeps D's gradients small. Measured: rebuilds are less blurred, and generated faces have
   more grain (docs/pages/results.md). It is computed every
   16th iteration only, with a weight 16 times as large (lazily; Karras et al., CVPR 2020, StyleGAN2). Batch
   normalisation lets a photo change the logits of the others too; the derivative is that of their sum.
4. *z̃ learns from the rebuild* (``latent_lr_scale``): in the paper L_G trains G only, so nothing asks that z̃ holds what
   the rebuild needs. Here C's layer ``latent`` also minimises λ₁ perceptual + λ₂ pixel, by an Adam of its own. Its
   input, D's shared layer, is detached, so this update does not reach D or the labels. The layer computes z̃ anew, from
   the shared layer of stage 1, with its weights after stage 1.
5. *Weight of flipped attributes* (``flip_weight``): the label loss of the flipped entries of edited rebuilds counts
   more, because most of the others show already: mean(w · BCE), w = ``flip_weight`` where flipped, else 1.
6. *Parts of the batch that are normalised apart* (``norm_groups``): in each pass, batch normalisation takes the mean
   and the variance of each part alone. The losses stay means over the whole batch. So several processes can compute
   the parts, and their result is that of one process (``igan_fast.distributed``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.reference.config import StepConfig
from igan_fast.reference.edited_rebuilds import EditedRebuilds, GeneratedBatch
from igan_fast.reference.layers import normalised_apart
from igan_fast.reference.losses import (
    adversarial_loss,
    integrated_loss,
    label_loss,
    latent_loss,
    perceptual_loss,
    pixel_loss,
)
from igan_fast.reference.losses.labels import check_labels
from igan_fast.reference.models import DiscriminatorOutput, IterativeGAN
from igan_fast.reference.ops import widen
from igan_fast.reference.precision import frozen, tf32_mode
from igan_fast.reference.step import PaperStep, StepLosses

__all__ = ["TrainStep", "flipped_label_loss", "gradient_penalty"]


class _Stage1(NamedTuple):
    """The results of stage 1, as in ``igan_fast.reference.step``."""

    x_fake: Tensor
    z: Tensor
    """z̃ of the photos."""
    label_logits: Tensor
    """c̃ of the photos."""
    real: DiscriminatorOutput
    losses: tuple[Tensor, Tensor, Tensor, Tensor]


class TrainStep(PaperStep):
    """The iteration with the additions that ``config`` switches on; the paper's iteration if it switches on none.

    Args:
        model, config: as of ``PaperStep``.

    Raises:
        ValueError: as ``PaperStep``.

    Attributes:
        iteration: the number of iterations done. The gradient penalty depends on it, so a resumed run sets it.
        edited: the codes of the previous iteration's photos. A resumed run calls its ``keep``.
        optimizer_z: the optimiser with which z̃ learns from the rebuild; None if it does not.
    """

    def __init__(self, model: IterativeGAN, config: StepConfig | None = None) -> None:
        super().__init__(model, config)
        config = self.config
        self.iteration = 0
        self.edited = EditedRebuilds(config.edited_share)
        self.optimizer_z: torch.optim.Adam | None = None
        if config.latent_lr_scale:
            lr = config.lr * config.latent_lr_scale
            self.optimizer_z = torch.optim.Adam(model.classifier.latent.parameters(), lr=lr, betas=config.betas)

    @property
    def optimizers(self) -> dict[str, torch.optim.Adam]:
        """The optimisers, by the names of the attributes that hold them."""
        found = {"optimizer_d": self.optimizer_d, "optimizer_g": self.optimizer_g}
        return found if self.optimizer_z is None else found | {"optimizer_z": self.optimizer_z}

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor, flips: Tensor | None = None) -> StepLosses:
        """Train one iteration.

        Args:
            images, labels, noise: as of ``PaperStep``.
            flips: the attributes to flip in edited rebuilds, as ``draw_flips`` returns them. Where omitted, they are
                drawn from PyTorch's global random numbers. Without ``edited_share`` they are not used.

        Returns:
            The loss terms of both stages, each computed before its update. ``g_label`` is weighted as in (5).

        Raises:
            ValueError: a label is not in [0, 1] (``losses.labels.check_labels``); or as ``EditedRebuilds.compose``.
        """
        check_labels(labels)
        batch = self.edited.compose(labels, noise, flips)
        losses, z = self.iterate(images, labels, *batch, penalise=self.penalises_now())
        self.edited.keep(z, labels)
        self.iteration += 1
        return losses

    def extra_discriminator(self, images: Tensor, labels: Tensor, noise: Tensor, flips: Tensor | None = None) -> None:
        """One more update of D and C (Sec. 4.1): stage 1 again, with fresh noise and flips, without (3)."""
        check_labels(labels)
        self.update_d(images, labels, *self.edited.compose(labels, noise, flips))

    def extra_generator(self, labels: Tensor, noise: Tensor, flips: Tensor | None = None) -> None:
        """One more update of G (Sec. 4.1): stage 2 without the rebuild, with fresh noise and flips."""
        check_labels(labels)
        self.update_g(*self.edited.compose(labels, noise, flips))

    def iterate(
        self, images: Tensor, labels: Tensor, z: Tensor, c: Tensor, flips: Tensor | None, *, penalise: bool
    ) -> tuple[StepLosses, Tensor]:
        """Both stages, with a generated batch that is given. Only the model and its optimisers change.

        Args:
            images, labels: as of ``__call__``.
            z, c, flips: as of ``GeneratedBatch``.
            penalise: add the gradient penalty (3).

        Returns:
            The loss terms, and z̃ of the photos (N, latent); detached.
        """
        with self._computing(images.device):
            if not self.config.goes_beyond:
                paper = self._stage1(images, labels, z)
                return _detached(paper.losses, self._stage2(images, labels, z, paper)), paper.codes.z.detach()
            batch = GeneratedBatch(z, c, flips)
            stage1 = self._discriminator_stage(images, labels, batch, penalise=penalise)
            return _detached(stage1.losses, self._generator_stage(images, batch, stage1)), stage1.z

    def update_d(self, images: Tensor, labels: Tensor, z: Tensor, c: Tensor, flips: Tensor | None) -> None:
        """Stage 1 alone, without (3). The arguments are those of ``iterate``."""
        with self._computing(images.device):
            if self.config.goes_beyond:
                self._discriminator_stage(images, labels, GeneratedBatch(z, c, flips), penalise=False)
            else:
                self._stage1(images, labels, z)

    def update_g(self, z: Tensor, c: Tensor, flips: Tensor | None) -> None:
        """Stage 2 without the rebuild. The arguments are those of ``iterate``."""
        with self._computing(z.device):
            with self._autocast(z.device):
                x_fake = self.model.generator(z, c)
            adversarial, label, latent = self._losses_of_generated(x_fake, GeneratedBatch(z, c, flips))
            loss = adversarial + self.config.label_weight_g * label + self.config.lambdas[2] * latent
            self._update(self.optimizer_g, self._parameters_g, loss)

    @contextmanager
    def _computing(self, device: torch.device) -> Iterator[None]:
        """Run the block with the config's TF32 mode and groups of normalisation."""
        with tf32_mode(self.config.precision, device):
            if self.config.norm_groups == 1:
                yield
                return
            with normalised_apart(self.model, self.config.norm_groups):
                yield

    def penalises_now(self) -> bool:
        """Whether the next iteration computes the gradient penalty (3)."""
        return self.config.r1 > 0 and self.iteration % self.config.r1_every == 0

    def _discriminator_stage(self, images: Tensor, labels: Tensor, batch: GeneratedBatch, *, penalise: bool) -> _Stage1:
        """Stage 1: train D and C on photos and on the generated batch."""
        config = self.config
        if penalise:
            images = images.detach().requires_grad_()
        with self._autocast(images.device):
            x_fake = self.model.generator(batch.z, batch.c)
            real, real_codes = self._discriminate(images)
            fake, fake_codes = self._discriminate(x_fake.detach())
        adversarial = adversarial_loss(real.source, real=True) + adversarial_loss(fake.source, real=False)
        label_real = label_loss(real_codes.label_logits, labels)
        label_fake = label_loss(fake_codes.label_logits, batch.c)
        latent = latent_loss(fake_codes.z, batch.z)
        labelled = config.label_weight_d * label_real + config.fake_label_weight * label_fake
        loss = adversarial + labelled + config.lambdas[2] * latent
        if penalise:
            loss = loss + config.r1_every * gradient_penalty(real.source, images, config.r1)
        self._update(self.optimizer_d, self._parameters_d, loss)
        losses = adversarial, label_real, label_fake, latent
        return _Stage1(x_fake, real_codes.z.detach(), real_codes.label_logits.detach(), real, losses)

    def _generator_stage(self, images: Tensor, batch: GeneratedBatch, stage1: _Stage1) -> tuple[Tensor, ...]:
        """Stage 2: train G, and C's layer ``latent`` by the rebuild, with the updated D and C."""
        config = self.config
        adversarial, label, latent = self._losses_of_generated(stage1.x_fake, batch)
        with self._autocast(images.device):
            z = stage1.z
            if self.optimizer_z is not None:
                z = self.model.classifier.latent_code(stage1.real.shared.detach())
            x_rebuild = self.model.generator(z, torch.sigmoid(stage1.label_logits))
            rebuild = self.model.discriminator(x_rebuild)
        perceptual = perceptual_loss(rebuild.features, stage1.real.features)
        pixel = pixel_loss(x_rebuild, images)
        integrated = integrated_loss(perceptual, pixel, latent, config.lambdas)
        loss = adversarial + config.label_weight_g * label + integrated
        if self.optimizer_z is None:
            self._update(self.optimizer_g, self._parameters_g, loss)
        else:
            self.optimizer_z.zero_grad(set_to_none=True)
            self._update(self.optimizer_g, [*self._parameters_g, *self.model.classifier.latent.parameters()], loss)
            self.optimizer_z.step()
        return adversarial, label, perceptual, pixel, latent

    def _losses_of_generated(self, x_fake: Tensor, batch: GeneratedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The terms of L_G that depend on the generated batch: adversarial, label, latent. They do not train C."""
        with frozen(self.model.classifier), self._autocast(x_fake.device):
            fake, codes = self._discriminate(x_fake)
        return (
            adversarial_loss(fake.source, real=True),
            flipped_label_loss(codes.label_logits, batch, self.config.flip_weight),
            latent_loss(codes.z, batch.z),
        )


def _detached(losses_d: tuple[Tensor, ...], losses_g: tuple[Tensor, ...]) -> StepLosses:
    return StepLosses(*(loss.detach() for loss in (*losses_d, *losses_g)))


def flipped_label_loss(label_logits: Tensor, batch: GeneratedBatch, flip_weight: float) -> Tensor:
    """The mean over batch and attributes of w · BCE(logit, c), w = ``flip_weight`` where flipped, else 1: (5) above.

    Args:
        label_logits: C's logits (N, A) of the images generated from ``batch``.
    """
    if batch.flips is None:
        return label_loss(label_logits, batch.c)
    logits = widen(label_logits)
    weight = torch.where(batch.flips, flip_weight, 1.0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, batch.c.to(logits.dtype), weight=weight)


def gradient_penalty(source_logits: Tensor, images: Tensor, gamma: float) -> Tensor:
    """γ/2 · Σ (∂source/∂x)² of each image, and of these the mean: R1 of Mescheder et al. (ICML 2018), (3) above.

    Args:
        source_logits: D's source logits (N,) of the images, computed with autograd.
        images: (N, 3, S, S), which require a gradient.
        gamma: γ.
    """
    (gradients,) = torch.autograd.grad(source_logits.sum(), images, create_graph=True)
    return gamma / 2 * gradients.square().sum() / len(images)
