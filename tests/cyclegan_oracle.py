"""CycleGAN's networks written a second time, small ones for tests, and photos for them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from baseline_runs import batches, instance_norm
from torch import Tensor

from igan_fast.baselines.cyclegan import CycleGANNetworks
from igan_fast.baselines.interface import LabelledImages

__all__ = ["generate", "judge", "networks", "pairs"]


def networks(size: int = 32, dtype: torch.dtype = torch.float64, width: int = 4) -> CycleGANNetworks:
    torch.manual_seed(5)
    return CycleGANNetworks(size, width=width).to(dtype)


def pairs(count: int, **options) -> list[list[LabelledImages]]:
    """Photos of both domains for ``count`` iterations."""
    return batches(count, **({"n": 1, "attributes": 1, "domains": 2} | options))


def generate(weights: list[Tensor], x: Tensor, blocks: int = 6) -> Tensor:
    """A generator, written a second time, from its parameters in their order."""
    *left, bias = weights
    left = iter(left)

    def reflected(x: Tensor, pixels: int) -> Tensor:
        rows = [*range(pixels, 0, -1), *range(x.shape[2]), *range(x.shape[2] - 2, x.shape[2] - 2 - pixels, -1)]
        return x[:, :, rows][:, :, :, rows]

    x = instance_norm(F.conv2d(reflected(x, 3), next(left))).clamp(min=0)
    for _ in range(2):
        x = instance_norm(F.conv2d(x, next(left), stride=2, padding=1)).clamp(min=0)
    for _ in range(blocks):
        inner = instance_norm(F.conv2d(reflected(x, 1), next(left))).clamp(min=0)
        x = x + instance_norm(F.conv2d(reflected(inner, 1), next(left)))
    for _ in range(2):
        x = F.conv_transpose2d(x, next(left), stride=2, padding=1, output_padding=1)
        x = instance_norm(x).clamp(min=0)
    x = F.conv2d(reflected(x, 3), next(left), bias).tanh()
    assert not list(left)
    return x


def judge(weights: list[Tensor], x: Tensor) -> Tensor:
    """A discriminator, written a second time, from its parameters in their order."""
    first, first_bias, second, third, fourth, last, last_bias = weights

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    x = leaky(F.conv2d(x, first, first_bias, stride=2, padding=1))
    x = leaky(instance_norm(F.conv2d(x, second, stride=2, padding=1)))
    x = leaky(instance_norm(F.conv2d(x, third, stride=2, padding=1)))
    x = leaky(instance_norm(F.conv2d(x, fourth, padding=1)))
    return F.conv2d(x, last, last_bias, padding=1)
