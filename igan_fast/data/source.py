"""The interface of every dataset of labelled faces: of photos in folders, zips or parquet files, or of drawn faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Aligner", "FaceSource"]


class Aligner(Protocol):
    """Cuts the face out of a photo, which may be anywhere in it. It must be picklable."""

    @property
    def version(self) -> str:
        """A text that changes whenever the result for a photo may change."""

    def __call__(self, image: Image.Image, size: int, name: str) -> NDArray[np.uint8]:
        """Return the face, (size, size, 3) uint8 RGB, of a photo that is open. ``name`` is for error messages.

        Raises:
            InputError: the photo is broken, or no face is found in it.
        """


class FaceSource(Protocol):
    """A dataset of N labelled face images.

    ``CelebA``, ``ClassFolders``, ``ParquetFaces`` and ``DrawnFaces`` implement it.

    A source decodes or draws one image per call, which is slow, so ``build_store`` does it once for all images. A
    source must be picklable, because ``build_store`` sends it to worker processes.
    """

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the A label columns."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """(N, A) uint8, values 0 and 1."""

    @property
    def identities(self) -> NDArray[np.int64] | None:
        """(N,) int64, the number of the person in each image, −1 if unknown; None if no identity is known."""

    @property
    def splits(self) -> Mapping[str, NDArray[np.int64]]:
        """The image positions of each split, ascending: ``"train"``, ``"val"`` and, if there is one, ``"test"``."""

    def __len__(self) -> int:
        """N, the number of images."""

    def describe(self) -> str:
        """A one-line summary for the user."""

    def fingerprint(self) -> str:
        """A hexadecimal digest that changes if any image, the order of the images or their crop changes.

        Labels and splits are not part of it.
        """

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        """Image ``index`` as (size, size, 3) uint8, RGB.

        Raises:
            InputError: the image is broken. The message names its file.
        """
