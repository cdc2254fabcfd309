"""pix2pix (Isola et al., 2017, arXiv 1611.07004), after github.com/junyanz/pytorch-CycleGAN-and-pix2pix.

A U-Net made of nested blocks generates a face from its outlines; the discriminator, a 70×70 PatchGAN, gets the outlines
and the face. By default 64², half the original's widths and batches of 8: 20 iterations take under a minute on two
cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import ImageOptions, faces, normal_weights, options_of, save_images, set_requires_grad, shuffled, train
from torch import Tensor, nn

import igan_fast

NormLayer = Callable[[int], nn.Module]


class UnetSkipConnectionBlock(nn.Module):
    """Downsampling, a submodule, upsampling; the input is concatenated to the output."""

    def __init__(
        self,
        outer: int,
        inner: int,
        submodule: nn.Module | None,
        norm_layer: NormLayer,
        *,
        channels_in: int | None = None,
        dropout: bool = False,
    ) -> None:
        super().__init__()
        self.outermost = channels_in is not None
        bias = not _is_affine(norm_layer)
        down_conv = nn.Conv2d(channels_in or outer, inner, 4, 2, 1, bias=bias)
        down_relu, up_relu = nn.LeakyReLU(0.2, True), nn.ReLU(True)
        up_channels = inner if submodule is None else 2 * inner
        if self.outermost:
            model = [down_conv, submodule, up_relu, nn.ConvTranspose2d(up_channels, outer, 4, 2, 1), nn.Tanh()]
        else:
            up_conv = nn.ConvTranspose2d(up_channels, outer, 4, 2, 1, bias=bias)
            within = [] if submodule is None else [norm_layer(inner), submodule]
            model = [down_relu, down_conv, *within, up_relu, up_conv, norm_layer(outer)]
            model += [nn.Dropout(0.5)] if dropout else []
        self.model = nn.Sequential(*model)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class UnetGenerator(nn.Module):
    """A U-Net with as many blocks as it takes to halve the image to one pixel."""

    def __init__(self, image_size: int, width: int, norm_layer: NormLayer) -> None:
        super().__init__()
        depth = image_size.bit_length() - 1
        block = UnetSkipConnectionBlock(width * 8, width * 8, None, norm_layer)
        for _ in range(depth - 5):
            block = UnetSkipConnectionBlock(width * 8, width * 8, block, norm_layer, dropout=True)
        for outer in (4, 2, 1):
            block = UnetSkipConnectionBlock(width * outer, width * outer * 2, block, norm_layer)
        self.model = UnetSkipConnectionBlock(3, width, block, norm_layer, channels_in=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PatchDiscriminator(nn.Module):
    """70×70 PatchGAN: returns a map of logits, each for a patch of 70×70 pixels."""

    def __init__(self, channels_in: int, width: int, norm_layer: NormLayer) -> None:
        super().__init__()
        bias = not _is_affine(norm_layer)
        sequence = [nn.Conv2d(channels_in, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for channels, stride in ((width, 2), (width * 2, 2), (width * 4, 1)):
            sequence += [
                nn.Conv2d(channels, channels * 2, 4, stride, 1, bias=bias),
                norm_layer(channels * 2),
                nn.LeakyReLU(0.2, True),
            ]
        self.model = nn.Sequential(*sequence, nn.Conv2d(width * 8, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _is_affine(norm_layer: NormLayer) -> bool:
    """Whether the norm has a weight and a bias. Then a bias of the convolution before it is redundant."""
    return norm_layer(1).weight is not None


class Pix2pix(nn.Module):
    def __init__(self, image_size: int, width: int) -> None:
        super().__init__()
        self.generator = UnetGenerator(image_size, width, nn.BatchNorm2d).apply(normal_weights)
        self.discriminator = PatchDiscriminator(6, width, nn.BatchNorm2d).apply(normal_weights)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))


def build(image_size: int = 64, width: int = 32) -> Pix2pix:
    return Pix2pix(image_size, width)


def adversarial(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def training_step(model: Pix2pix, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """One update of the discriminator, then one of the generator."""
    outlines, real = batch
    fake = model.generator(outlines)

    set_requires_grad([model.discriminator], True)
    model.optimizer_d.zero_grad()
    loss_fake = adversarial(model.discriminator(torch.cat([outlines, fake.detach()], 1)), 0.0)
    loss_real = adversarial(model.discriminator(torch.cat([outlines, real], 1)), 1.0)
    (0.5 * (loss_fake + loss_real)).backward()
    model.optimizer_d.step()

    set_requires_grad([model.discriminator], False)
    model.optimizer_g.zero_grad()
    loss_g = adversarial(model.discriminator(torch.cat([outlines, fake], 1)), 1.0)
    loss_l1 = 100.0 * F.l1_loss(fake, real)
    (loss_g + loss_l1).backward()
    model.optimizer_g.step()
    return {"D": (loss_fake + loss_real).detach() / 2, "G": loss_g.detach(), "L1": loss_l1.detach()}


def outlines_of(images: Tensor) -> Tensor:
    """Dark lines where brightness changes from pixel to pixel, on white: (N, 3, S, S) in [−1, 1]."""
    grey = F.pad(images.mean(1, keepdim=True), (1, 0, 1, 0), mode="replicate")
    change = (grey[..., 1:, 1:] - grey[..., 1:, :-1]).abs() + (grey[..., 1:, 1:] - grey[..., :-1, 1:]).abs()
    return (1 - 4 * change).clamp(-1, 1).expand_as(images)


@dataclass(frozen=True)
class Options(ImageOptions):
    batch_size: int = 8


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(Options, __doc__, arguments)
    images, _ = faces(options)
    pairs = outlines_of(images), images
    model = build(options.image_size).to(options.device)
    report = igan_fast.fuse(model) if options.fuse else "not fused"
    train(model, training_step, shuffled(pairs, options.batch_size, options.seed), options)
    print(report)
    with torch.no_grad():  # in training mode, as in the original, where dropout is the noise
        save_images({"outlines": pairs[0][:8], "drawn": model.generator(pairs[0][:8]), "real": images[:8]}, options.out)


if __name__ == "__main__":
    main()
