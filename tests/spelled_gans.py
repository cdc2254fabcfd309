"""DCGAN, CGAN and AC-GAN spelled a second time: functions of a ``state_dict``, and Adam by its formulas."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SpelledGAN"]


class SpelledGAN:
    """Trains a copy of the networks whose ``state_dict`` is given.

    Args:
        name: "DCGAN", "CGAN" or "ACGAN".
        state: the ``state_dict``, in float64.
    """

    def __init__(self, name: str, state: dict[str, Tensor]) -> None:
        self.name = name
        self.state = {key: value.clone() for key, value in state.items()}
        self.trained = [key for key in state if not key.split(".")[-1].startswith(("running", "num_"))]
        for key in self.trained:
            self.state[key].requires_grad_()
        self.moments = {key: [torch.zeros_like(state[key]), torch.zeros_like(state[key])] for key in self.trained}
        self.updates = {"generator": 0, "discriminator": 0}

    def iterate(self, images: Tensor, labels: Tensor, random: torch.Generator) -> list[float]:
        """One iteration. Returns D's losses, then G's."""
        z = 2 * torch.rand(len(images), 100, generator=random).double() - 1
        x_fake = self.generate(z, labels)
        losses_d = self.losses_of_d(images, x_fake.detach(), labels, random)
        self.adam("discriminator", losses_d, labels.shape[1])
        losses_g = self.losses_of_g(x_fake, labels, random)
        self.adam("generator", losses_g, labels.shape[1])
        return [loss.item() for loss in losses_d + losses_g]

    def losses_of_d(self, real: Tensor, fake: Tensor, c: Tensor, random: torch.Generator) -> list[Tensor]:
        source_real, labels_real = self.discriminate(real, c, random)
        source_fake, labels_fake = self.discriminate(fake, c, random)
        source = F.softplus(-source_real).mean() + F.softplus(source_fake).mean()
        return [source, *(label_loss(logits, c) for logits in (labels_real, labels_fake) if logits is not None)]

    def losses_of_g(self, fake: Tensor, c: Tensor, random: torch.Generator) -> list[Tensor]:
        source, labels = self.discriminate(fake, c, random)
        return [F.softplus(-source).mean(), *([] if labels is None else [label_loss(labels, c)])]

    def adam(self, network: str, losses: list[Tensor], attributes: int) -> None:
        """Adam with the learning rate 2e-4 and betas (0.5, 0.999) on the sum of the adversarial loss and, for each
        attribute, the losses of the labels."""
        total = losses[0] + attributes * sum(losses[1:])
        keys = [key for key in self.trained if key.startswith(network)]
        grads = torch.autograd.grad(total, [self.state[key] for key in keys])
        self.updates[network] += 1
        t = self.updates[network]
        for key, grad in zip(keys, grads, strict=True):
            m, v = self.moments[key]
            m.mul_(0.5).add_(0.5 * grad)
            v.mul_(0.999).add_(0.001 * grad**2)
            step = 2e-4 * (m / (1 - 0.5**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            # a new tensor: the graph of the generated images holds the old one of D's first pass
            self.state[key] = (self.state[key].detach() - step).requires_grad_()

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        s, g = self.state, "generator."
        x = z if self.name == "DCGAN" else torch.cat([z, c], 1)
        x = x @ s[g + "project.weight"].T + s.get(g + "project.bias", 0.0)
        channels = s[g + "up.0.0.weight"].shape[0] - self.beside(c)
        side = round((x.shape[1] / channels) ** 0.5)
        x = x.view(len(z), channels, side, side)
        x = x if self.name == "ACGAN" else self.norm(g + "first.0", x)
        x = x.relu()
        for i in range(3):
            x = self.with_labels(x, c)
            x = F.conv_transpose2d(x, s[f"{g}up.{i}.0.weight"], stride=2, padding=2, output_padding=1)
            x = self.norm(f"{g}up.{i}.1", x).relu()
        x = self.with_labels(x, c)
        bias = s.get(g + "to_rgb.bias")
        return F.conv_transpose2d(x, s[g + "to_rgb.weight"], bias, stride=2, padding=2, output_padding=1).tanh()

    def discriminate(self, x: Tensor, c: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """The logits of the source, and of the labels in AC-GAN."""
        s, d = self.state, "discriminator."
        acgan = self.name == "ACGAN"
        for i in range(6 if acgan else 4):
            stride, padding = (1 if i in (1, 3, 5) else 2, 1) if acgan else (2, 2)
            weight, bias = s[f"{d}down.{i}.0.weight"], s.get(f"{d}down.{i}.0.bias")
            x = F.conv2d(self.with_labels(x, c), weight, bias, stride=stride, padding=padding)
            x = x if i == 0 else self.norm(f"{d}down.{i}.1", x)
            x = torch.where(x > 0, x, 0.2 * x)
            if acgan:
                draws = torch.randint(256, (-(-x.numel() // 8),), dtype=torch.uint8, generator=random)
                bits = np.unpackbits(draws.numpy(), bitorder="little")[: x.numel()]
                x = x * 2.0 * torch.from_numpy(bits).view(x.shape)
        flat = x.reshape(len(x), -1)
        flat = torch.cat([flat, c], 1) if self.name == "CGAN" else flat
        source = flat @ s[d + "source.weight"][0] + s.get(d + "source.bias", 0.0)
        return source, flat @ s[d + "labels.weight"].T + s[d + "labels.bias"] if acgan else None

    def norm(self, key: str, x: Tensor) -> Tensor:
        """Batch normalisation by the batch's statistics. The running statistics are updated."""
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        count = x.numel() / x.shape[1]
        with torch.no_grad():
            self.state[f"{key}.running_mean"].mul_(0.9).add_(0.1 * mean)
            self.state[f"{key}.running_var"].mul_(0.9).add_(0.1 * var * count / (count - 1))
            self.state[f"{key}.num_batches_tracked"] += 1
        x = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        return x * self.state[f"{key}.weight"][:, None, None] + self.state[f"{key}.bias"][:, None, None]

    def beside(self, c: Tensor) -> int:
        return c.shape[1] if self.name == "CGAN" else 0

    def with_labels(self, x: Tensor, c: Tensor) -> Tensor:
        maps = [torch.ones_like(x[:, :1]) * c[:, i, None, None, None] for i in range(self.beside(c))]
        return torch.cat([x, *maps], 1)


def label_loss(logits: Tensor, c: Tensor) -> Tensor:
    p = logits.sigmoid()
    return -(c * p.log() + (1 - c) * (1 - p).log()).mean()
