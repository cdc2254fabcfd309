"""The interface of face detectors, and the one that is used by default."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from igan_fast.faces.similarity import Similarity, fit_similarity

__all__ = ["CELEBA_SIZE", "CELEBA_SQUARE", "Detection", "Detector", "default_detector", "placement"]

#: Width and height of CelebA's aligned photos, in pixels.
CELEBA_SIZE = (178, 218)
#: The centre square of these photos, which models are trained on: left, top, right, bottom.
CELEBA_SQUARE = (0, 20, 178, 198)


@dataclass(frozen=True)
class Detection:
    """A face that a detector has found, in pixels of the image. Coordinates are those of ``Similarity``."""

    landmarks: NDArray[np.float64]  #: (K, 2)
    score: float  #: the larger, the surer


class Detector(Protocol):
    """Finds faces and their landmarks.

    Which points of a face the K landmarks are is the detector's own choice. ``template`` says where they are in
    CelebA's aligned photos. So another detector needs one class with these two arrays and one method.
    """

    @property
    def template(self) -> NDArray[np.float64]:
        """(K, 2): the mean positions of the landmarks in CelebA's aligned photos (178×218 pixels)."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """(K,): how much each landmark counts in the alignment."""

    def find(self, image: NDArray[np.uint8]) -> list[Detection]:
        """Find the faces in an image, (H, W, 3) uint8 RGB, in any order; an empty list if there is none."""


def placement(detector: Detector, detection: Detection) -> Similarity:
    """Return the transform that maps CelebA's aligned photo to the face: its points to the image's.

    Raises:
        ValueError: all landmarks are at the same place, or not finite.
    """
    return fit_similarity(detector.template, detection.landmarks, detector.weights)


@functools.cache
def default_detector() -> Detector:
    """Return the MTCNN, which is loaded once.

    Raises:
        PackageMissing: a package of the extra ``faces`` is not installed.
    """
    from igan_fast.faces.mtcnn import Mtcnn

    return Mtcnn()
