"""Follows one face through the frames of a video, and smooths its path, so that edits of the frames do not tremble."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.whole_photo import open_whole
from igan_fast.errors import InputError, PackageMissing
from igan_fast.faces.detector import CELEBA_SQUARE, Detector
from igan_fast.faces.search import AlignedPhoto, Face, NoFaceFound, aligned, find_faces
from igan_fast.faces.similarity import Similarity

__all__ = ["FollowedFace", "followed", "in_order", "smoothed"]

_MIDDLE = (CELEBA_SQUARE[2] - CELEBA_SQUARE[0]) / 2
#: From one frame to the next in which it is found, a face moves by less than this part of its size.
_FARTHEST = 1.0
#: Weights beyond this many standard deviations are left out.
_CUT = 3


class FollowedFace:
    """Opens the frames of a video with one face, whose place changes smoothly. It opens a frame as ``FaceSearch`` does.

    All frames are searched when it is made. In the first frame that shows a face, one is chosen; in each other frame
    it is the one that is nearest to where the face was last. Its places are then averaged over neighbouring frames. In
    a frame in which it is not found, its place is that of its neighbours.

    Args:
        size: S, the side of the model's images.
        frames: the files, in any order; see ``in_order``.
        spread: the standard deviation of the Gaussian weights, in frames; 0 only fills gaps.
        face: ``"largest"``, or the number of a face in the first frame, counted from left to right from 1.
        detector: by default the MTCNN.

    Raises:
        NoFaceFound: no frame shows a face.
        InputError: the first frame with faces has none of this number.
        PackageMissing: a package of the extra ``faces`` is not installed.
    """

    def __init__(
        self,
        size: int,
        frames: Iterable[Path],
        spread: float,
        face: str | int = "largest",
        detector: Detector | None = None,
    ) -> None:
        self._size = size
        ordered = in_order(frames)
        found = followed([_faces(path, detector) for path in ordered], face)
        if all(place is None for place in found):
            raise NoFaceFound("PHOTO: no face was found in any frame; expected one that can be followed")
        self._places = dict(zip(ordered, smoothed(found, spread), strict=True))

    def open(self, photo: Path) -> AlignedPhoto:
        """Open one of the frames.

        Raises:
            InputError: as ``igan_fast.data.photos.load_photo``; or the face has left the frame.
        """
        whole = open_whole(photo)
        face = Face(1, self._places[photo], 1.0)
        try:
            crop = aligned(whole, face, self._size)
        except ValueError:
            raise InputError(f"{photo}: the face that is followed is outside of this frame") from None
        return AlignedPhoto(whole.name, crop[None], (face,), 1, whole)


def in_order(frames: Iterable[Path]) -> list[Path]:
    """Sort frames by name; numbers in the names count as numbers, so that ``frame10`` comes after ``frame9``."""

    def key(path: Path) -> list[tuple[int, str]]:
        parts = re.findall(r"[0-9]+|[^0-9]+", str(path))
        return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts]

    return sorted(frames, key=key)


def followed(frames: Sequence[Sequence[Face]], face: str | int = "largest") -> list[Similarity | None]:
    """Return the place of one face in each frame; None where it is not found.

    Args:
        frames: the faces of each frame, from left to right.
        face: as of ``FollowedFace``.

    Raises:
        InputError: the first frame with faces has none of this number.
    """
    places: list[Similarity | None] = []
    last: Face | None = None
    for faces in frames:
        now: Face | None = None
        if last is None and faces:
            if face == "largest":
                now = max(faces, key=lambda each: each.size)
            elif int(face) <= len(faces):
                now = faces[int(face) - 1]
            else:
                raise InputError(f"face: found {face}, expected from 1 to {len(faces)}, the faces of the first frame")
        elif last is not None and faces:
            before = last
            nearest = min(faces, key=lambda each: _distance(each, before))
            now = nearest if _distance(nearest, before) < _FARTHEST * before.size else None
        places.append(None if now is None else now.placement)
        last = now or last
    return places


def smoothed(places: Sequence[Similarity | None], spread: float) -> list[Similarity]:
    """Average places over neighbouring frames with Gaussian weights, and fill the gaps.

    Args:
        places: of the face in each frame, at least one of them known.
        spread: the standard deviation in frames.
    """
    known = np.array([place is not None for place in places])
    values = np.array([(0, 0) if place is None else (place.factor, _middle(place)) for place in places], np.complex128)
    times = np.arange(len(places))
    for k in range(2):  # a straight line over each gap, and the nearest place before the first and after the last
        values[:, k] = np.interp(times, times[known], values[known, k])
    averages = _averaged(values, spread)
    return [
        Similarity(complex(factor), complex(middle - factor * (_MIDDLE + 1j * _MIDDLE))) for factor, middle in averages
    ]


def _averaged(values: NDArray[np.complex128], spread: float) -> NDArray[np.complex128]:
    reach = min(int(np.ceil(_CUT * spread)), len(values))
    if not reach:
        return values
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
    total = np.convolve(np.ones(len(values)), weights)[reach:-reach]
    columns = [np.convolve(values[:, k], weights)[reach:-reach] / total for k in range(values.shape[1])]
    return np.stack(columns, axis=1)


def _middle(place: Similarity) -> complex:
    """Where the middle of the face's square is, as x + iy."""
    return place.factor * (_MIDDLE + 1j * _MIDDLE) + place.shift


def _distance(face: Face, other: Face) -> float:
    return abs(_middle(face.placement) - _middle(other.placement))


def _faces(path: Path, detector: Detector | None) -> list[Face]:
    try:
        return find_faces(path, detector)
    except PackageMissing:
        raise
    except InputError:  # it is named when the frame is opened
        return []
