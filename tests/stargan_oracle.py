"""StarGAN's networks written a second time, and small ones for tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from baseline_runs import instance_norm
from torch import Tensor, nn

from igan_fast.baselines.stargan import StarGANNetworks

__all__ = ["ATTRIBUTES", "generate", "judge", "networks"]

ATTRIBUTES = 3


def networks(size: int = 32, dtype: torch.dtype = torch.float64, width: int = 4) -> StarGANNetworks:
    """The same initial weights for every dtype, with scales and shifts of the normalisations that are not 1 and 0."""
    torch.manual_seed(5)
    made = StarGANNetworks(size, ATTRIBUTES, width=width)
    for module in made.modules():
        if isinstance(module, nn.InstanceNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return made.to(dtype)


def generate(weights: list[Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """The generator, written a second time, from its parameters in their order."""
    left = iter(weights)

    def normalised(x: Tensor) -> Tensor:
        return instance_norm(x, next(left), next(left))

    n, _, height, width = images.shape
    maps = torch.ones(n, labels.shape[1], height, width, dtype=images.dtype) * labels.view(n, -1, 1, 1)
    x = normalised(F.conv2d(torch.cat([images, maps], 1), next(left), padding=3)).clamp(min=0)
    for _ in range(2):
        x = normalised(F.conv2d(x, next(left), stride=2, padding=1)).clamp(min=0)
    for _ in range(6):
        inner = normalised(F.conv2d(x, next(left), padding=1)).clamp(min=0)
        x = x + normalised(F.conv2d(inner, next(left), padding=1))
    for _ in range(2):
        x = normalised(F.conv_transpose2d(x, next(left), stride=2, padding=1)).clamp(min=0)
    x = F.conv2d(x, next(left), padding=3).tanh()
    assert not list(left)
    return x


def judge(weights: list[Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """The discriminator, written a second time, from its parameters in their order."""
    *strided, source, labels = weights
    x = images
    for weight, bias in zip(strided[::2], strided[1::2], strict=True):
        x = F.conv2d(x, weight, bias, stride=2, padding=1)
        x = torch.where(x > 0, x, 0.01 * x)
    return F.conv2d(x, source, padding=1), (x.unsqueeze(1) * labels).sum((2, 3, 4))
