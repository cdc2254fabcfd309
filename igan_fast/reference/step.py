"""One training iteration in the paper's two stages (Sec. 1, Sec. 3.1, Fig. 1), in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from igan_fast.reference.losses import (
    adversarial_loss,
    integrated_loss,
    label_loss,
    latent_loss,
    perceptual_loss,
    pixel_loss,
)
from igan_fast.reference.models import Codes, DiscriminatorOutput, IterativeGAN

__all__ = ["StepConfig", "StepLosses", "TrainStep", "arithmetic", "check_precision", "products"]


@dataclass(frozen=True)
class StepConfig:
    """What one iteration minimises, and how. The defaults are the paper's, but for DCGAN's learning rate; the weights
    that ``igan-fast train`` takes instead, so that edits show, are in ``TrainConfig().step_config()``.

    Raises:
        ValueError: names the field that is out of its range, what was found and what was expected.
    """

    lr: float = 2e-4
    """Adam's learning rate, of both optimisers."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates (DCGAN's)."""
    lambdas: tuple[float, float, float] = (2.0, 0.5, 1.0)
    """λ₁ perceptual, λ₂ pixel, λ₃ latent (Sec. 3.3)."""
    label_weight_d: float = 1.0
    """Weight of the label loss for D and C."""
    label_weight_g: float = 1.0
    """Weight of the label loss for G: what makes an edit show."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the networks: tf32 rounds the factors of products on a GPU, and fp32 does not, whatever PyTorch's
    flags say outside of the step; bf16 is autocast: weights, statistics and losses stay float32."""

    def __post_init__(self) -> None:
        for name, count in (("betas", 2), ("lambdas", 3)):
            value = getattr(self, name)
            self._expect(name, isinstance(value, tuple | list) and len(value) == count, f"{count} numbers")
            object.__setattr__(self, name, tuple(value))
        self._expect("lr", _is_number(self.lr) and self.lr > 0, "a number above 0")
        self._expect("betas", all(_is_number(beta) and beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        self._expect("lambdas", all(map(_is_number, self.lambdas)), "numbers that are not negative, and finite")
        for name in ("label_weight_d", "label_weight_g"):
            self._expect(name, _is_number(getattr(self, name)), "a number that is not negative, and finite")
        self._expect("precision", self.precision in ("fp32", "tf32", "bf16"), "one of fp32, tf32, bf16")

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name}: found {getattr(self, name)}, expected {expected}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < math.inf


class StepLosses(NamedTuple):
    """The terms of one iteration, unweighted: detached float32 scalars on the model's device."""

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
    """What stage 2 needs of stage 1, and stage 1's terms."""

    x_fake: Tensor
    codes: Codes
    features: tuple[Tensor, ...]
    losses: tuple[Tensor, Tensor, Tensor, Tensor]


