"""Photos with a known pattern, and both functions of the package that load a photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from igan_fast.data.photo_files import FolderPhotos, decode_photo
from igan_fast.data.photos import load_photo
from igan_fast.errors import InputError


def chessboard(width: int, height: int) -> Image.Image:
    """A grey image of 20 × 20 pixel fields with different values, so a test can tell where each pixel comes from."""
    y, x = np.mgrid[:height, :width] // 20
    return Image.fromarray(((x * 7 + y * 31) % 200 + 20).astype(np.uint8))


def brightness_gradient(width: int, height: int) -> Image.Image:
    """A grey image that gets brighter from left to right and from top to bottom."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray((x * 150 // width + y * 100 // height).astype(np.uint8))


def load_both_ways(path: Path, size: int) -> np.ndarray:
    """Load a photo with ``load_photo`` and with ``decode_photo``: both give the same pixels or the same error."""
    results: list[np.ndarray | InputError] = []
    for load in (
        lambda: load_photo(path, size),
        lambda: decode_photo(FolderPhotos(path.parent, [path.name]), path.name, size),
    ):
        try:
            results.append(load())
        except InputError as error:
            results.append(error)
    first, second = results
    if isinstance(first, InputError):
        assert str(second) == str(first)
        assert "\n" not in str(first)
        raise first
    np.testing.assert_array_equal(first, second)
    return first
