"""Photos with a known pattern, and reading one in both ways that the package has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from igan_fast.data.photo_files import FolderPhotos, decode_photo
from igan_fast.data.photos import load_photo
from igan_fast.errors import InputError


def chessboard(width: int, height: int) -> Image.Image:
    """Grey fields of 20 pixels: averaged or cut anywhere, it can be told what is where."""
    y, x = np.mgrid[:height, :width] // 20
    return Image.fromarray(((x * 7 + y * 31) % 200 + 20).astype(np.uint8))


def slope(width: int, height: int) -> Image.Image:
    """Brighter from the left to the right and from the top to the bottom."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray((x * 150 // width + y * 100 // height).astype(np.uint8))


def load_both_ways(path: Path, size: int) -> np.ndarray:
    """A photo as the user's and as one of a data set: the same pixels, or the same refusal."""
    as_given, as_trained = [], []
    for results, load in (
        (as_given, lambda: load_photo(path, size)),
        (as_trained, lambda: decode_photo(FolderPhotos(path.parent, [path.name]), path.name, size)),
    ):
        try:
            results.append(load())
        except InputError as error:
            results.append(error)
    if isinstance(as_given[0], InputError):
        assert str(as_trained[0]) == str(as_given[0])
        assert "\n" not in str(as_given[0])
        raise as_given[0]
    np.testing.assert_array_equal(as_given[0], as_trained[0])
    return as_given[0]
