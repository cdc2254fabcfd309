"""A photo on the page: its faces, what the model makes of them, views of it, and the result at full resolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import torch
from PIL import Image

from igan_fast.app.web.settings import Settings
from igan_fast.data.attributes import changes_by_index
from igan_fast.data.loader import to_float
from igan_fast.data.pixels import to_rgb
from igan_fast.data.whole_photo import WholePhoto, open_whole
from igan_fast.editor import FaceEditor
from igan_fast.encoded_faces import EncodedFaces
from igan_fast.errors import InputError
from igan_fast.face_generator import to_pil
from igan_fast.faces import AlignedPhoto, Face, Similarity, centre_square_place
from igan_fast.metrics import finite_results
from igan_fast.reference.editing import edited_labels

__all__ = ["MODEL", "OpenPhoto", "open_photo"]

#: Held while a model computes: each computation takes all cores. Photos are decoded, pasted and encoded without it.
MODEL = Lock()

#: The colour modes that a PNG file can hold.
_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")

#: The view of a photo has at most this many pixels a side, and that of a face: about as many as the page shows. All
#: pixels of a face that is looked at are computed anew at each edit.
VIEW_SIDE, NEAR_SIDE = 1024, 512
#: At most this many faces of a photo are taken, the largest ones.
MOST_FACES = 32
#: The view of a face shows this part of the face's side around it.
_AROUND = 0.2
#: A face whose side is below this part of the photo's longer side is better seen from near.
_SMALL = 0.4


@dataclass(frozen=True)
class _View:
    """A part of the photo, reduced for the screen."""

    photo: WholePhoto
    faces: tuple[Face, ...]
    """All faces, with their places in this part."""


class OpenPhoto:
    """A photo whose faces are edited. ``open_photo`` makes one.

    The photo itself is not held in memory, only its faces and views of it. A face is encoded when it is first needed,
    so an edit runs the generator alone.
    """

    def __init__(self, editor: FaceEditor, path: Path, opened: AlignedPhoto) -> None:
        if opened.whole is None:
            raise ValueError("opened: expected a photo with its pixels")
        faces = opened.faces or (Face(1, centre_square_place(opened.whole), 1.0),)
        largest = sorted(range(len(faces)), key=lambda k: -faces[k].size)[:MOST_FACES]
        kept = sorted(largest)
        self.path = path
        self.found = len(faces)
        self._editor = editor
        self._photo = replace(opened, crops=opened.crops[kept], faces=tuple(faces[k] for k in kept), whole=None)
        self._whole = _view(opened.whole, (0, 0, *opened.whole.size), self._photo.faces)
        self._near: tuple[int, _View] | None = None
        self._profile = opened.whole.profile
        self._encoded: dict[int, EncodedFaces] = {}  # by face, a batch of one each
        self._small = tuple(face.size < _SMALL * max(opened.whole.size) for face in self._photo.faces)

    @property
    def faces(self) -> list[Image.Image]:
        """The faces as the model sees them, from left to right."""
        return [_with_profile(Image.fromarray(crop), self._profile) for crop in self._photo.crops]

    @property
    def largest(self) -> int:
        """The position of the largest face in ``faces``."""
        sizes = [face.size for face in self._photo.faces]
        return sizes.index(max(sizes))

    def is_small(self, face: int) -> bool:
        """Whether a face is small in the photo."""
        return self._small[face]

    def before(self, near: int | None = None) -> Image.Image:
        """A view without an edit.

        Args:
            near: the face to look at; None shows the whole photo.
        """
        return self._view(near).photo.image

    def recognised(self, face: int) -> dict[str, float]:
        """The probability of each attribute of a face.

        Raises:
            InputError: it is NaN or infinite.
        """
        row = finite_results(self._face(face).c)[0].tolist()
        return dict(zip(self._editor.attributes, row, strict=True))

    def preview(self, settings: Settings, near: int | None = None) -> Image.Image:
        """A view with the edits that are set; ``near`` as of ``before``.

        Raises:
            InputError: a result is NaN or infinite; or the photo's file is gone before a face was looked at.
        """
        view = self._view(near)
        return self._edited(settings, view.faces, lambda: view.photo)

    def result(self, settings: Settings) -> Image.Image:
        """The photo with the edits that are set, at its own resolution.

        Raises:
            InputError: a result is NaN or infinite; or the photo's file is gone.
        """
        return self._edited(settings, self._photo.faces, self._reopened)

    def _reopened(self) -> WholePhoto:
        if not self.path.exists():
            raise InputError(f"{self.path.name}: was deleted from this server after some hours; open it once more")
        return open_whole(self.path)

    def _view(self, near: int | None) -> _View:
        if near is None:
            return self._whole
        if self._near is None or self._near[0] != near:  # only the last one is kept
            whole, faces = self._reopened(), self._photo.faces
            corners = faces[near].corners
            margin = _AROUND * faces[near].size
            (left, top), (right, bottom) = corners.min(0) - margin, corners.max(0) + margin
            width, height = whole.size
            box = (max(int(left), 0), max(int(top), 0), min(math.ceil(right), width), min(math.ceil(bottom), height))
            self._near = near, _view(whole, box, faces, NEAR_SIDE)
        return self._near[1]

    def _edited(self, settings: Settings, faces: tuple[Face, ...], whole: Callable[[], WholePhoto]) -> Image.Image:
        chosen = [k for k in range(len(faces)) if settings.changes(k) or settings.keep == "nothing"]
        edited = [self._edited_face(settings, k) for k in chosen]
        photo = whole()
        if not chosen:
            return _with_profile(
                photo.image if photo.image.mode in _PNG else to_rgb(photo.image, photo.name), photo.profile
            )
        shown = replace(
            self._photo, crops=self._photo.crops[chosen], faces=tuple(faces[k] for k in chosen), whole=photo
        )
        side = self._photo.crops.shape[1]
        if photo.size == (side, side) and [face.placement for face in faces] == [centre_square_place(photo)]:
            return edited[0]  # the photo is what the model sees
        return shown.finish(edited, keep_details=settings.keep == "photo")

    def _edited_face(self, settings: Settings, face: int) -> Image.Image:
        encoded, editor = self._face(face), self._editor
        changes = changes_by_index(settings.changes(face), editor.attributes)
        along = editor.companions if settings.companions else None
        with MODEL, torch.inference_mode():
            labels = edited_labels(encoded.c, changes, companions=along)
            return to_pil(encoded.edited(labels, settings.keep))[0]

    def _face(self, face: int) -> EncodedFaces:
        if face not in self._encoded:
            editor = self._editor
            with MODEL, torch.inference_mode():
                x = to_float(torch.from_numpy(self._photo.crops[face : face + 1]).to(editor.device))
                self._encoded[face] = EncodedFaces.of(editor.model, x)
        return self._encoded[face]


def open_photo(editor: FaceEditor, path: Path, *, search: bool = True) -> OpenPhoto:
    """Open a photo and find its faces.

    Args:
        editor: uses the model; what it does with photos that are aligned already counts here too.
        path: of the photo.
        search: whether faces are searched; otherwise the photo's centre square is taken.

    Raises:
        InputError: it is not a photo.
        NoFaceFound: no face is found in it.
    """
    if search:
        finder = editor.face_search(None if editor.searches_faces else "always", "all")
    else:
        finder = editor.face_search("off", "largest")
    return OpenPhoto(editor, path, finder.open(path))


def _view(whole: WholePhoto, box: tuple[int, int, int, int], faces: tuple[Face, ...], side: int = VIEW_SIDE) -> _View:
    """A part of the photo (left, top, right, bottom) for the screen, with at most ``side`` pixels a side."""
    part = whole if box == (0, 0, *whole.size) else WholePhoto(Image.fromarray(whole.part(box)), whole.name)
    pixels, scale = part.overview(side)
    to_view = Similarity(1 / scale).after(Similarity(1, -complex(*box[:2])))
    placed = tuple(replace(face, placement=to_view.after(face.placement)) for face in faces)
    return _View(WholePhoto(_with_profile(Image.fromarray(pixels), whole.profile), whole.name), placed)


def _with_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image with this colour profile, which is written to its files; None for none."""
    image.info.pop("icc_profile", None)
    if profile is not None:
        image.info["icc_profile"] = profile
    return image
