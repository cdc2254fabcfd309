"""An ``Aligner`` whose result cannot be mistaken for a photo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Blue:
    """Every face is blue."""

    version = "blue"

    def __call__(self, image: Image.Image, size: int, name: str) -> NDArray[np.uint8]:
        return np.full((size, size, 3), (0, 0, 255), np.uint8)
