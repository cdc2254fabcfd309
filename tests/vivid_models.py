"""Untrained models whose pictures differ visibly."""

from __future__ import annotations

import torch

from igan_fast.reference import IterativeGAN

__all__ = ["vivid"]


@torch.no_grad()
def vivid(model: IterativeGAN) -> IterativeGAN:
    """Give a model the running statistics of its activations, and strong colours. Return it."""
    side = model.arguments()["image_size"]
    for _ in range(60):  # until the running statistics are those of the activations
        model.rebuild(torch.rand(16, 3, side, side) * 2 - 1)
    model.generator.to_rgb.weight.mul_(10)
    return model
