"""The random inputs of a run's iterations: the noise z, and the attributes to flip in edited rebuilds."""

from __future__ import annotations

import torch
from torch import Tensor

from igan_fast.reference import draw_flips
from igan_fast.train.config import TrainConfig

__all__ = ["RandomInputs"]


class RandomInputs:
    """Draws the inputs on the CPU, so that a run that is resumed on another device draws the same ones.

    Args:
        config: the config of the run.
        attributes: the number of attributes.
        device: where the inputs are used.
    """

    def __init__(self, config: TrainConfig, attributes: int, device: torch.device) -> None:
        self.generator = torch.Generator().manual_seed(config.seed)
        self._batch_size, self._latent, self._attributes = config.batch_size, config.latent, attributes
        self._edited_share = config.step_config().edited_share
        self._device = device

    def noise(self) -> Tensor:
        """Draw z ~ U(−1, 1), (batch, latent)."""
        shape = (self._batch_size, self._latent)
        # In pinned memory and scaled in place, because the host would wait for a copy from other memory.
        drawn = torch.rand(shape, generator=self.generator, pin_memory=self._device.type == "cuda")
        return drawn.mul_(2).sub_(1).to(self._device, non_blocking=True)

    def flips(self) -> Tensor | None:
        """Draw the attributes to flip, (batch, attributes) of bool; None in a run without edited rebuilds."""
        if not self._edited_share:
            return None
        flips = draw_flips(self._batch_size, self._attributes, self._edited_share, generator=self.generator)
        return flips.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else flips
