"""Boxes of a face detector, (N, 5): left, top, right and bottom in pixels, and a score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["SCORE", "expanded", "refined", "squares", "without_overlaps"]

#: The column of the score.
SCORE = 4


def without_overlaps(boxes: NDArray[np.float64], most: float, *, of_smaller: bool = False) -> NDArray[np.int64]:
    """Return the positions of the boxes that stay, the largest score first (non-maximum suppression).

    A box is dropped if it overlaps one of a larger score too much. Of equal scores the earlier box stays.

    Args:
        boxes: (N, 5).
        most: the largest overlap that is allowed, from 0 to 1.
        of_smaller: the overlap is the common area divided by the area of the smaller box, instead of by that of both
            together. Then a box inside of another one overlaps it fully.
    """
    left, top, right, bottom, score = boxes.T
    area = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    rest = np.argsort(-score, kind="stable")
    kept: list[int] = []
    while len(rest):
        best, rest = int(rest[0]), rest[1:]
        kept.append(best)
        width = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest])
        height = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest])
        common = np.maximum(width, 0) * np.maximum(height, 0)
        whole = np.minimum(area[best], area[rest]) if of_smaller else area[best] + area[rest] - common
        rest = rest[common <= most * whole]
    return np.array(kept, np.int64)


def refined(boxes: NDArray[np.float64], moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move the edges of boxes (N, 5) by ``moves`` (N, 4), in parts of their width or height."""
    sides = boxes[:, 2:4] - boxes[:, :2]
    return np.hstack([boxes[:, :4] + moves * np.tile(sides, 2), boxes[:, SCORE:]])


def squares(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make boxes (N, 5) square around their centres, with the longer side. Empty boxes are dropped."""
    sides = boxes[:, 2:4] - boxes[:, :2]
    full = (sides >= 1).all(axis=1)
    centre, half = (boxes[full, :2] + boxes[full, 2:4]) / 2, sides[full].max(axis=1, keepdims=True) / 2
    return np.hstack([centre - half, centre + half, boxes[full, SCORE:]])


def expanded(picture: Image.Image, boxes: NDArray[np.float64]) -> tuple[Image.Image, NDArray[np.float64]]:
    """Return the picture with black margins that hold all boxes, and what to add to the edges of a box (4,) there."""
    if not len(boxes):
        return picture, np.zeros(4)
    left, top = np.maximum(0, np.ceil(-boxes[:, :2].min(axis=0))).astype(int)
    right, bottom = np.maximum(0, np.ceil(boxes[:, 2:4].max(axis=0) - picture.size)).astype(int)
    margins = (int(left), int(top), int(right), int(bottom))
    return ImageOps.expand(picture, margins), np.array([left, top, left, top], np.float64)
