"""The built-in dataset: faces drawn from parameters, with CelebA's 40 attributes. No download is needed.

`DrawnFaces` is a face source like a CelebA folder. Picture ``index`` of dataset ``seed`` is `draw_face` of
`face_parameters(seed, index)`; the rules that tie the labels together, and the one behind ``Attractive``, stand in
`igan_fast.data.drawing.parameters`.
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

#: Five times CelebA; far more is a slip of the keyboard, and would fill memory before it fills the disk.
MAX_DRAWN = 1_000_000


class DrawnFaces:
    """A face source of ``count`` drawn faces (`igan_fast.data.source.FaceSource`).

    A dataset of another ``count`` holds the same pictures at the same positions, in the same splits. Splits go by
    identity: of each 20 people, 18 are in "train", one in "val" and one in "test".

    Args:
        count: how many pictures.
        seed: 0 or more; another seed is another dataset.
        attributes: the label columns by name, in the order wanted; all 40 in CelebA's order where empty.

    Raises:
        InputError: ``count`` out of its range, ``seed`` below 0, an unknown or repeated attribute.
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
        turn = self.identities % 20
        self.splits: dict[str, NDArray[np.int64]] = {
            "train": np.flatnonzero((turn != 1) & (turn != 2)),
            "val": np.flatnonzero(turn == 1),
            "test": np.flatnonzero(turn == 2),
        }

    def __len__(self) -> int:
        return self._count

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """uint8 (N, A) in {0, 1}: worked out at the first call, without drawing."""
        rows = [face_parameters(self._seed, index).labels for index in range(self._count)]
        return np.array(rows, np.uint8)[:, self._columns]

    def describe(self) -> str:
        """One line: how many faces, people and attributes."""
        people = len(np.unique(self.identities))
        return f"{self._count:,} drawn faces of {people:,} people, {len(self.attributes)} attributes, seed {self._seed}"

    def fingerprint(self) -> str:
        """Hex; changes when any picture would, also with the code that draws."""
        digest = hashlib.sha256(repr(("drawn faces", self._count, self._seed)).encode())
        for module in sorted(Path(drawing.__path__[0]).glob("*.py")):
            digest.update(f"{module.name}\n".encode() + module.read_bytes())
        return digest.hexdigest()

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        """Picture ``index``: uint8 (size, size, 3), RGB.

        Raises:
            InputError: ``index`` outside the dataset, or ``size`` below 16.
        """
        if not 0 <= index < self._count:
            raise InputError(f"index: found {index}, expected 0 to {self._count - 1}")
        return draw_face(face_parameters(self._seed, index), size)
