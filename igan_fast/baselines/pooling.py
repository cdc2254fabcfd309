"""Turns the feature maps of a network into one vector for each photo (Radford et al., ICLR 2016, Sec. 5.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.data.loader import to_float
from igan_fast.data.store import FaceStore
from igan_fast.errors import InputError

__all__ = ["Features", "feature_count", "features_of", "pooled_features"]

#: Images (N, 3, S, S) float32 in [−1, 1] → the feature maps (N, C, H, W) of one layer after the other.
Features = Callable[[Tensor], Sequence[Tensor]]

#: Rows and columns of the grid that a feature map is pooled to.
GRID = 4


def pooled_features(maps: Sequence[Tensor]) -> Tensor:
    """Max-pool each feature map to a grid of 4×4, and concatenate.

    Radford et al. pool windows of the same size that do not overlap. They have only sides that are multiples of 4,
    and there this does the same. Other sides are divided as ``torch.nn.functional.adaptive_max_pool2d`` does, so that
    every value counts (windows of one size would leave out the last rows, or give a larger grid). A side of less than
    4 keeps its length: repeated values would add nothing but weight.

    Args:
        maps: one (N, C, H, W) for each layer, floating-point; H and W at least 1.

    Returns:
        (N, F) float32. F is the sum of C · min(H, 4) · min(W, 4) over the layers.

    Raises:
        ValueError: there is no map, one has other dimensions or no values, or they are of different N.
    """
    shapes = [tuple(each.shape) for each in maps]
    if not shapes or any(len(shape) != 4 or 0 in shape[1:] or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(f"found feature maps of shapes {shapes}; expected (N, C, H, W), at least one, with one N")
    parts = []
    for each in maps:
        grid = (min(GRID, each.shape[2]), min(GRID, each.shape[3]))
        parts.append(F.adaptive_max_pool2d(each.float(), grid).flatten(1))
    return torch.cat(parts, 1)


def features_of(features: Features, images: NDArray[np.uint8] | Tensor, device: torch.device) -> Tensor:
    """Images (N, S, S, 3) uint8 → pooled features (N, F) float32, on ``device``."""
    with torch.inference_mode():
        return pooled_features(features(to_float(torch.as_tensor(images).to(device))))


def feature_count(features: Features, store: FaceStore, device: torch.device) -> int:
    """Return F, found by a photo.

    Raises:
        InputError: the store has no training photos.
    """
    rows = store.splits["train"]
    if not len(rows):
        raise InputError("the store has no training photos, expected at least 1")
    return features_of(features, store.images[rows[:1]], device).shape[1]
