"""Finds the faces of a photo, chooses among them, and aligns them as CelebA's photos are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igan_fast.data.photos import MIN_SIDE, Photo
from igan_fast.data.whole_photo import WholePhoto, open_whole
from igan_fast.errors import InputError, PackageMissing
from igan_fast.faces.detector import CELEBA_SIZE, CELEBA_SQUARE, Detector, default_detector, placement
from igan_fast.faces.paste import paste_faces
from igan_fast.faces.resample import bounds, sample
from igan_fast.faces.similarity import Similarity

__all__ = [
    "Align",
    "AlignedPhoto",
    "Face",
    "FaceSearch",
    "NoFaceFound",
    "aligned",
    "centre_square_place",
    "check_choice",
    "find_faces",
]

#: ``"auto"``: faces are searched, but what is aligned already stays as it is.
Align: TypeAlias = Literal["auto", "always", "off"]

#: Faces are searched in a copy of the photo with at most this many pixels a side.
SEARCH_SIDE = 1280
#: A face is aligned already if it is at most this far from CelebA's place on average, in pixels of CelebA's 178. In
#: CelebA's own photos the MTCNN finds 99 % of the faces within 9 pixels.
IN_PLACE = 10.0

_SIDE = CELEBA_SQUARE[2] - CELEBA_SQUARE[0]


class NoFaceFound(InputError):
    """A photo in which no face is found."""


@dataclass(frozen=True)
class Face:
    """A face that was found in a photo."""

    number: int  #: from 1, from left to right
    placement: Similarity  #: maps the square of CelebA's photos, from 0 to 178 in x and y, to the photo's pixels
    score: float  #: how sure the detector is, up to 1

    @property
    def size(self) -> float:
        """The side of the face's square in the photo, in pixels."""
        return self.placement.scale * _SIDE

    @property
    def corners(self) -> NDArray[np.float64]:
        """(4, 2): the corners of the face's square in the photo, clockwise from the face's upper left."""
        return self.placement([[0, 0], [_SIDE, 0], [_SIDE, _SIDE], [0, _SIDE]])


def find_faces(photo: Photo | WholePhoto, detector: Detector | None = None) -> list[Face]:
    """Find the faces in a photo.

    Args:
        photo: see ``igan_fast.data.photos.Photo``.
        detector: by default the MTCNN.

    Returns:
        The faces from left to right; an empty list if there is none.

    Raises:
        InputError: as ``igan_fast.data.photos.load_photo``.
        PackageMissing: a package of the extra ``faces`` is not installed.
    """
    whole = photo if isinstance(photo, WholePhoto) else open_whole(photo)
    detector = detector or default_detector()
    image, scale = whole.overview(SEARCH_SIDE)
    placed: list[tuple[Similarity, float]] = []
    for detection in detector.find(image):
        try:
            placed.append((Similarity(scale).after(in_square(placement(detector, detection))), detection.score))
        except ValueError:  # its landmarks are one point
            continue
    placed = [(place, score) for place, score in placed if place.scale * _SIDE >= MIN_SIDE]  # smaller ones show nothing
    placed.sort(key=lambda face: float(face[0]([_SIDE / 2, _SIDE / 2])[0]))
    return [Face(number, place, score) for number, (place, score) in enumerate(placed, start=1)]


def in_square(of_photo: Similarity) -> Similarity:
    """Return a transform of CelebA's whole photo (178×218) as one of its centre square (178×178)."""
    return of_photo.after(Similarity(1, complex(*CELEBA_SQUARE[:2])))


def aligned(photo: Photo | WholePhoto, face: Face, size: int) -> NDArray[np.uint8]:
    """Return a face of a photo as CelebA's centre square shows faces, with one antialiased resampling.

    Args:
        photo: in which ``find_faces`` has found the face.
        face: the face.
        size: S, the side of the result in pixels.

    Returns:
        (S, S, 3) uint8, RGB. Beyond the photo's edges its outermost pixels are repeated, as in CelebA.
    """
    whole = photo if isinstance(photo, WholePhoto) else open_whole(photo)
    to_photo = face.placement.after(Similarity(_SIDE / size))
    box = bounds(to_photo, size, margin=4 * max(1.0, to_photo.scale))
    width, height = whole.size
    inside = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise ValueError(f"face: its square {box} is outside of the photo of {width}×{height} pixels")
    return sample(whole.part(inside), Similarity(1, -complex(*inside[:2])).after(to_photo), size)


def check_choice(align: object, face: object) -> None:
    """Check the arguments ``align`` and ``face`` of ``FaceSearch``.

    Raises:
        InputError: one of them has another value, or a face is chosen although none is searched.
    """
    if align not in ("auto", "always", "off"):
        raise InputError(f"align: found {align!r}, expected 'auto', 'always' or 'off'")
    number = isinstance(face, int) and not isinstance(face, bool) and face >= 1
    if face not in ("largest", "all") and not number:
        raise InputError(f"face: found {face!r}, expected 'largest', 'all' or the number of a face from 1")
    if align == "off" and face != "largest":
        raise InputError(f"face: found {face!r} with align 'off', which searches no faces; expected align 'auto'")


