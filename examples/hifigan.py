"""HiFi-GAN (Kong et al., 2020, arXiv 2010.05646), after github.com/jik876/hifi-gan.

A generator makes sound from a mel spectrogram; discriminators of several periods and scales return lists of lists of
feature maps. ``fuse`` computes their 1-D convolutions, which are under weight norm; igan_fast computes the feature
matching loss over some fifty feature maps. By default an eighth of the original's widths, 2,048 samples of synthetic
notes at 8 kHz and batches of 8: 20 iterations take under a minute on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import Options as CommonOptions
from common import options_of, set_requires_grad, shuffled, train
from hifigan_networks import Generator, PeriodDiscriminator, ScaleDiscriminator
from sound import log_mel, notes
from torch import Tensor, nn

import igan_fast
from igan_fast.losses import FeatureMatchingLoss

Scores = list[Tensor]
Features = list[list[Tensor]]


class HifiGan(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.generator = Generator(width)
        discriminators = [PeriodDiscriminator(period, width // 16) for period in (2, 3, 5, 7, 11)]
        discriminators += [ScaleDiscriminator(pool, width // 16) for pool in (1, 2, 4)]
        self.discriminators = nn.ModuleList(discriminators)
        self.feature_matching = FeatureMatchingLoss.hifigan(weight=2.0)
        self.optimizer_g = torch.optim.AdamW(self.generator.parameters(), lr=2e-4, betas=(0.8, 0.99))
        self.optimizer_d = torch.optim.AdamW(self.discriminators.parameters(), lr=2e-4, betas=(0.8, 0.99))

    def discriminate(self, sound: Tensor) -> tuple[Scores, Features]:
        scores, features = zip(*(discriminator(sound) for discriminator in self.discriminators), strict=True)
        return list(scores), list(features)


def build(width: int = 64) -> HifiGan:
    return HifiGan(width)


def adversarial(scores: Scores, target: float) -> Tensor:
    return sum(((score - target) ** 2).mean() for score in scores)


def training_step(model: HifiGan, batch: tuple[Tensor]) -> dict[str, Tensor]:
    """One update of the discriminators, then one of the generator."""
    (real,) = batch
    mel = log_mel(real)
    fake = model.generator(mel)
    set_requires_grad([model.discriminators], True)
    model.optimizer_d.zero_grad()
    loss_d = adversarial(model.discriminate(real)[0], 1.0) + adversarial(model.discriminate(fake.detach())[0], 0.0)
    loss_d.backward()
    model.optimizer_d.step()

    set_requires_grad([model.discriminators], False)
    model.optimizer_g.zero_grad()
    scores, fake_features = model.discriminate(fake)
    with torch.no_grad():
        _, real_features = model.discriminate(real)
    loss_g = adversarial(scores, 1.0)
    loss_features = model.feature_matching(fake_features, real_features)
    loss_mel = 45.0 * F.l1_loss(log_mel(fake), mel)
    (loss_g + loss_features + loss_mel).backward()
    model.optimizer_g.step()
    losses = {"D": loss_d, "G": loss_g, "features": loss_features, "mel": loss_mel}
    return {name: loss.detach() for name, loss in losses.items()}


@dataclass(frozen=True)
class Options(CommonOptions):
    batch_size: int = 8
    samples: int = 2048
    """Samples per sound; a multiple of HOP."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(Options, __doc__, arguments)
    sounds = notes(256, options.samples, options.seed).to(options.device)
    model = build().to(options.device)
    report = igan_fast.fuse(model) if options.fuse else "not fused"
    train(model, training_step, shuffled([sounds], options.batch_size, options.seed), options)
    print(report)


if __name__ == "__main__":
    main()
