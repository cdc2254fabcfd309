"""How far a method's images are from photos as a whole: the kernel distance, which is the KID in Inception features."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from igan_fast.app.kid_scores import choose_images
from igan_fast.app.paper.numbers import Score
from igan_fast.metrics import FeatureNetwork
from igan_fast.metrics.kid import kid

__all__ = ["PhotoFeatures"]

#: At most so many images of a method are compared: each takes as long as many edits.
_MOST = 600


class PhotoFeatures(NamedTuple):
    """Photos as a network sees them."""

    network: FeatureNetwork
    photos: NDArray[np.float32]
    """(M, F)"""

    @classmethod
    def of(cls, network: FeatureNetwork | None, photos: NDArray[np.uint8]) -> PhotoFeatures | None:
        """Look at photos (M, S, S, 3), at most 600 of them, chosen at random; None without a network."""
        if network is None:
            return None
        return cls(network, network.features(photos[choose_images(len(photos), _MOST)]))

    def distance(self, images: NDArray[Any]) -> Score:
        """The kernel distance of images (N, S, S, 3) uint8 from the photos; of at most 600, chosen at random.

        Undefined if there are fewer than two of either.
        """
        if min(len(images), len(self.photos)) < 2:
            return Score(None)
        found = kid(self.network.features(images[choose_images(len(images), _MOST, seed=1)]), self.photos)
        return Score(found.value, None if math.isnan(found.low) else (found.low, found.high))
