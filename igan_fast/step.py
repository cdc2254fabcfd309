"""One training iteration on the fused operators. It equals ``igan_fast.reference.TrainStep`` up to rounding.

Besides the fused operators, these differences from the reference save time and memory:

* In stage 1, photos and generated images pass through the discriminator in one batch. The two halves are normalised
  separately, so the statistics are those of two passes. Only where the gradient penalty is computed, they pass
  separately: its derivatives would have to be computed for both halves.
* In stage 2, the parameters of D and C do not require gradients: autograd neither computes their gradients nor saves
  the tensors that these would need.
* The generator's loss has two branches, one for the generated and one for the rebuilt images. The backward pass of a
  branch runs as soon as its loss is computed, so the saved tensors of both branches are never in memory at the same
  time.
* With ``IGAN_FAST_CONVOLUTION=blocks``, G and D are networks of blocks (``igan_fast.ops.blocks``), except for photos
  whose gradient penalty needs second derivatives. With ``measure`` they are where that is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from igan_fast.layers import normalised_apart
from igan_fast.losses import adversarial_loss, label_loss, latent_loss, pixel_loss
from igan_fast.models import Discriminator, FeatureMap, Generator, IterativeGAN
from igan_fast.ops import backend
from igan_fast.ops.blocks import RawMap
from igan_fast.ops.convolution import filters_kept
from igan_fast.reference import beyond as reference
from igan_fast.reference.beyond import flipped_label_loss, gradient_penalty
from igan_fast.reference.edited_rebuilds import GeneratedBatch
from igan_fast.reference.precision import frozen
from igan_fast.reference.step import StepConfig, StepLosses

__all__ = ["ReadPhotos", "Stage1", "StepConfig", "StepLosses", "TrainStep"]


class ReadPhotos(NamedTuple):
    """What stage 1 has read from the photos, detached."""

    features: list[FeatureMap]
    """h¹..h⁴, as ``Discriminator.read`` returns them."""
    shared: Tensor
    """D's shared layer."""
    z: Tensor
    """z̃."""
    c: Tensor
    """σ(c̃)."""


class Stage1(NamedTuple):
    """The results of stage 1."""

    x_fake: Tensor
    """G's images, with their autograd graph where stage 2 needs it."""
    photos: ReadPhotos
    losses: tuple[Tensor, Tensor, Tensor, Tensor]


