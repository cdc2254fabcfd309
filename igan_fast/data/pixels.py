"""Converts the pixels of a photo in any colour mode to RGB, whole or averaged in blocks, with bounded memory."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

from igan_fast.errors import InputError

__all__ = ["MAX_WHOLE_PIXELS", "averaged", "to_rgb", "upright_by"]

#: A photo with more pixels is converted and reduced in strips: converting all of it at once would take too much memory.
MAX_WHOLE_PIXELS = 16_000_000

#: The number of pixels of such a strip.
STRIP_PIXELS = 2_000_000

#: Maps 16-bit values to 8-bit values: 65535 becomes 255.
_TO_8_BIT = np.rint(np.arange(65536) / 257.0).astype(np.uint8)

#: The transposition that turns an image upright, by its EXIF orientation.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright_by(image: Image.Image) -> Image.Transpose | None:
    """The transposition that turns a photo upright, by its EXIF orientation; None if it is upright."""
    return _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))


def averaged(image: Image.Image, box: tuple[int, int, int, int], factor: int, name: str) -> Image.Image:
    """Return a part of an image as RGB, averaged in blocks.

    Args:
        image: in any mode.
        box: the part: left, top, right, bottom.
        factor: the side of a block. Blocks at the right and at the lower edge may be narrower.
        name: the photo's name for error messages.
    """
    left, top, right, bottom = box
    rows = max(1, STRIP_PIXELS // ((right - left) * factor)) * factor
    result = Image.new("RGB", (-(-(right - left) // factor), -(-(bottom - top) // factor)))
    for y in range(top, bottom, rows):
        strip = image.crop((left, y, right, min(y + rows, bottom)))
        result.paste(to_rgb(strip, name).reduce(factor), (0, (y - top) // factor))
    return result


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert an image to RGB: transparent pixels are blended with white, 16-bit grey is scaled to 8 bits.

    Raises:
        InputError: it has floating-point pixels, or pixels of more than 16 bits.
    """
    if image.mode == "F":
        raise InputError(f"{name}: has floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image, name).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)  # NumPy handles either byte order
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{name}: has values from {values.min()} to {values.max()}, expected 16 bits (0 to 65535)")
    return Image.fromarray(_TO_8_BIT[values])
