"""The built-in dataset: faces drawn by code, with CelebA's 40 attributes. No download is needed.

`DrawnFaces` is a `FaceSource` like `CelebA`. Image ``index`` of dataset ``seed`` is
``draw_face(face_parameters(seed, index), size)``. `igan_fast.data.drawing.parameters` documents the rules between the
labels, such as the one for ``Attractive``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from igan_fast.data import drawing
from igan_fast.data.attributes import CELEBA_ATTRIBUTES, attribute_indices
from igan_fast.data.drawing.parameters import FaceParameters, with_attribute
from igan_fast.data.drawing.population import face_parameters, identity_of
from igan_fast.data.drawing.portrait import draw_face
from igan_fast.errors import InputError

__all__ = ["DrawnFaces", "FaceParameters", "draw_face", "face_parameters", "with_attribute"]

#: The largest dataset, five times CelebA's size. A larger number is probably a typing error, and would fill the memory.
MAX_DRAWN = 1_000_000


class DrawnFaces:
    """A dataset of ``count`` drawn faces, as a `igan_fast.data.source.FaceSource`.

    A smaller dataset is a prefix of a larger one of the same seed: images, labels and splits agree at each position.
    The splits share no identity: of every 20 people, 18 are in "train", one in "val" and one in "test".

    Args:
        count: the number of images, 1 to 1,000,000.
        seed: at least 0. Another seed gives another dataset.
        attributes: the label columns, in this order. Default: all 40 in CelebA's order.

    Raises:
        InputError: ``count`` or ``seed`` is out of range, or an attribute is unknown or repeated.
    """

    def __init__(self, count: int = 20_000, *, seed: int = 0, attributes: Sequence[str] = ()) -> None:
        if not 1 <= count <= MAX_DRAWN:
            raise InputError(f"count: found {count}, expected 1 to {MAX_DRAWN:,} faces")
        if seed < 0:
            raise InputError(f"seed: found {seed}, expected 0 or more")
        self.attributes = tuple(attributes) or CELEBA_ATTRIBUTES
        self._columns = attribute_indices(self.attributes, CELEBA_ATTRIBUTES)
        self._count = count
        self._seed = seed
        self.identities: NDArray[np.int64] = np.array([identity_of(index) for index in range(count)], np.int64)
        remainder = self.identities % 20
        self.splits: dict[str, NDArray[np.int64]] = {
            "train": np.flatnonzero((remainder != 1) & (remainder != 2)),
            "val": np.flatnonzero(remainder == 1),
            "test": np.flatnonzero(remainder == 2),
        }

    def __len__(self) -> int:
        return self._count

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """(N, A) uint8, values 0 and 1. Computed on first use, without drawing the images."""
        rows = [face_parameters(self._seed, index).labels for index in range(self._count)]
        return np.array(rows, np.uint8)[:, self._columns]

    def describe(self) -> str:
        """One line: the numbers of faces, people and attributes, and the seed."""
        people = len(np.unique(self.identities))
        return f"{self._count:,} drawn faces of {people:,} people, {len(self.attributes)} attributes, seed {self._seed}"

    def fingerprint(self) -> str:
        """A hexadecimal digest of count, seed and the source code of `igan_fast.data.drawing`."""
        digest = hashlib.sha256(repr(("drawn faces", self._count, self._seed)).encode())
        for module in sorted(Path(drawing.__path__[0]).glob("*.py")):
            digest.update(f"{module.name}\n".encode() + module.read_bytes())
        return digest.hexdigest()

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        """Image ``index``.

        Returns:
            (size, size, 3) uint8, RGB.

        Raises:
            InputError: ``index`` is outside the dataset, or ``size`` is below 16.
        """
        if not 0 <= index < self._count:
            raise InputError(f"index: found {index}, expected 0 to {self._count - 1}")
        return draw_face(face_parameters(self._seed, index), size)
