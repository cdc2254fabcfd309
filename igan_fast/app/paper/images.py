"""What methods make of arrays of photos: rebuilds, edits and faces as uint8, in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.app.observation import BATCH
from igan_fast.app.paper.methods import FaceGenerator, Method, PhotoEditor, Rebuilder
from igan_fast.data import to_float, to_uint8
from igan_fast.errors import InputError

__all__ = ["NotFinite", "edited", "flipped", "generated", "rebuilt"]


class NotFinite(InputError):
    """The images of a method are NaN or infinite: its training has diverged."""


def rebuilt(method: Rebuilder, photos: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Photos (N, S, S, 3) → their rebuilds. Raises ``NotFinite``."""
    return _in_batches(method, lambda x: method.rebuild(to_float(x)), photos)


def edited(
    method: PhotoEditor, photos: NDArray[np.uint8], labels: NDArray[Any], changes: Mapping[int, float]
) -> NDArray[np.uint8]:
    """Photos (N, S, S, 3) and their labels (N, A) → edited photos. Raises ``NotFinite``."""
    c = labels.astype(np.float32)
    return _in_batches(method, lambda x, y: method.edit(to_float(x), y, changes), photos, c)


def flipped(
    method: PhotoEditor, photos: NDArray[np.uint8], labels: NDArray[Any], indices: Sequence[int]
) -> NDArray[np.uint8]:
    """Change the attributes ``indices`` in each photo to the opposite of its label. Raises ``NotFinite``."""
    result = np.empty_like(photos)
    present = labels[:, list(indices)].astype(np.bool_)
    for pattern in np.unique(present, axis=0):
        rows = np.flatnonzero((present == pattern).all(axis=1))
        changes = {index: float(not has) for index, has in zip(indices, pattern, strict=True)}
        result[rows] = edited(method, photos[rows], labels[rows], changes)
    return result


def generated(method: FaceGenerator, z: Tensor, labels: NDArray[Any] | Tensor) -> NDArray[np.uint8]:
    """Codes (N, latent) and labels (N, A) → faces (N, S, S, 3). Raises ``NotFinite``."""
    return _in_batches(method, method.generate, z.cpu().numpy(), np.asarray(labels, np.float32))


def _in_batches(method: Method, run: Callable[..., Tensor], *arrays: NDArray[Any]) -> NDArray[np.uint8]:
    parts = []
    for start in range(0, len(arrays[0]), BATCH):
        images = run(*(torch.from_numpy(array[start : start + BATCH]).to(method.device) for array in arrays))
        if not images.isfinite().all():
            raise NotFinite(f"{method.name}: its images are NaN or infinite; its training has diverged")
        parts.append(to_uint8(images).cpu().numpy())
    return np.concatenate(parts)
