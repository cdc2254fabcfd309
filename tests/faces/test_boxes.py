"""The detector's boxes, against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from igan_fast.faces.boxes import expanded, refined, squares, without_overlaps

A, B, C = [0.0, 0, 10, 10, 0.9], [0.0, 0, 10, 5, 0.8], [20.0, 20, 30, 30, 0.95]


def test_overlaps_by_hand() -> None:
    boxes = np.array([A, B, C])
    # B is inside of A: half of both together, all of the smaller.
    assert without_overlaps(boxes, 0.5).tolist() == [2, 0, 1]
    assert without_overlaps(boxes, 0.49).tolist() == [2, 0]
    assert without_overlaps(boxes, 0.99, of_smaller=True).tolist() == [2, 0]
    assert without_overlaps(boxes, 1.0, of_smaller=True).tolist() == [2, 0, 1]
    assert without_overlaps(np.empty((0, 5)), 0.5).tolist() == []


def test_of_equal_boxes_the_first_stays() -> None:
    assert without_overlaps(np.array([A, A, A]), 0.5).tolist() == [0]


@pytest.mark.parametrize("of_smaller", [False, True])
def test_overlaps_against_a_count_of_pixels(of_smaller: bool) -> None:
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 30, (40, 2))
    boxes = np.column_stack([corner, corner + rng.integers(1, 20, (40, 2)), rng.permutation(40) / 40]).astype(float)
    pixels = np.zeros((40, 60, 60), bool)
    for k, (left, top, right, bottom) in enumerate(boxes[:, :4].astype(int)):
        pixels[k, top:bottom, left:right] = True
    expected: list[int] = []
    for k in np.argsort(-boxes[:, 4]):
        common = [(pixels[k] & pixels[j]).sum() for j in expected]
        whole = [
            min(pixels[k].sum(), pixels[j].sum()) if of_smaller else (pixels[k] | pixels[j]).sum() for j in expected
        ]
        if all(c <= 0.3 * w for c, w in zip(common, whole, strict=True)):
            expected.append(int(k))
    assert without_overlaps(boxes, 0.3, of_smaller=of_smaller).tolist() == expected


def test_edges_move_in_parts_of_the_side() -> None:
    moved = refined(np.array([[10.0, 20, 30, 60, 0.5]]), np.array([[-0.5, 0.25, 0.5, 0]]))
    assert moved.tolist() == [[0, 30, 40, 60, 0.5]]


def test_squares_have_the_longer_side_and_the_same_centre() -> None:
    boxes = np.array([[0.0, 10, 20, 50, 0.5], [5, 5, 5, 9, 0.9], [9, 9, 2, 30, 0.9]])
    assert squares(boxes).tolist() == [[-10, 10, 30, 50, 0.5]]


def test_the_picture_is_made_large_enough() -> None:
    picture = Image.new("RGB", (20, 10), "white")
    canvas, shift = expanded(picture, np.array([[-3.5, 2, 8, 12, 1], [5, -1, 25.5, 9, 1]]))
    assert canvas.size == (4 + 20 + 6, 1 + 10 + 2)
    assert shift.tolist() == [4, 1, 4, 1]
    assert canvas.getpixel((0, 5)) == (0, 0, 0)
    assert canvas.getpixel((4, 1)) == (255, 255, 255)
    assert expanded(picture, np.empty((0, 5)))[0] is picture
