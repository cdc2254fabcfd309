"""A photo at its own resolution: parts of it, a small overview, and its centre square."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from igan_fast.data.photos import Photo, centre_square, check_sides, decoded, typed_photo
from igan_fast.data.pixels import averaged, to_rgb, upright_by
from igan_fast.errors import InputError

__all__ = ["WholePhoto", "open_whole"]

#: The modes whose colour profile still fits when the photo has become RGB or grey. That of CMYK, for example, does not.
_KEEP_PROFILE = ("RGB", "RGBA", "P", "PA", "L", "LA", "1", "I")


@dataclass(frozen=True)
class WholePhoto:
    """A decoded photo, turned upright. ``open_whole`` returns it."""

    image: Image.Image  #: in the photo's own colour mode
    name: str  #: for error messages
    reduced_by: int = 1  #: by how much a very large JPEG was reduced while it was decoded, in width and height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size

    @property
    def profile(self) -> bytes | None:
        """The ICC profile of the photo's colours, if it has one that fits RGB or grey."""
        fits = self.image.mode in _KEEP_PROFILE or self.image.mode.startswith("I;16")
        found = self.image.info.get("icc_profile") if fits else None
        return found if isinstance(found, bytes) else None

    def centre_square(self, size: int) -> NDArray[np.uint8]:
        """The photo as ``load_photo`` returns it: (size, size, 3)."""
        return centre_square(self.image, size, self.name)

    def part(self, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Return a part as RGB, (H, W, 3) uint8. ``box``: left, top, right, bottom, inside of the photo."""
        return np.asarray(to_rgb(self.image.crop(box), self.name))

    def overview(self, longest: int) -> tuple[NDArray[np.uint8], float]:
        """Return the photo as RGB, with at most ``longest`` pixels a side.

        Returns:
            (H, W, 3) uint8, and the number of the photo's pixels that one of its pixels is wide and high.
        """
        scale = max(1.0, max(self.size) / longest)
        factor = max(1, int(scale / 2))  # the rest is done by a better filter
        small = averaged(self.image, (0, 0, *self.size), factor, self.name)
        if scale > 1:
            step = scale / factor
            width, height = (max(1, int(side / step)) for side in small.size)
            # A photo that is less than one step high or wide is taken whole.
            box = (0, 0, min(width * step, small.width), min(height * step, small.height))
            small = small.resize((width, height), Image.Resampling.BICUBIC, box=box)
        return np.asarray(small), scale


def open_whole(photo: Photo, *, name: str = "photo") -> WholePhoto:
    """Open a photo at its own resolution and decode it.

    Args:
        photo: see ``igan_fast.data.photos.Photo``; ``~`` in a path is expanded.
        name: the name for error messages of a photo that is not a file.

    Raises:
        InputError: as ``igan_fast.data.photos.load_photo``.
    """
    return decoded(typed_photo(photo), name, _whole)


def _whole(image: Image.Image, name: str) -> WholePhoto:
    check_sides(image, name)
    if image.mode == "F":
        to_rgb(image, name)  # which says why it cannot be used
    image.load()
    if isinstance(image, JpegImageFile) and image.decoderconfig:
        reduced_by = int(image.decoderconfig[0])
    else:
        reduced_by = 1
    transposition = upright_by(image)
    if transposition is not None:
        upright = image.transpose(transposition)
    else:
        upright = image.copy() if isinstance(image, ImageFile) else image  # a copy does not need the open file
    if upright.mode == "I" and not 0 <= upright.getextrema()[0] <= upright.getextrema()[1] <= 65535:  # type: ignore[operator]
        raise InputError(f"{name}: has values outside of 0 to 65535, expected 16 bits")
    return WholePhoto(upright, name, reduced_by)
