"""Draws the sample grid of a baseline during training: edits of held-out faces, or faces from noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from igan_fast.baselines.interface import BaselineNetworks
from igan_fast.data.loader import to_float
from igan_fast.data.store import FaceStore
from igan_fast.metrics import in_eval_mode
from igan_fast.train.grids import grid
from igan_fast.train.samples import shown_rows, to_arrays

__all__ = ["draw_samples"]


def draw_samples(
    networks: BaselineNetworks, store: FaceStore, *, flipped: Sequence[str], seed: int, device: torch.device
) -> Image.Image:
    """Draw what the networks do: photos and their edits, or faces from noise with the labels of the photos.

    Args:
        networks: on ``device``. Their training mode is restored at the end.
        store: the source of the photos. They are held-out ones if there are any, and the same at each call.
        flipped: the names of the attributes to flip in edits, or to show absent and present in generated faces.
        seed: the seed of the noise.
    """
    rows = shown_rows(store)
    photos = store.images[rows]
    labels = torch.from_numpy(store.labels[rows]).to(device, torch.float32)
    images = to_float(torch.from_numpy(photos).to(device)).contiguous()
    with in_eval_mode(networks):
        if networks.edits:
            drawn = {"real": photos} | {
                f"{name} ⇄": _flipped(networks, images, labels, store.attributes.index(name)) for name in flipped
            }
        else:
            noise = networks.draw_noise(len(rows), torch.Generator().manual_seed(seed)).to(device)
            drawn = {"noise, labels of the photos": to_arrays(networks.generate(noise, labels))} | {
                f"noise, {name}={value}": to_arrays(
                    networks.generate(noise, labels.index_fill(1, _column(store, name, device), value))
                )
                for name in flipped[:1]
                for value in (0, 1)
            }
    return grid(list(drawn.values()), list(drawn))


def _flipped(networks: BaselineNetworks, images: Tensor, labels: Tensor, index: int) -> NDArray[np.uint8]:
    """Edit each photo so that it gets the attribute if it has not, and loses it if it has."""
    absent = networks.edit(images, labels, {index: 0.0})
    present = networks.edit(images, labels, {index: 1.0})
    has = labels[:, index, None, None, None] > 0.5
    return to_arrays(torch.where(has, absent, present))


def _column(store: FaceStore, name: str, device: torch.device) -> Tensor:
    return torch.tensor([store.attributes.index(name)], device=device)
