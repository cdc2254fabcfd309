"""StarGAN (Choi et al., 2018, arXiv 1711.09020), after github.com/yunjey/stargan.

One generator changes any of five attributes; its instance norms have running statistics. The discriminator also
classifies, and is trained with a gradient penalty (WGAN-GP), which needs second derivatives. By default 64², half the
original's widths, batches of 4, and five discriminator updates per generator update: 20 iterations take under a minute
on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import ImageOptions, faces, options_of, save_images, set_requires_grad, shuffled, train
from torch import Tensor, nn

import igan_fast

ATTRIBUTES = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")


def norm_layer(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            norm_layer(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            norm_layer(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x)


class Generator(nn.Module):
    def __init__(self, width: int, blocks: int, labels: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(3 + labels, width, 7, padding=3, bias=False), norm_layer(width), nn.ReLU(inplace=True)]
        for channels in (width, width * 2):
            layers.append(nn.Conv2d(channels, channels * 2, kernel_size=4, stride=2, padding=1, bias=False))
            layers.append(norm_layer(channels * 2))
            layers.append(nn.ReLU(inplace=True))
        layers.extend(ResidualBlock(width * 4) for _ in range(blocks))
        for channels in (width * 4, width * 2):
            layers.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=4, stride=2, padding=1, bias=False))
            layers.append(norm_layer(channels // 2))
            layers.append(nn.ReLU(inplace=True))
        self.main = nn.Sequential(*layers, nn.Conv2d(width, 3, 7, padding=3, bias=False), nn.Tanh())

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        maps = labels[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.main(torch.cat([x, maps], dim=1))


class Discriminator(nn.Module):
    """Returns a map of scores, and the logits of the labels."""

    def __init__(self, image_size: int, width: int, labels: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, width, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.01)]
        depth = image_size.bit_length() - 2  # halved to 2×2
        for i in range(1, depth):
            layers += [nn.Conv2d(width << i - 1, width << i, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.01)]
        channels = width << depth - 1
        self.main = nn.Sequential(*layers)
        self.conv1 = nn.Conv2d(channels, 1, kernel_size=3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, labels, kernel_size=image_size >> depth, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.main(x)
        return self.conv1(h), self.conv2(h).flatten(1)


class StarGan(nn.Module):
    def __init__(self, image_size: int, width: int, blocks: int, critic: int) -> None:
        super().__init__()
        self.generator = Generator(width, blocks, len(ATTRIBUTES))
        self.discriminator = Discriminator(image_size, width, len(ATTRIBUTES))
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=1e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=1e-4, betas=(0.5, 0.999))
        self.critic, self.iteration = critic, 0


def build(image_size: int = 64, width: int = 32, blocks: int = 6, critic: int = 5) -> StarGan:
    return StarGan(image_size, width, blocks, critic)


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """mean (‖∇D(x)‖ − 1)² for images x between real and fake ones."""
    mix = torch.rand(len(real), 1, 1, 1, dtype=real.dtype, device=real.device)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    scores, _ = discriminator(between)
    (gradient,) = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


def training_step(model: StarGan, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """One update of the discriminator, and in every ``critic``-th call one of the generator."""
    real, labels = batch
    targets = labels[torch.randperm(len(labels), device="cpu").to(labels.device)]
    with torch.no_grad():
        fake = model.generator(real, targets)
    set_requires_grad([model.discriminator], True)
    model.optimizer_d.zero_grad()
    scores, logits = model.discriminator(real)
    loss_d = model.discriminator(fake)[0].mean() - scores.mean()
    loss_labels = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(labels)
    penalty = gradient_penalty(model.discriminator, real, fake)
    (loss_d + loss_labels + 10.0 * penalty).backward()
    model.optimizer_d.step()
    losses = {"D": loss_d, "D labels": loss_labels, "penalty": penalty}

    model.iteration += 1
    if model.iteration % model.critic == 0:
        set_requires_grad([model.discriminator], False)
        model.optimizer_g.zero_grad()
        fake = model.generator(real, targets)
        scores, logits = model.discriminator(fake)
        loss_g = -scores.mean()
        loss_labels = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(labels)
        loss_rebuild = 10.0 * F.l1_loss(model.generator(fake, labels), real)
        (loss_g + loss_labels + loss_rebuild).backward()
        model.optimizer_g.step()
        losses |= {"G": loss_g, "G labels": loss_labels, "rebuild": loss_rebuild}
    return {name: loss.detach() for name, loss in losses.items()}


@dataclass(frozen=True)
class Options(ImageOptions):
    batch_size: int = 4


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(Options, __doc__, arguments)
    images, labels = faces(options, ATTRIBUTES)
    model = build(options.image_size).to(options.device)
    report = igan_fast.fuse(model) if options.fuse else "not fused"
    train(model, training_step, shuffled([images, labels], options.batch_size, options.seed), options)
    print(report)
    rows = {"real": images[:8]}
    for index, name in enumerate(ATTRIBUTES):
        reversed_ = labels[:8].clone()
        reversed_[:, index] = 1 - reversed_[:, index]
        with torch.no_grad():
            rows[f"{name} ⇄"] = model.generator(images[:8], reversed_)
    save_images(rows, options.out)


if __name__ == "__main__":
    main()
