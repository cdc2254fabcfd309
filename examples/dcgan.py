"""DCGAN (Radford et al., 2016, arXiv 1511.06434), after the example of github.com/pytorch/examples.

By default 64² and batches of 32, the original's widths: 20 iterations take under a minute on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import ImageOptions, faces, normal_weights, options_of, save_images, shuffled, train
from torch import Tensor, nn

import igan_fast


class Generator(nn.Module):
    def __init__(self, image_size: int, latent: int, width: int) -> None:
        super().__init__()
        channels = width * image_size // 8
        layers = [nn.ConvTranspose2d(latent, channels, 4, 1, 0, bias=False), nn.BatchNorm2d(channels), nn.ReLU(True)]
        while channels > width:
            layers += [
                nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(True),
            ]
            channels //= 2
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


class Discriminator(nn.Module):
    def __init__(self, image_size: int, width: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        channels = width
        while channels < width * image_size // 8:
            layers += [
                nn.Conv2d(channels, channels * 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(channels * 2),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            channels *= 2
        self.main = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 0, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        return self.main(images).flatten()


class Dcgan(nn.Module):
    """Both networks and their optimisers."""

    def __init__(self, image_size: int, latent: int, width: int) -> None:
        super().__init__()
        self.latent = latent
        self.generator = Generator(image_size, latent, width).apply(normal_weights)
        self.discriminator = Discriminator(image_size, width).apply(normal_weights)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def noise(self, images: Tensor) -> Tensor:
        return torch.randn(len(images), self.latent, 1, 1, dtype=images.dtype, device=images.device)


def build(image_size: int = 64, latent: int = 100, width: int = 64) -> Dcgan:
    return Dcgan(image_size, latent, width)


def adversarial(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def training_step(model: Dcgan, batch: tuple[Tensor]) -> dict[str, Tensor]:
    """One update of the discriminator, then one of the generator."""
    (real,) = batch
    fake = model.generator(model.noise(real))

    model.optimizer_d.zero_grad()
    loss_real = adversarial(model.discriminator(real), 1.0)
    loss_fake = adversarial(model.discriminator(fake.detach()), 0.0)
    (loss_real + loss_fake).backward()
    model.optimizer_d.step()

    model.optimizer_g.zero_grad()
    loss_g = adversarial(model.discriminator(fake), 1.0)
    loss_g.backward()
    model.optimizer_g.step()
    return {"D real": loss_real.detach(), "D fake": loss_fake.detach(), "G": loss_g.detach()}


@dataclass(frozen=True)
class Options(ImageOptions):
    batch_size: int = 32


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(Options, __doc__, arguments)
    images, _ = faces(options)
    model = build(options.image_size).to(options.device)
    report = igan_fast.fuse(model) if options.fuse else "not fused"
    train(model, training_step, shuffled([images], options.batch_size, options.seed), options)
    print(report)
    with torch.no_grad():
        save_images({"real": images[:8], "noise": model.eval().generator(model.noise(images[:8]))}, options.out)


if __name__ == "__main__":
    main()
