"""One face followed through the frames of a video, and its path smoothed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from known_faces import KnownFaces
from numpy.typing import NDArray
from PIL import Image

from igan_fast.errors import InputError
from igan_fast.faces import Detection, Face, FollowedFace, NoFaceFound, Similarity, aligned
from igan_fast.faces.follow import followed, in_order, smoothed


def at(x: float, y: float = 100, size: float = 89) -> Face:
    """A face whose middle is at (x, y)."""
    scale = size / 178
    return Face(1, Similarity(scale, complex(x, y) - scale * (89 + 89j)), 1.0)


def middles(places: list[Similarity]) -> list[complex]:
    return [complex(*place([89, 89])) for place in places]


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["b/f1.png", "a/f10.png", "a/f9.png", "a/f09.png", "a/f.png", "a/9.png", "a/x.png", "a/f9b.png"]
    assert [str(path) for path in in_order(map(Path, names))] == [
        "a/9.png", "a/f9.png", "a/f09.png", "a/f9b.png", "a/f10.png", "a/f.png", "a/x.png", "b/f1.png",
    ]  # fmt: skip


def test_the_nearest_face_is_followed() -> None:
    frames = [
        [],
        [at(100), at(300, size=120)],
        [at(110), at(290, size=60)],  # which is no longer the largest
        [],
        [at(120)],  # the other one, far away
        [at(130), at(270)],
    ]
    found = followed(frames)
    assert [None if place is None else round(middles([place])[0].real) for place in found] == [
        None, 300, 290, None, None, 270,
    ]  # fmt: skip
    assert middles([place for place in followed(frames, 1) if place])[0].real == 100
    with pytest.raises(InputError, match="face: found 3, expected from 1 to 2, the faces of the first frame"):
        followed(frames, 3)


def test_gaps_are_filled_by_straight_lines() -> None:
    places = [None, at(100).placement, None, None, at(130, 160).placement, None]
    found = smoothed(places, 0)
    assert middles(found) == pytest.approx([100 + 100j, 100 + 100j, 110 + 120j, 120 + 140j, 130 + 160j, 130 + 160j])


@pytest.mark.parametrize("spread", [0.5, 2, 40])
def test_places_are_averaged_with_gaussian_weights(spread: float) -> None:
    rng = np.random.default_rng(0)
    places = [Similarity(complex(*rng.normal(1, 0.1, 2)), complex(*rng.normal(50, 5, 2))) for _ in range(12)]
    found = smoothed(places, spread)
    for k in range(12):
        near = [j for j in range(12) if abs(j - k) <= math.ceil(3 * spread)]
        weights = [math.exp(-((j - k) ** 2) / (2 * spread**2)) for j in near]
        expected = sum(w * middles(places)[j] for w, j in zip(weights, near, strict=True)) / sum(weights)
        factor = sum(w * places[j].factor for w, j in zip(weights, near, strict=True)) / sum(weights)
        assert middles(found)[k] == pytest.approx(expected)
        assert found[k].factor == pytest.approx(factor)


def test_a_face_that_does_not_move_stays_exactly() -> None:
    for place in smoothed([at(100).placement] * 5, 3):
        assert middles([place]) == pytest.approx([100 + 100j])
    (alone,) = smoothed([at(100).placement], 5)
    assert middles([alone]) == pytest.approx([100 + 100j])


class Trembling(KnownFaces):
    """Finds a face at another place in each frame, whose number is its first pixel's red."""

    def find(self, image: NDArray[np.uint8]) -> list[Detection]:
        number = int(image[0, 0, 0])
        return [] if number == 2 else [Detection(self.places[number](self.template - np.array([0, 20])), 0.9)]


def frames(folder: Path, count: int) -> list[Path]:
    paths = []
    for k in range(count):
        pixels = np.random.default_rng(k).integers(0, 256, (200, 300, 3), np.uint8)
        pixels[0, 0] = k
        Image.fromarray(pixels).save(folder / f"{k}.png")
        paths.append(folder / f"{k}.png")
    return paths


def test_each_frame_is_aligned_at_its_smoothed_place(tmp_path: Path) -> None:
    places = [at(100 + 3 * (-1) ** k).placement for k in range(5)]
    paths = frames(tmp_path, 5)
    search = FollowedFace(32, reversed(paths), 1.5, detector=Trembling(*places))
    expected = smoothed([None if k == 2 else place for k, place in enumerate(places)], 1.5)
    for path, place in zip(paths, expected, strict=True):
        opened = search.open(path)
        assert middles([face.placement for face in opened.faces]) == pytest.approx(middles([place]))
        np.testing.assert_array_equal(opened.crops[0], aligned(path, Face(1, place, 1.0), 32))


def test_no_face_in_any_frame(tmp_path: Path) -> None:
    with pytest.raises(NoFaceFound, match="no face was found in any frame"):
        FollowedFace(32, frames(tmp_path, 2), 1, detector=KnownFaces())


def test_a_face_that_has_left_the_frame(tmp_path: Path) -> None:
    paths = frames(tmp_path, 1)
    search = FollowedFace(32, paths, 1, detector=Trembling(at(900).placement))
    with pytest.raises(InputError, match=r"0\.png: the face that is followed is outside of this frame"):
        search.open(paths[0])


def test_a_broken_frame_is_named_when_it_is_opened(tmp_path: Path) -> None:
    paths = frames(tmp_path, 2)
    paths[1].write_bytes(b"none")
    search = FollowedFace(32, paths, 1, detector=Trembling(*[at(100).placement] * 2))
    search.open(paths[0])
    with pytest.raises(InputError, match=r"1\.png"):
        search.open(paths[1])
