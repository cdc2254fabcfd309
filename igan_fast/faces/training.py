"""Aligns the photos of a dataset once, while its store is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igan_fast.errors import InputError
from igan_fast.faces.detector import default_detector
from igan_fast.faces.search import FaceSearch

__all__ = ["TrainingAligner", "training_aligner"]


@dataclass(frozen=True)
class TrainingAligner:
    """Finds the largest face of each photo and aligns it as ``FaceSearch`` does with ``align="auto"``.

    It is an ``igan_fast.data.source.Aligner``. Processes that decode photos get it by pickle; each of them loads the
    detector when it aligns its first photo.
    """

    #: A store that another version has aligned is built again.
    version: str = "MTCNN, 1"

    def __call__(self, image: Image.Image, size: int, name: str) -> NDArray[np.uint8]:
        """Return the face of an opened photo, (size, size, 3) uint8 RGB.

        Raises:
            InputError: the photo is broken, or no face is found in it.
        """
        face: NDArray[np.uint8] = FaceSearch(size, "auto", detector=default_detector()).open(image, name=name).crops[0]
        return face


def training_aligner(align: Literal["auto", "off"] | str) -> TrainingAligner | None:
    """Return what aligns a dataset's photos with the option ``align``; None for ``"off"``.

    Raises:
        InputError: ``align`` has another value.
        PackageMissing: a package of the extra ``faces`` is not installed.
    """
    if align not in ("auto", "off"):
        raise InputError(f"align: found {align!r}, expected 'auto' or 'off'")
    if align == "off":
        return None
    default_detector()  # an error is raised here, and not for each photo
    return TrainingAligner()
