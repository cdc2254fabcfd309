"""Takes a square out of an image under a similarity transform, with one antialiased resampling."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igan_fast.faces.similarity import Similarity

__all__ = ["bounds", "sample"]

#: The bicubic kernel is 0 beyond this distance.
_SUPPORT = 2.0
#: An image is averaged in blocks first if at least this many of its pixels are left then for each pixel of the result.
#: The larger the number, the slower and the more exact; Pillow's documentation recommends from 2 to 3 (reducing_gap).
_REDUCING_GAP = 2.0


def sample(image: NDArray[np.uint8], transform: Similarity, size: int) -> NDArray[np.uint8]:
    """Return the square of an image that ``transform`` maps the result to.

    Each pixel of the result is a weighted mean of the image's pixels around its place. The weights are those of
    Pillow's bicubic filter, in the result's rotated axes. Where the image is reduced, the filter is wider in
    proportion, so that all pixels count. Beyond its edges the image continues with its outermost pixels, as in CelebA.

    Without a rotation the result is that of ``PIL.Image.resize`` with ``box``, except for rounding and at the edges. An
    image that is to become at least four times smaller is averaged in blocks first, as with ``reducing_gap=2``.

    Args:
        image: (H, W, 3).
        transform: from the result's coordinates to the image's.
        size: S.

    Returns:
        (S, S, 3) uint8.
    """
    block = int(transform.scale / _REDUCING_GAP)
    if block > 1:
        image, transform = _averaged(image, transform, size, block)
    scale = max(transform.scale, 1.0)
    rotation = transform.factor / transform.scale
    centres = np.arange(size) + 0.5
    places = transform(np.stack(np.meshgrid(centres, centres), axis=-1))
    first = np.floor(places).astype(np.int64)
    reach = math.ceil(_SUPPORT * scale * (abs(rotation.real) + abs(rotation.imag)))
    height, width = image.shape[:2]
    total = np.zeros((size, size, 3))
    weight = np.zeros((size, size, 1))
    for dy in range(-reach, reach + 1):
        rows = np.clip(first[..., 1] + dy, 0, height - 1)
        away_y = first[..., 1] + dy + 0.5 - places[..., 1]
        for dx in range(-reach, reach + 1):
            away_x = first[..., 0] + dx + 0.5 - places[..., 0]
            # The distance in the result's axes: the rotation is undone.
            u = (rotation.real * away_x + rotation.imag * away_y) / scale
            v = (rotation.real * away_y - rotation.imag * away_x) / scale
            factor = (_bicubic(u) * _bicubic(v))[..., None]
            if factor.any():
                total += factor * image[rows, np.clip(first[..., 0] + dx, 0, width - 1)]
                weight += factor
    return np.clip(np.rint(total / weight), 0, 255).astype(np.uint8)


def _averaged(
    image: NDArray[np.uint8], transform: Similarity, size: int, block: int
) -> tuple[NDArray[np.uint8], Similarity]:
    """Average the part of the image that ``sample`` needs in blocks; return it, and the transform to its pixels."""
    height, width = image.shape[:2]
    left, top, right, bottom = bounds(transform, size, 2 * _SUPPORT * transform.scale)
    left, top = max(0, min(left, width - 1)), max(0, min(top, height - 1))
    right, bottom = min(width, max(right, left + 1)), min(height, max(bottom, top + 1))
    reduced = np.asarray(Image.fromarray(image[top:bottom, left:right]).reduce(block))
    return reduced, Similarity(1 / block, -complex(left, top) / block).after(transform)


def bounds(transform: Similarity, side: float, margin: float = 0.0) -> tuple[int, int, int, int]:
    """Return whole pixels around the square from 0 to ``side``, mapped by ``transform``: left, top, right, bottom.

    Args:
        transform: from the square's coordinates to the image's.
        side: of the square.
        margin: pixels of the image to add on each side.
    """
    corners = transform(np.array([[0, 0], [side, 0], [0, side], [side, side]]))
    left, top = np.floor(corners.min(axis=0) - margin).astype(int)
    right, bottom = np.ceil(corners.max(axis=0) + margin).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = −1/2, which Pillow's resize uses too."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < _SUPPORT, outer, 0.0))