class TrainStep:
    """The iteration of the paper: stage 1 trains D and C, stage 2 trains G.

    Every pass through a network is normalised apart and moves its running statistics once, in the order below.

    Args:
        model: the networks, on their device, in training mode.
        config: losses and optimiser; the paper's where omitted.

    Raises:
        ValueError: ``config.precision`` is not to be had on the model's device.
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
            images: real photos (N, 3, S, S) in [−1, 1].
            labels: their attributes (N, A) in {0, 1}; the generated images are given the same.
            noise: z (N, latent), uniform on [−1, 1].
        """
        with products(self.config.precision, images.device):
            stage1 = self._stage1(images, labels, noise)
            losses_g = self._stage2(images, labels, noise, stage1)
        return StepLosses(*(loss.detach() for loss in (*stage1.losses, *losses_g)))

    def extra_discriminator(self, images: Tensor, labels: Tensor, noise: Tensor) -> None:
        """One more update of D and C (Sec. 4.1): stage 1 again, with fresh noise."""
        with products(self.config.precision, images.device):
            self._stage1(images, labels, noise)

    def extra_generator(self, labels: Tensor, noise: Tensor) -> None:
        """One more update of G (Sec. 4.1): stage 2 without the rebuild, with fresh noise."""
        config = self.config
        with products(config.precision, labels.device):
            with self._arithmetic(labels.device):
                x_fake = self.model.generator(noise, labels)
                fake, fake_codes = self._judge(x_fake)
            loss = (
                adversarial_loss(fake.source, real=True)
                + config.label_weight_g * label_loss(fake_codes.label_logits, labels)
                + config.lambdas[2] * latent_loss(fake_codes.z, noise)
            )
            self._update(self.optimizer_g, self._parameters_g, loss)

    def _stage1(self, images: Tensor, labels: Tensor, noise: Tensor) -> _Stage1:
        """D and C see the photos, then G's images; one Adam step over D's and C's parameters together."""
        config = self.config
        with self._arithmetic(images.device):
            x_fake = self.model.generator(noise, labels)
            real, real_codes = self._judge(images)
            fake, fake_codes = self._judge(x_fake.detach())
        adversarial = adversarial_loss(real.source, real=True) + adversarial_loss(fake.source, real=False)
        label_real = label_loss(real_codes.label_logits, labels)
        label_fake = label_loss(fake_codes.label_logits, labels)
        latent = latent_loss(fake_codes.z, noise)
        loss = adversarial + config.label_weight_d * (label_real + label_fake) + config.lambdas[2] * latent
        self._update(self.optimizer_d, self._parameters_d, loss)
        return _Stage1(x_fake, real_codes, real.features, (adversarial, label_real, label_fake, latent))

    def _stage2(self, images: Tensor, labels: Tensor, noise: Tensor, stage1: _Stage1) -> tuple[Tensor, ...]:
        """G learns from the updated D and C: its images' source and labels, and the photos it rebuilds."""
        config = self.config
        with self._arithmetic(images.device):
            x_rebuild = self.model.generator(stage1.codes.z.detach(), torch.sigmoid(stage1.codes.label_logits.detach()))
            fake, fake_codes = self._judge(stage1.x_fake)
            rebuild = self.model.discriminator(x_rebuild)
        adversarial = adversarial_loss(fake.source, real=True)
        label = label_loss(fake_codes.label_logits, labels)
        perceptual = perceptual_loss(rebuild.features, stage1.features)
        pixel = pixel_loss(x_rebuild, images)
        latent = latent_loss(fake_codes.z, noise)
        integrated = integrated_loss(perceptual, pixel, latent, config.lambdas)
        self._update(self.optimizer_g, self._parameters_g, adversarial + config.label_weight_g * label + integrated)
        return adversarial, label, perceptual, pixel, latent

    def _judge(self, x: Tensor) -> tuple[DiscriminatorOutput, Codes]:
        output = self.model.discriminator(x)
        return output, self.model.classifier(output.shared)

    @staticmethod
    def _update(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], loss: Tensor) -> None:
        """One optimiser step. Only ``parameters`` receive a gradient, whatever else the loss depends on."""
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, inputs=parameters)
        optimizer.step()

    def _arithmetic(self, device: torch.device) -> AbstractContextManager[object]:
        return arithmetic(self.config.precision, device)


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ``ValueError`` for tf32 where there is none: on anything but a CUDA device."""
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision is tf32, which {device.type} has not; expected fp32 or bf16")


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """What a forward pass runs in for ``StepConfig.precision``; its backward pass does not."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def products(precision: str, device: torch.device) -> Iterator[None]:
    """Inside the block float32 products and convolutions on a CUDA device, forward and backward, round their factors to
    tf32 or do not, as ``StepConfig.precision`` says. PyTorch has flags for that which all threads share; afterwards
    they read as before.

    These are the flags that it asks for each product, and since 2.9 the ones to set. Setting the older ``allow_tf32``
    may warn; reading it raises while the two disagree. Some parts of ``torch.compile`` read it: for tf32 in compiled
    networks call ``torch.set_float32_matmul_precision("high")`` as well, which sets both.
    """
    if device.type != "cuda" or precision == "bf16":
        yield
        return
    cudnn: Any = torch.backends.cudnn  # its types lack the newer flags
    backends = (torch.backends.cuda.matmul, cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend, found in zip(backends, before, strict=True):
            # Untouched where it is right: set, a flag no longer follows torch.backends.fp32_precision.
            if (found == "tf32") != (precision == "tf32"):
                backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for backend, found in zip(backends, before, strict=True):
            if backend.fp32_precision != found:
                backend.fp32_precision = found
