"""One training iteration on the fused operators: the twin of ``igan_fast.reference.step``, equal but for rounding.

Nothing is computed twice, and nothing that no one uses. In stage 1 D sees photos and images of G together, normalised
apart, so that the statistics are those of two passes. In stage 2 D's and C's parameters are frozen: neither their
gradients are computed nor is kept what these would need; and each branch of G's loss is differentiated as soon as it is
there, so that the activations of both are never in memory at once.
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
from igan_fast.reference.frozen import frozen
from igan_fast.reference.step import StepConfig, StepLosses, arithmetic, check_precision, products

__all__ = ["StepConfig", "StepLosses", "TrainStep"]


class TrainStep:
    """``reference.TrainStep``, fused: stage 1 trains D and C, stage 2 trains G. With the environment variable
    IGAN_FAST_IMPL=reference it is that, bit for bit.

    Args:
        model: the networks, on their device, in training mode. On a CUDA device the weights of their convolutions are
            laid out with channels last; the parameters stay the same objects.
        config: losses and optimiser; the paper's where omitted.

    Raises:
        TypeError: the discriminator of ``model`` is not the fused one: its two halves are called apart here.
        ValueError: ``config.precision`` is not to be had on the model's device.
    """

    def __init__(self, model: IterativeGAN, config: StepConfig | None = None) -> None:
        if not isinstance(getattr(model, "discriminator", None), Discriminator):
            raise TypeError(
                f"model: found {type(model).__module__}.{type(model).__name__}, expected igan_fast.IterativeGAN; "
                "igan_fast.reference.TrainStep takes the models of both wings"
            )
        self.model = model
        self.config = config or StepConfig()
        device = next(model.parameters()).device
        check_precision(self.config.precision, device)
        self.recordable = device.type == "cuda" and not backend.switched_off()  # as a CUDA graph
        self._plain = reference.TrainStep(model, self.config) if backend.switched_off() else None
        if self._plain is not None:
            self.optimizer_d, self.optimizer_g = self._plain.optimizer_d, self._plain.optimizer_g
            return
        self._judges = nn.ModuleList([model.discriminator, model.classifier])
        if device.type == "cuda":
            # As the activations lie: cuDNN would else turn the weights at each use, and their gradients back.
            # Before the optimisers: moments take their parameter's layout.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer_d = self._adam(self._judges)
        self.optimizer_g = self._adam(model.generator)

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor) -> StepLosses:
        """Train one iteration.

        Args:
            images: real photos (N, 3, S, S) in [−1, 1].
            labels: their attributes (N, A) in {0, 1}; the generated images are given the same.
            noise: z (N, latent), uniform on [−1, 1].
        """
        if self._plain is not None:
            return self._plain(images, labels, noise)
        with products(self.config.precision, images.device):
            return self._iterate(images, labels, noise)

    def extra_discriminator(self, images: Tensor, labels: Tensor, noise: Tensor) -> None:
        """One more update of D and C (Sec. 4.1): stage 1 again, with fresh noise."""
        if self._plain is not None:
            self._plain.extra_discriminator(images, labels, noise)
            return
        with products(self.config.precision, images.device):
            self._stage1(images, labels, noise, for_stage2=False)

    def extra_generator(self, labels: Tensor, noise: Tensor) -> None:
        """One more update of G (Sec. 4.1): stage 2 without the rebuild, with fresh noise."""
        if self._plain is not None:
            self._plain.extra_generator(labels, noise)
            return
        with products(self.config.precision, labels.device), frozen(self._judges):
            with self._arithmetic(labels.device):
                x_fake = self.model.generator(noise, labels)
            self.optimizer_g.zero_grad(set_to_none=True)
            self._learn_from_judges(x_fake, labels, noise)
            _update(self.optimizer_g)

    def _iterate(self, images: Tensor, labels: Tensor, noise: Tensor) -> StepLosses:
        """Both stages."""
        config, model = self.config, self.model
        x_fake, features, (z, c), losses_d = self._stage1(images, labels, noise)
        # In stage 2 two branches use the same convolutions, but for G's forward pass.
        with filters_kept(uses=2), frozen(self._judges):
            self.optimizer_g.zero_grad(set_to_none=True)
            adversarial, label, latent = self._learn_from_judges(x_fake, labels, noise)
            del x_fake
            with self._arithmetic(images.device):
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
        """D and C see the photos and G's images; one Adam step over D's and C's parameters together.

        Returns:
            G's images; of the photos h¹..h⁴ and the codes (z̃, σ(c̃)), not differentiated; the loss terms.
        """
        config, discriminator, n = self.config, self.model.discriminator, len(images)
        with self._arithmetic(images.device):
            with torch.set_grad_enabled(for_stage2):
                x_fake = self.model.generator(noise, labels)
            both = torch.cat([images.contiguous(memory_format=torch.channels_last), x_fake.detach().to(images.dtype)])
            with normalised_apart(discriminator, 2):
                features = discriminator.features(both)
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
        of_photos = (codes.z[:n].detach(), torch.sigmoid(codes.label_logits[:n].detach()))
        return x_fake, [h[:n].detach() for h in features], of_photos, losses

    def _learn_from_judges(self, x_fake: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """G's gradient from what D and C say of its images: source, labels and noise. Returns these terms."""
        with self._arithmetic(labels.device):
            source, shared = self.model.discriminator.judge(self.model.discriminator.features(x_fake)[-1])
            codes = self.model.classifier(shared)
        adversarial = adversarial_loss(source, real=True)
        label = label_loss(codes.label_logits, labels)
        latent = latent_loss(codes.z, noise)
        torch.autograd.backward(adversarial + self.config.label_weight_g * label + self.config.lambdas[2] * latent)
        return adversarial.detach(), label.detach(), latent.detach()

    def _adam(self, module: nn.Module) -> torch.optim.Adam:
        """One launch for all parameters; on a GPU with its step count there, so that a graph can hold it."""
        parameters = list(module.parameters())
        on_gpu = parameters[0].device.type == "cuda"
        return torch.optim.Adam(parameters, lr=self.config.lr, betas=self.config.betas, fused=True, capturable=on_gpu)

    def _arithmetic(self, device: torch.device) -> AbstractContextManager[object]:
        return arithmetic(self.config.precision, device)


def _update(optimizer: torch.optim.Optimizer) -> None:
    """One step with the gradients that there are, which then make room."""
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
