"""Pictures in between: from one photo's face to another's, and from one edit of a photo to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from igan_fast.data.attributes import Change, changes_by_index
from igan_fast.data.loader import to_float
from igan_fast.data.photos import Photo
from igan_fast.edit_arguments import Keep, check_edit, check_keep
from igan_fast.editor import FaceEditor
from igan_fast.encoded_faces import EncodedFaces
from igan_fast.errors import InputError
from igan_fast.face_generator import to_pil
from igan_fast.faces import AlignedPhoto
from igan_fast.reference.editing import STRENGTH, edited_labels

__all__ = ["MOST_STEPS", "check_interpolation", "interpolate_edits", "interpolate_photos"]

#: The largest number of pictures.
MOST_STEPS = 1000


def interpolate_photos(
    editor: FaceEditor, first: Photo | AlignedPhoto, second: Photo | AlignedPhoto, *, steps: int = 9
) -> Iterator[Image.Image]:
    """Draw faces between those of two photos.

    The model encodes both faces as (z̃, σ(c̃)), and draws G of points on the straight line between the two. Such an
    interpolation is the usual test that a generator has not learnt single pictures by heart.

    Args:
        editor: uses the model. If a photo shows several faces, its ``face`` says which is taken.
        first, second: photos, see ``igan_fast.data.photos.Photo``; or what ``editor.face_search().open`` returned.
        steps: the number of pictures K, from 2 to 1000. The first and the last are the rebuilds of the two photos.

    Yields:
        K square RGB images of the model's size.

    Raises:
        InputError: as ``FaceEditor.rebuild``; ``steps`` is out of range; or ``face`` is ``"all"``. It is raised by the
            call itself, before the first picture.
    """
    batches = _batches(steps, editor)
    crops = np.concatenate([_opened(editor, photo).crops for photo in (first, second)])
    faces = _encoded(editor, crops)
    return _each(batches, lambda ways: editor.model.generate(_between(faces.z, ways), _between(faces.c, ways)))


def interpolate_edits(
    editor: FaceEditor,
    photo: Photo | AlignedPhoto,
    start: Mapping[str, Change],
    end: Mapping[str, Change],
    *,
    steps: int = 9,
    keep: Keep = "photo",
    strength: float = STRENGTH,
    companions: bool = True,
) -> Iterator[Image.Image]:
    """Edit a photo step by step, from one edit to another.

    The generator's labels of the two edits are interpolated on a straight line.

    Args:
        editor: uses the model. If a photo shows several faces, its ``face`` says which is taken.
        photo: see ``igan_fast.data.photos.Photo``; or what ``editor.face_search().open`` returned.
        start, end: two edits, as the changes of ``FaceEditor.transform``; ``{}`` is the photo as it is.
        steps: the number of pictures K, from 2 to 1000. The first and the last are those of ``transform``.
        keep, strength, companions: as of ``FaceEditor.transform``.

    Yields:
        K images, as ``transform`` returns them.

    Raises:
        InputError: as ``FaceEditor.transform``; ``steps`` is out of range; or ``face`` is ``"all"``. It is raised by
            the call itself, before the first picture.
    """
    batches = _batches(steps, editor)
    check_keep(keep)
    check_edit(strength, companions)
    edits = [changes_by_index(changes, editor.attributes) for changes in (start, end)]
    along = editor.companions if companions else None
    opened = _opened(editor, photo)
    faces = _encoded(editor, opened.crops)
    with torch.inference_mode():
        ends = torch.cat([edited_labels(faces.c, edit, strength=strength, companions=along) for edit in edits])
    images = _each(batches, lambda ways: faces.edited(_between(ends, ways), keep))
    return (opened.finish([image], keep_details=keep == "photo") for image in images)


def check_interpolation(steps: int, face: object) -> None:
    """Check the number of pictures, and the choice of a face.

    Raises:
        InputError: ``steps`` is out of range, or ``face`` is ``"all"``.
    """
    if not 2 <= steps <= MOST_STEPS:
        raise InputError(f"steps: found {steps:,}, expected from 2 to {MOST_STEPS:,}")
    if face == "all":
        raise InputError("face: found 'all', expected 'largest' or the number of one face")


def _batches(steps: int, editor: FaceEditor) -> list[Tensor]:
    """How far the pictures are on their way, from 0 to 1, in batches."""
    check_interpolation(steps, editor.face)
    return list(torch.split(torch.linspace(0, 1, steps), editor.batch_size))


def _each(batches: list[Tensor], draw: Callable[[Tensor], Tensor]) -> Iterator[Image.Image]:
    for ways in batches:
        with torch.inference_mode():
            images = to_pil(draw(ways))
        yield from images


def _opened(editor: FaceEditor, photo: Photo | AlignedPhoto) -> AlignedPhoto:
    return photo if isinstance(photo, AlignedPhoto) else editor.face_search().open(photo)


def _encoded(editor: FaceEditor, crops: NDArray[np.uint8]) -> EncodedFaces:
    with torch.inference_mode():
        return EncodedFaces.of(editor.model, to_float(torch.from_numpy(crops).to(editor.device)))


def _between(ends: Tensor, ways: Tensor) -> Tensor:
    """Points between two rows, (len(ways), …); exactly the rows at 0 and 1."""
    way = ways.to(ends.device, ends.dtype)[:, None]
    return torch.where(way < 1, ends[0] + way * (ends[1] - ends[0]), ends[1])