class TrainStep(reference.TrainStep):
    """``reference.TrainStep`` on the fused operators: stage 1 trains D and C, stage 2 trains G.

    With the environment variable IGAN_FAST_IMPL=reference its iterations are those of the reference, bit for bit.

    Args:
        model: the networks, on their device, in training mode. On a CUDA device the weights of its convolutions are
            converted to channels_last; the parameters stay the same objects.
        config: weights of the losses, settings of Adam, precision; ``StepConfig()`` where omitted.

    Raises:
        TypeError: the discriminator of ``model`` is not ``igan_fast.models.Discriminator``, whose methods
            ``features``, ``read``, ``perceptual`` and ``judge`` are called here.
        ValueError: the model's device does not support ``config.precision``.

    Attributes:
        iteration, edited, optimizer_d, optimizer_g, optimizer_z: as of ``reference.TrainStep``.
        recordable: whether CUDA graphs can capture its iterations.
    """

    model: IterativeGAN

    def __init__(self, model: IterativeGAN, config: StepConfig | None = None) -> None:
        if not isinstance(getattr(model, "discriminator", None), Discriminator):
            raise TypeError(
                f"model: found {type(model).__module__}.{type(model).__name__}, expected igan_fast.IterativeGAN; "
                "igan_fast.reference.TrainStep takes any model"
            )
        super().__init__(model, config)
        device = next(model.parameters()).device
        self._plain = backend.switched_off()
        self.recordable = device.type == "cuda" and not self._plain
        if self._plain:
            return
        if device.type == "cuda":
            # This is the memory format of the activations. With another one, cuDNN would transpose the weights at each
            # use, and their gradients back. Convert before the optimisers are created: their moments get the memory
            # format of the parameters.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        lr = self.config.lr
        self.optimizer_d = self._adam(nn.ModuleList([model.discriminator, model.classifier]), lr)
        self.optimizer_g = self._adam(model.generator, lr)
        if self.optimizer_z is not None:
            self.optimizer_z = self._adam(model.classifier.latent, lr * self.config.latent_lr_scale)

    def iterate(
        self, images: Tensor, labels: Tensor, z: Tensor, c: Tensor, flips: Tensor | None, *, penalise: bool
    ) -> tuple[StepLosses, Tensor]:
        """Both stages, with a generated batch that is given. Arguments and results are those of the reference."""
        if self._plain:
            return super().iterate(images, labels, z, c, flips, penalise=penalise)
        model, batch = self.model, GeneratedBatch(z, c, flips)
        with self._computing(images.device):
            self.optimizer_d.zero_grad(set_to_none=True)
            x_fake, photos, losses_d = self._backward_d(images, labels, batch, penalise=penalise)
            self._step(self.optimizer_d)
            # Both branches use each transformed filter. Only those of G's forward pass are used once, by the rebuild.
            with filters_kept(uses=2), frozen(model.discriminator):
                self.optimizer_g.zero_grad(set_to_none=True)
                adversarial, label, latent = self._backward_generated(x_fake, batch)
                del x_fake
                perceptual, pixel = self._backward_rebuilt(images, photos)
                self._step_g()
        return StepLosses(*losses_d, adversarial, label, perceptual, pixel, latent), photos.z

    def update_d(self, images: Tensor, labels: Tensor, z: Tensor, c: Tensor, flips: Tensor | None) -> None:
        """Stage 1 alone, without the gradient penalty. The arguments are those of ``iterate``."""
        if self._plain:
            super().update_d(images, labels, z, c, flips)
            return
        with self._computing(images.device):
            self.optimizer_d.zero_grad(set_to_none=True)
            self._backward_d(images, labels, GeneratedBatch(z, c, flips), for_stage2=False)
            self._step(self.optimizer_d)

    def update_g(self, z: Tensor, c: Tensor, flips: Tensor | None) -> None:
        """Stage 2 without the rebuild. The arguments are those of ``iterate``."""
        if self._plain:
            super().update_g(z, c, flips)
            return
        with self._computing(z.device), frozen(self.model.discriminator):
            with self._autocast(z.device):
                x_fake = self._generated(z, c)
            self.optimizer_g.zero_grad(set_to_none=True)
            self._backward_generated(x_fake, GeneratedBatch(z, c, flips))
            self._step(self.optimizer_g)

    def _backward_d(
        self,
        images: Tensor,
        labels: Tensor,
        batch: GeneratedBatch,
        *,
        penalise: bool = False,
        for_stage2: bool = True,
        apart: bool = False,
        weight: float = 1.0,
    ) -> Stage1:
        """Compute L_D of the photos and the generated images, and add its gradients to those of D and C.

        Args:
            penalise: add the gradient penalty.
            for_stage2: record G's forward pass in the autograd graph, because stage 2 uses G's images.
            apart: pass photos and generated images through D one after the other. It is so with the penalty too.
            weight: the gradients are multiplied by it.
        """
        config, discriminator, n = self.config, self.model.discriminator, len(images)
        if penalise:
            images = images.detach().requires_grad_()
        with self._autocast(images.device):
            with torch.set_grad_enabled(for_stage2):
                x_fake = self._generated(batch.z, batch.c)
            photos = images.contiguous(memory_format=torch.channels_last)
            generated = x_fake.detach()
            if penalise or apart:
                h4, features = discriminator.read(photos, twice=penalise)
                judged = discriminator.judge(h4), discriminator.judge(discriminator.read(generated)[0])
                source, shared = map(torch.cat, zip(*judged, strict=True))
            else:
                with normalised_apart(discriminator, 2 * config.norm_groups):
                    both = torch.cat([photos.to(generated.dtype), generated])  # D rounds to this dtype in any case
                    h4, features = discriminator.read(both)
                source, shared = discriminator.judge(h4)
            codes = self.model.classifier(shared)
        adversarial = adversarial_loss(source[:n], real=True) + adversarial_loss(source[n:], real=False)
        label_real = label_loss(codes.label_logits[:n], labels)
        label_fake = label_loss(codes.label_logits[n:], batch.c)
        latent = latent_loss(codes.z[n:], batch.z)
        labelled = config.label_weight_d * label_real + config.fake_label_weight * label_fake
        loss = adversarial + labelled + config.lambdas[2] * latent
        if penalise:
            loss = loss + config.r1_every * gradient_penalty(source[:n], images, config.r1)
        # Without inputs, the penalty's backward pass would also compute the gradient of the images.
        trained = [parameter for parameter in self._parameters_d if parameter.requires_grad] if penalise else None
        _backward(loss, weight, trained)
        read = ReadPhotos(
            [h.first(n) if isinstance(h, RawMap) else h[:n] for h in features],
            shared[:n].detach(),
            codes.z[:n].detach(),
            torch.sigmoid(codes.label_logits[:n].detach()),
        )
        losses = (adversarial.detach(), label_real.detach(), label_fake.detach(), latent.detach())
        return Stage1(x_fake, read, losses)

    def _backward_generated(
        self, x_fake: Tensor, batch: GeneratedBatch, weight: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the terms of L_G that depend on G's images (source, labels, noise), and add their gradients to G's.

        Returns:
            The adversarial, label and latent terms, detached.
        """
        with frozen(self.model.classifier):
            with self._autocast(x_fake.device):
                source, shared = self.model.discriminator.judge(self.model.discriminator.read(x_fake)[0])
                codes = self.model.classifier(shared)
            adversarial = adversarial_loss(source, real=True)
            label = flipped_label_loss(codes.label_logits, batch, self.config.flip_weight)
            latent = latent_loss(codes.z, batch.z)
            loss = adversarial + self.config.label_weight_g * label + self.config.lambdas[2] * latent
            _backward(loss, weight)
        return adversarial.detach(), label.detach(), latent.detach()

    def _backward_rebuilt(self, images: Tensor, photos: ReadPhotos, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """Compute the terms of L_G that depend on the rebuilt photos, and add their gradients to G's, and to those of
        C's layer of z̃ if it learns from the rebuild. The features in ``photos`` are freed before the backward pass.

        Returns:
            The perceptual and pixel terms, detached.
        """
        model, lambdas = self.model, self.config.lambdas
        with self._autocast(images.device):
            z = photos.z if self.optimizer_z is None else model.classifier.latent_code(photos.shared)
            with filters_kept(uses=1):
                x_rebuild = self._generated(z, photos.c)
            perceptual = model.discriminator.perceptual(x_rebuild, photos.features)
        photos.features.clear()
        pixel = pixel_loss(x_rebuild, images)
        _backward(lambdas[0] * perceptual + lambdas[1] * pixel, weight)
        return perceptual.detach(), pixel.detach()

    def _generated(self, z: Tensor, c: Tensor) -> Tensor:
        generator = self.model.generator
        images: Tensor = generator.images(z, c) if isinstance(generator, Generator) else generator(z, c)
        return images

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer) -> None:
        """Take one optimiser step, and then free the gradients."""
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _step_g(self) -> None:
        self._step(self.optimizer_g)
        if self.optimizer_z is not None:
            self._step(self.optimizer_z)

    def _adam(self, module: nn.Module, lr: float) -> torch.optim.Adam:
        """Fused Adam, which updates many parameters in one kernel. On a GPU it is capturable: its step count is a GPU
        tensor, as CUDA graphs need it."""
        parameters = list(module.parameters())
        on_gpu = parameters[0].device.type == "cuda"
        return torch.optim.Adam(parameters, lr=lr, betas=self.config.betas, fused=True, capturable=on_gpu)


def _backward(loss: Tensor, weight: float, inputs: Sequence[Tensor] | None = None) -> None:
    """Add the gradients of ``weight`` · ``loss`` to those of ``inputs``, or of all parameters."""
    torch.autograd.backward(loss, torch.full_like(loss, weight), inputs=inputs)
