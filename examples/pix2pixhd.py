"""pix2pixHD (Wang et al., 2018, arXiv 1711.11585), after github.com/NVIDIA/pix2pixHD.

The global generator makes a face from a label map. Discriminators at two scales return their feature maps for the
feature matching loss. The original's VGG loss is left out, because its weights would have to be downloaded. By default
64², four residual blocks at half the original's width and batches of 4: 20 iterations take under a minute on two cores.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import ImageOptions, faces, normal_weights, options_of, save_images, set_requires_grad, shuffled, train
from torch import Tensor, nn

import igan_fast
from igan_fast.losses import FeatureMatchingLoss

LABELS = 6
Features = list[list[Tensor]]
norm_layer = functools.partial(nn.InstanceNorm2d, affine=False)


class ResnetBlock(nn.Module):
    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        conv_block = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), norm_layer(channels), activation]
        conv_block += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), norm_layer(channels)]
        self.conv_block = nn.Sequential(*conv_block)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class GlobalGenerator(nn.Module):
    def __init__(self, width: int, blocks: int, downsampling: int = 3) -> None:
        super().__init__()
        activation = nn.ReLU(True)  # one module, used everywhere
        model = [nn.ReflectionPad2d(3), nn.Conv2d(LABELS, width, 7), norm_layer(width), activation]
        channels = width
        for _ in range(downsampling):
            model += [nn.Conv2d(channels, channels * 2, 3, 2, 1), norm_layer(channels * 2), activation]
            channels *= 2
        model += [ResnetBlock(channels, activation) for _ in range(blocks)]
        for _ in range(downsampling):
            model += [nn.ConvTranspose2d(channels, channels // 2, 3, 2, 1, 1), norm_layer(channels // 2), activation]
            channels //= 2
        self.model = nn.Sequential(*model, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, labels: Tensor) -> Tensor:
        return self.model(labels)


class MultiscaleDiscriminator(nn.Module):
    """Returns for each scale the outputs of all layers; the last of them is the map of scores."""

    def __init__(self, width: int, scales: int = 2, layers: int = 3) -> None:
        super().__init__()
        self.scales, self.layers = scales, layers + 2
        for scale in range(scales):
            sequence = [[nn.Conv2d(LABELS + 3, width, 4, 2, 2), nn.LeakyReLU(0.2, True)]]
            channels = width
            for n in range(1, layers + 1):
                conv = nn.Conv2d(channels, channels * 2, 4, 2 if n < layers else 1, 2)
                sequence += [[conv, norm_layer(channels * 2), nn.LeakyReLU(0.2, True)]]
                channels *= 2
            sequence += [[nn.Conv2d(channels, 1, 4, 1, 2)]]
            for index, part in enumerate(sequence):
                setattr(self, f"scale{scale}_layer{index}", nn.Sequential(*part))
        self.downsample = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    def forward(self, x: Tensor) -> Features:
        result = []
        for scale in reversed(range(self.scales)):
            features = [x]
            for index in range(self.layers):
                features.append(getattr(self, f"scale{scale}_layer{index}")(features[-1]))
            result.append(features[1:])
            x = self.downsample(x)
        return result


class Pix2pixHd(nn.Module):
    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.generator = GlobalGenerator(width, blocks).apply(normal_weights)
        self.discriminator = MultiscaleDiscriminator(width).apply(normal_weights)
        self.feature_matching = FeatureMatchingLoss.pix2pixhd(weight=10.0)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))


def build(image_size: int = 64, width: int = 32, blocks: int = 4) -> Pix2pixHd:
    """The networks accept images of any size; ``image_size`` is here because the other examples have it."""
    return Pix2pixHd(width, blocks)


def adversarial(features: Features, target: float) -> Tensor:
    return sum(F.mse_loss(scale[-1], torch.full_like(scale[-1], target)) for scale in features)


def training_step(model: Pix2pixHd, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """One update of the generator, then one of the discriminator."""
    labels, real = batch
    fake = model.generator(labels)
    set_requires_grad([model.discriminator], False)
    model.optimizer_g.zero_grad()
    fake_features = model.discriminator(torch.cat([labels, fake], 1))
    with torch.no_grad():
        real_features = model.discriminator(torch.cat([labels, real], 1))
    loss_g = adversarial(fake_features, 1.0)
    loss_features = model.feature_matching(fake_features, real_features)
    (loss_g + loss_features).backward()
    model.optimizer_g.step()

    set_requires_grad([model.discriminator], True)
    model.optimizer_d.zero_grad()
    loss_fake = adversarial(model.discriminator(torch.cat([labels, fake.detach()], 1)), 0.0)
    loss_real = adversarial(model.discriminator(torch.cat([labels, real], 1)), 1.0)
    (0.5 * (loss_fake + loss_real)).backward()
    model.optimizer_d.step()
    losses = {"G": loss_g, "features": loss_features, "D": (loss_fake + loss_real) / 2}
    return {name: loss.detach() for name, loss in losses.items()}


def labels_of(images: Tensor) -> Tensor:
    """A one-hot map of levels of brightness (N, LABELS, S, S), in place of a segmentation."""
    smooth = F.avg_pool2d(images.mean(1), 5, stride=1, padding=2)
    return F.one_hot(((smooth + 1) / 2 * LABELS).long().clamp(0, LABELS - 1), LABELS).movedim(-1, 1).to(images)


@dataclass(frozen=True)
class Options(ImageOptions):
    batch_size: int = 4


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(Options, __doc__, arguments)
    images, _ = faces(options)
    pairs = labels_of(images), images
    model = build(options.image_size).to(options.device)
    report = igan_fast.fuse(model) if options.fuse else "not fused"
    train(model, training_step, shuffled(pairs, options.batch_size, options.seed), options)
    print(report)
    shown = pairs[0][:8].argmax(1, keepdim=True).expand(-1, 3, -1, -1) / (LABELS - 1) * 2 - 1
    with torch.no_grad():
        save_images({"labels": shown, "painted": model.generator(pairs[0][:8]), "real": images[:8]}, options.out)


if __name__ == "__main__":
    main()
