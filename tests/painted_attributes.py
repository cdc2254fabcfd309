"""A judge that reads attributes from colours, and models that paint them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igan_fast.baselines.cnn import AttributeCNN


class ChannelJudge(AttributeCNN):
    """Attribute k is there if channel k is brighter than half."""

    def __init__(self) -> None:
        super().__init__(32, 3)
        self.labels = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.labels.weight.copy_(100 * torch.eye(3))
        self.eval()

    def pooled(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class Painter(nn.Module):
    """A model that recognises as ``ChannelJudge`` does, and paints its labels: edits show at once. The attributes in
    ``ignored`` do not reach the image: their channel is bright, whatever the label."""

    def __init__(self, *ignored: int) -> None:
        super().__init__()
        self.ignored = list(ignored)

    def arguments(self) -> dict[str, int]:
        return {"image_size": 32, "attributes": 3, "latent": 2}

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(x), 2), 100 * x.mean(dim=(2, 3))

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        assert z.shape == (len(c), 2)
        channels = c.clone()
        channels[:, self.ignored] = 1
        return (2 * channels - 1)[:, :, None, None].expand(-1, -1, 32, 32)


class Copier(Painter):
    """A model that ignores its labels: it draws the photo again, of which z holds the three colours."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        colours = x.mean(dim=(2, 3))
        return colours, 100 * colours

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        return z[:, :, None, None].expand(-1, -1, 32, 32)


def colours(*rows: tuple[int, int, int]) -> NDArray[np.uint8]:
    """An image of 32×32 pixels for each colour."""
    return np.array(rows, np.uint8)[:, None, None, :].repeat(32, axis=1).repeat(32, axis=2)
