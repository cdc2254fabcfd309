"""One training iteration on the fused operators. It equals ``igan_fast.reference.step`` up to rounding.

Besides the fused operators, these differences from the reference save time and memory:

* In stage 1, photos and generated images pass through the discriminator in one batch. The two halves are normalised
  separately, so the statistics are those of two passes.
* In stage 2, the parameters of D and C do not require gradients: autograd neither computes their gradients nor saves
  the tensors that these would need.
* The generator's loss has two branches, one for the generated and one for the rebuilt images. The backward pass of a
  branch runs as soon as its loss is computed, so the saved tensors of both branches are never in memory at the same
  time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from igan_fast.layers import normalised_apart
from igan_fast.losses import adversarial_loss, label_loss, latent_loss, perceptual_loss, pixel_loss
from igan_fast.models import Discriminator, IterativeGAN
from igan_fast.ops import backend
from igan_fast.ops.convolution import filters_kept
from igan_fast.reference import step as reference
from igan_fast.reference.precision import autocast, check_precision, frozen, tf32_mode
from igan_fast.reference.step import StepConfig, StepLosses

__all__ = ["StepConfig", "StepLosses", "TrainStep"]


class TrainStep:
    """``reference.TrainStep`` on the fused operators: stage 1 trains D and C, stage 2 trains G.

    With the environment variable IGAN_FAST_IMPL=reference it runs ``reference.TrainStep`` itself, bit for bit.

    Args:
        model: the networks, on their device, in training mode. On a CUDA device the weights of its convolutions are
            converted to channels_last; the parameters stay the same objects.
        config: weights of the losses, settings of Adam, precision; ``StepConfig()`` where omitted.

    Raises:
        TypeError: the discriminator of ``model`` is not ``igan_fast.models.Discriminator``, whose methods ``features``
            and ``judge`` are called here.
        ValueError: the model's device does not support ``config.precision``.
    """

    def __init__(self, model: IterativeGAN, config: StepConfig | None = None) -> None:
        if not isinstance(getattr(model, "discriminator", None), Discriminator):
            raise TypeError(
                f"model: found {type(model).__module__}.{type(model).__name__}, expected igan_fast.IterativeGAN; "
                "igan_fast.reference.TrainStep takes any model"
            )
        self.model = model
        self.config = config or StepConfig()
        device = next(model.parameters()).device
        check_precision(self.config.precision, device)
        self.recordable = device.type == "cuda" and not backend.switched_off()  # whether a CUDA graph can capture it
        self._plain = reference.TrainStep(model, self.config) if backend.switched_off() else None
        if self._plain is not None:
            self.optimizer_d, self.optimizer_g = self._plain.optimizer_d, self._plain.optimizer_g
            return
        self._d_and_c = nn.ModuleList([model.discriminator, model.classifier])
        if device.type == "cuda":
            # This is the memory format of the activations. With another one, cuDNN would transpose the weights at each
            # use, and their gradients back. Convert before the optimisers are created: their moments get the memory
            # format of the parameters.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer_d = self._adam(self._d_and_c)
        self.optimizer_g = self._adam(model.generator)

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor) -> StepLosses:
        """Train one iteration.

        Args:
            images: real photos (N, 3, S, S) in [−1, 1].
            labels: their attributes (N, A) in {0, 1}. N images are generated with the same attributes.
            noise: z (N, latent), uniform on [−1, 1].

        Returns:
            The loss terms, detached scalars.
        """
        if self._plain is not None:
            return self._plain(images, labels, noise)
        with tf32_mode(self.config.precision, images.device):
            return self._iterate(images, labels, noise)

    def extra_discriminator(self, images: Tensor, labels: Tensor, noise: Tensor) -> None:
        """One more update of D and C (Sec. 4.1): stage 1 again, with fresh noise."""
        if self._plain is not None:
            self._plain.extra_discriminator(images, labels, noise)
            return
        with tf32_mode(self.config.precision, images.device):
            self._stage1(images, labels, noise, for_stage2=False)

    def extra_generator(self, labels: Tensor, noise: Tensor) -> None:
        """One more update of G (Sec. 4.1): stage 2 without the rebuild, with fresh noise."""
        if self._plain is not None:
            self._plain.extra_generator(labels, noise)
            return
        with tf32_mode(self.config.precision, labels.device), frozen(self._d_and_c):
            with self._autocast(labels.device):
                x_fake = self.model.generator(noise, labels)
            self.optimizer_g.zero_grad(set_to_none=True)
            self._backward_through_d_and_c(x_fake, labels, noise)
            _update(self.optimizer_g)

    def _iterate(self, images: Tensor, labels: Tensor, noise: Tensor) -> StepLosses:
        """Both stages."""
        config, model = self.config, self.model
        x_fake, features, (z, c), losses_d = self._stage1(images, labels, noise)
        # Both branches use each transformed filter. Only those of G's forward pass are used once, by the rebuild.
        with filters_kept(uses=2), frozen(self._d_and_c):
            self.optimizer_g.zero_grad(set_to_none=True)
            adversarial, label, latent = self._backward_through_d_and_c(x_fake, labels, noise)
            del x_fake
            with self._autocast(images.device):
                with filters_kept(uses=1):
                    x_rebuild = model.generator(z, c)
                perceptual = perceptual_loss(model.discriminator.features(x_rebuild), features)
            del features
            pixel = pixel_loss(x_rebuild, images)
            torch.autograd.backward(config.lambdas[0] * perceptual + config.lambdas[1] * pixel)
            _update(self.optimizer_g)
        return StepLosses(*losses_d, adversarial, label, perceptual.detach(), pixel.detach(), latent)

    def _stage1(
        self, images: Tensor, labels: Tensor, noise: Tensor, *, for_stage2: bool = True
    ) -> tuple[Tensor, list[Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Train D and C on the photos and the generated images, by one Adam step for the parameters of both.

        Args:
            for_stage2: record G's forward pass in the autograd graph, because stage 2 uses G's images.

        Returns:
            G's images; h¹..h⁴ of the photos; the codes (z̃, σ(c̃)) of the photos; the loss terms. All except G's images
            are detached.
        """
        config, discriminator, n = self.config, self.model.discriminator, len(images)
        with self._autocast(images.device):
            with torch.set_grad_enabled(for_stage2):
                x_fake = self.model.generator(noise, labels)
            batch = torch.cat([images.contiguous(memory_format=torch.channels_last), x_fake.detach().to(images.dtype)])
            with normalised_apart(discriminator, 2):
                features = discriminator.features(batch)
            source, shared = discriminator.judge(features[-1])
            codes = self.model.classifier(shared)
        adversarial = adversarial_loss(source[:n], real=True) + adversarial_loss(source[n:], real=False)
        label_real = label_loss(codes.label_logits[:n], labels)
        label_fake = label_loss(codes.label_logits[n:], labels)
        latent = latent_loss(codes.z[n:], noise)
        loss = adversarial + config.label_weight_d * (label_real + label_fake) + config.lambdas[2] * latent
        self.optimizer_d.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        _update(self.optimizer_d)
        losses = (adversarial.detach(), label_real.detach(), label_fake.detach(), latent.detach())
        codes_of_photos = (codes.z[:n].detach(), torch.sigmoid(codes.label_logits[:n].detach()))
        return x_fake, [h[:n].detach() for h in features], codes_of_photos, losses

    def _backward_through_d_and_c(self, x_fake: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss terms of G's images that depend on D and C (source, labels, noise), and run their backward.

        Returns:
            The adversarial, label and latent terms, detached.
        """
        with self._autocast(labels.device):
            source, shared = self.model.discriminator.judge(self.model.discriminator.features(x_fake)[-1])
            codes = self.model.classifier(shared)
        adversarial = adversarial_loss(source, real=True)
        label = label_loss(codes.label_logits, labels)
        latent = latent_loss(codes.z, noise)
        torch.autograd.backward(adversarial + self.config.label_weight_g * label + self.config.lambdas[2] * latent)
        return adversarial.detach(), label.detach(), latent.detach()

    def _adam(self, module: nn.Module) -> torch.optim.Adam:
        """Fused Adam, which updates many parameters in one kernel. On a GPU it is capturable: its step count is a GPU
        tensor, as CUDA graphs need it."""
        parameters = list(module.parameters())
        on_gpu = parameters[0].device.type == "cuda"
        return torch.optim.Adam(parameters, lr=self.config.lr, betas=self.config.betas, fused=True, capturable=on_gpu)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        return autocast(self.config.precision, device)


def _update(optimizer: torch.optim.Optimizer) -> None:
    """Take one optimiser step, and then free the gradients."""
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
