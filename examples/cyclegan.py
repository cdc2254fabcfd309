"""CycleGAN (Zhu et al., 2017, arXiv 1703.10593), after github.com/junyanz/pytorch-CycleGAN-and-pix2pix.

Two ResNet generators change women's faces into men's, and men's into women's. Each is trained against a PatchGAN
discriminator (that of ``pix2pix.py``).
By default 64², six residual blocks at half the original's width and batches of 2: 20 iterations take under a minute on
two cores.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import ImageOptions, faces, normal_weights, options_of, save_images, set_requires_grad, shuffled, train
from pix2pix import NormLayer, PatchDiscriminator
from torch import Tensor, nn

import igan_fast

INSTANCE_NORM = functools.partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)


class ResnetBlock(nn.Module):
    def __init__(self, channels: int, norm_layer: NormLayer) -> None:
        super().__init__()
        conv_block = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), norm_layer(channels), nn.ReLU(True)]
        conv_block += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), norm_layer(channels)]
        self.conv_block = nn.Sequential(*conv_block)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResnetGenerator(nn.Module):
    def __init__(self, width: int, blocks: int, norm_layer: NormLayer) -> None:
        super().__init__()
        model = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), norm_layer(width), nn.ReLU(True)]
        for channels in (width, width * 2):
            model += [nn.Conv2d(channels, channels * 2, 3, 2, 1), norm_layer(channels * 2), nn.ReLU(True)]
        model += [ResnetBlock(width * 4, norm_layer) for _ in range(blocks)]
        for channels in (width * 4, width * 2):
            model += [
                nn.ConvTranspose2d(channels, channels // 2, 3, 2, 1, output_padding=1),
                norm_layer(channels // 2),
                nn.ReLU(True),
            ]
        self.model = nn.Sequential(*model, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class ImagePool:
    """The last 50 generated images. Half of the time the discriminator gets an older one instead of a new one."""

    def __init__(self, size: int = 50) -> None:
        self.size, self.images = size, list[Tensor]()
        self.random = random.Random(0)

    def query(self, images: Tensor) -> Tensor:
        chosen = []
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image)
            elif self.random.random() < 0.5:
                index = self.random.randrange(self.size)
                image, self.images[index] = self.images[index], image
            chosen.append(image)
        return torch.stack(chosen)


class CycleGan(nn.Module):
    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.to_b = ResnetGenerator(width, blocks, INSTANCE_NORM).apply(normal_weights)
        self.to_a = ResnetGenerator(width, blocks, INSTANCE_NORM).apply(normal_weights)
        self.discriminator_a = PatchDiscriminator(3, width, INSTANCE_NORM).apply(normal_weights)
        self.discriminator_b = PatchDiscriminator(3, width, INSTANCE_NORM).apply(normal_weights)
        generators = itertools.chain(self.to_a.parameters(), self.to_b.parameters())
        discriminators = itertools.chain(self.discriminator_a.parameters(), self.discriminator_b.parameters())
        self.optimizer_g = torch.optim.Adam(generators, lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(discriminators, lr=2e-4, betas=(0.5, 0.999))
        self.pool_a, self.pool_b = ImagePool(), ImagePool()


def build(image_size: int = 64, width: int = 32, blocks: int = 6) -> CycleGan:
    """The networks accept images of any size; ``image_size`` is here because the other examples have it."""
    return CycleGan(width, blocks)


def adversarial(scores: Tensor, target: float) -> Tensor:
    return F.mse_loss(scores, torch.full_like(scores, target))


def training_step(model: CycleGan, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """One update of both generators, then one of both discriminators."""
    real_a, real_b = batch
    discriminators = [model.discriminator_a, model.discriminator_b]
    set_requires_grad(discriminators, False)
    model.optimizer_g.zero_grad()
    fake_b, fake_a = model.to_b(real_a), model.to_a(real_b)
    loss_g = adversarial(model.discriminator_b(fake_b), 1.0) + adversarial(model.discriminator_a(fake_a), 1.0)
    loss_cycle = 10.0 * (F.l1_loss(model.to_a(fake_b), real_a) + F.l1_loss(model.to_b(fake_a), real_b))
    loss_same = 5.0 * (F.l1_loss(model.to_b(real_b), real_b) + F.l1_loss(model.to_a(real_a), real_a))
    (loss_g + loss_cycle + loss_same).backward()
    model.optimizer_g.step()

    set_requires_grad(discriminators, True)
    model.optimizer_d.zero_grad()
    losses_d = []
    for network, real, fake in (
        (model.discriminator_a, real_a, model.pool_a.query(fake_a)),
        (model.discriminator_b, real_b, model.pool_b.query(fake_b)),
    ):
        losses_d.append(0.5 * (adversarial(network(real), 1.0) + adversarial(network(fake), 0.0)))
        losses_d[-1].backward()
    model.optimizer_d.step()
    losses = {"G": loss_g, "cycle": loss_cycle, "identity": loss_same, "D": losses_d[0] + losses_d[1]}
    return {name: loss.detach() for name, loss in losses.items()}


def unpaired(a: Tensor, b: Tensor, options: ImageOptions) -> Iterator[tuple[Tensor, Tensor]]:
    batches = (shuffled([images], options.batch_size, options.seed + i) for i, images in enumerate((a, b)))
    return ((batch_a, batch_b) for (batch_a,), (batch_b,) in zip(*batches, strict=False))


@dataclass(frozen=True)
class Options(ImageOptions):
    batch_size: int = 2


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(Options, __doc__, arguments)
    images, labels = faces(options, ["Male"])
    women, men = images[labels[:, 0] == 0], images[labels[:, 0] == 1]
    model = build(options.image_size).to(options.device)
    report = igan_fast.fuse(model) if options.fuse else "not fused"
    train(model, training_step, unpaired(women, men, options), options)
    print(report)
    with torch.no_grad():
        changed, back = model.to_b(women[:8]), model.to_a(model.to_b(women[:8]))
    save_images({"real": women[:8], "changed": changed, "and back": back}, options.out)


if __name__ == "__main__":
    main()