@dataclass(frozen=True)
class AlignedPhoto:
    """The faces of one photo, ready for a model. ``FaceSearch.open`` returns it."""

    name: str
    crops: NDArray[np.uint8]  #: (K, S, S, 3) RGB: the chosen faces, or the centre square of the photo as it is
    faces: tuple[Face, ...] = ()  #: the chosen faces; none if the photo is taken as it is
    found: int = 0  #: the number of faces in the photo; 0 if none was searched
    whole: WholePhoto | None = None  #: the photo at its own resolution

    @property
    def pixels(self) -> int:
        """The number of pixels that are held in memory for ``finish``."""
        return 0 if self.whole is None else self.whole.size[0] * self.whole.size[1]

    def finish(self, edited: Sequence[Image.Image], *, keep_details: bool = False) -> Image.Image:
        """Return the photo with its edited faces, at its own resolution.

        Args:
            edited: an image of S×S pixels for each of ``crops``.
            keep_details: add the difference of ``edited`` and ``crops`` to the photo, so that its fine details stay. If
                False, the faces replace what is there; of a photo without ``faces`` the edited image is returned.
        """
        side = self.crops.shape[1]
        if self.whole is None or (not self.faces and (not keep_details or self.whole.size == (side, side))):
            return edited[0]
        places = [face.placement for face in self.faces] or [centre_square_place(self.whole)]
        return paste_faces(self.whole, places, edited, list(self.crops) if keep_details else None)


class FaceSearch:
    """Opens photos for a model that was trained on aligned faces.

    Args:
        size: S, the side of the model's images.
        align: ``"auto"``, ``"always"`` or ``"off"`` (each photo is cut to its centre square). With ``"auto"`` photos of
            178×218 pixels, as CelebA's, and of S×S pixels, as the model's own, count as aligned crops: they are cut to
            their centre square without a search. A face that is found where CelebA's faces are is not moved: for it
            the photo is cut to its centre square too.
        face: ``"largest"``, ``"all"``, or the number of a face, counted from left to right from 1.
        detector: by default the MTCNN. If it is not installed, ``"auto"`` warns and is ``"off"``.

    Raises:
        InputError: ``align`` or ``face`` has another value.
        PackageMissing: with ``"always"``: a package of the extra ``faces`` is not installed.
    """

    def __init__(
        self, size: int, align: Align = "auto", face: str | int = "largest", detector: Detector | None = None
    ) -> None:
        check_choice(align, face)
        self._size, self._align, self._face, self._detector = size, align, face, detector
        if align == "always" and detector is None:
            self._detector = default_detector()

    def open(self, photo: Photo, *, name: str = "photo") -> AlignedPhoto:
        """Open a photo, and find and align its faces.

        Args:
            photo: see ``igan_fast.data.photos.Photo``.
            name: the name for error messages of a photo that is not a file.

        Raises:
            InputError: as ``igan_fast.data.photos.load_photo``; or there is no face with the number asked for.
            NoFaceFound: no face is found.
        """
        whole = open_whole(photo, name=name)
        if self._align == "off":
            return AlignedPhoto(whole.name, whole.centre_square(self._size)[None], whole=whole)
        own = whole.size in (CELEBA_SIZE, (self._size, self._size))
        if self._align == "auto" and (own or not self._can_search()):
            return self._as_it_is(whole)
        faces, square = find_faces(whole, self._detector), centre_square_place(whole)
        if self._align == "auto":
            faces = [replace(face, placement=square) if _near(face.placement, square) else face for face in faces]
        chosen = self._chosen(faces, whole.name)
        crops = [
            whole.centre_square(self._size) if face.placement == square else aligned(whole, face, self._size)
            for face in chosen
        ]
        return AlignedPhoto(whole.name, np.stack(crops), tuple(chosen), len(faces), whole)

    def _can_search(self) -> bool:
        if self._detector is None:
            try:
                self._detector = default_detector()
            except PackageMissing as error:
                self._align = "off"
                warnings.warn(
                    f"{error}; until then photos are cut to their centre square, wherever the face is", stacklevel=4
                )
                return False
        return True

    def _as_it_is(self, whole: WholePhoto) -> AlignedPhoto:
        if self._align == "auto" and self._face not in ("largest", "all", 1):
            raise InputError(f"{whole.name}: is an aligned crop of one face, found face {self._face}; expected face 1")
        return AlignedPhoto(whole.name, whole.centre_square(self._size)[None], whole=whole)

    def _chosen(self, faces: list[Face], name: str) -> list[Face]:
        if not faces:
            raise NoFaceFound(
                f"{name}: no face was found; --align off (in Python align='off') takes the photo's centre square"
            )
        if self._face == "all":
            return faces
        if self._face == "largest":
            return [max(faces, key=lambda face: face.size)]
        if int(self._face) > len(faces):
            count = "1 face was" if len(faces) == 1 else f"{len(faces)} faces were"
            raise InputError(f"{name}: {count} found, so there is no face {self._face}")
        return [faces[int(self._face) - 1]]


def centre_square_place(whole: WholePhoto) -> Similarity:
    """The place of a face that the photo's centre square shows as CelebA's photos show faces."""
    (width, height), side = whole.size, min(whole.size)
    return Similarity(side / _SIDE, complex((width - side) // 2, (height - side) // 2))


def _near(place: Similarity, square: Similarity) -> bool:
    """Whether a face is near enough to the photo's centre square to be taken as it is."""
    steps = np.linspace(0, _SIDE, 9)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1)
    away = np.linalg.norm(square.inverse()(place(grid)) - grid, axis=-1)
    return bool(away.mean() <= IN_PLACE)
