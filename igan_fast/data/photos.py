"""Any photo a user may have, whatever its size, shape and colour mode, as the square RGB picture that a model reads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from igan_fast.data.formats import (
    FORMATS,
    PHOTO_SUFFIXES,
    describe_left_out,
    describe_unreadable,
    is_other_picture,
    is_photo_name,
    open_image,
)
from igan_fast.errors import InputError, printable
from igan_fast.files import entry_kind, open_regular

__all__ = ["MIN_SIDE", "PHOTO_SUFFIXES", "Photo", "decode_stream", "expand_photos", "load_photo"]

#: What counts as one photo: a path, a PIL image, or a uint8 array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.
Photo: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any]

#: The shortest side, in pixels, that still can show a face.
MIN_SIDE = 16

#: A photo of more pixels is reduced piece by piece: whole copies of it in other modes would fill the memory.
MAX_WHOLE_PIXELS = 16_000_000

#: The pixels of one such piece.
PIECE_PIXELS = 2_000_000

#: The 8-bit value of each 16-bit one: 65535 becomes 255.
_TO_8_BIT = np.rint(np.arange(65536) / 257.0).astype(np.uint8)

#: How a picture is turned upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_photo(photo: Photo, size: int, *, name: str = "photo") -> NDArray[np.uint8]:
    """A photo turned upright, its centre square cut out and resized.

    The orientation in the EXIF data is applied, transparency is laid over white, grey becomes RGB, 16-bit grey is
    scaled to 8 bits, and of an animation the first frame is taken. The crop is that of training, so that an aligned
    CelebA photo comes out as the model has seen it.

    Args:
        photo: see ``Photo``; 16-bit grey (mode ``I``, or ``I;16`` in any byte order) ranges over 0 to 65535.
        size: side of the result in pixels.
        name: what messages call a photo that is not a file.

    Returns:
        (size, size, 3) uint8, RGB, C-contiguous.

    Raises:
        InputError: no such file, a folder, no photo in one of ``igan_fast.data.formats.FORMATS``, a truncated or broken
            one, one side under 16 pixels, more pixels than Pillow takes for safe (``PIL.Image.MAX_IMAGE_PIXELS``) in
            another format than JPEG, or an array of another shape or dtype.
    """
    if size < 1:
        raise InputError(f"size: found {size}, expected at least 1 pixel")
    if isinstance(photo, Image.Image):
        if isinstance(photo, ImageFile.ImageFile) and photo.tile and photo.format not in (*FORMATS, "MPO"):
            raise InputError(f"{name}: found a picture in {photo.format}, expected one in {', '.join(FORMATS)}")
        try:
            return _square(photo, size, name)  # an opened file is decoded only now
        except (InputError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise a dozen types for broken data
            raise InputError(f"{name}: is truncated, broken or no photo ({error})") from error
    if isinstance(photo, np.ndarray):
        return _square(_from_array(photo, name), size, name)
    if isinstance(photo, str | os.PathLike):
        return _from_file(Path(photo), size)
    raise InputError(f"{name}: found a {type(photo).__name__}, expected a path, a PIL image or a NumPy array")


def decode_stream(stream: BinaryIO, size: int, name: str) -> NDArray[np.uint8]:
    """``load_photo`` of the bytes in ``stream``; ``name`` is what messages call them."""
    with open_image(stream, name) as image:
        return _square(image, size, name)


def expand_photos(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files as they are given, and for each folder the photos directly in it, sorted by name; each photo once.

    Pictures of a folder that are not read (other formats, links to nothing) are left out with a warning.

    Raises:
        InputError: there is no path, a path does not exist, or a folder cannot be read or holds no photo.
    """
    found: dict[Path, None] = {}  # a set that keeps the order
    for path in map(Path, paths):
        try:
            if path.is_dir():
                found.update(dict.fromkeys(_photos_in(path)))
            elif path.is_file():
                found[path] = None
            elif path.exists():
                raise InputError(f"{path}: is neither a file nor a folder; expected a photo")
            else:
                raise InputError(f"{path}: no such file or folder")
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not found:
        raise InputError("no photo is given; expected at least one file or folder")
    return list(found)


def _photos_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        kinds = {entry.name: entry_kind(entry) for entry in entries}
    photos = sorted(name for name, kind in kinds.items() if kind == "file" and is_photo_name(name))
    others = sorted(name for name, kind in kinds.items() if kind == "file" and is_other_picture(name))
    broken = sorted(name for name, kind in kinds.items() if kind == "other" and is_photo_name(name))
    left_out = [describe_left_out(others)] if others else []
    if broken:
        left_out.append(describe_unreadable(broken))
    if not photos:
        also = f"; left out: {' and '.join(left_out)}" if left_out else ""
        raise InputError(f"{folder}: this folder holds no photo ({' '.join(PHOTO_SUFFIXES)}){also}")
    if left_out:
        warnings.warn(printable(f"{folder}: left out {' and '.join(left_out)}"), stacklevel=3)
    return [folder / name for name in photos]


def _from_file(path: Path, size: int) -> NDArray[np.uint8]:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a photo")
        stream = open_regular(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read (permission denied)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    with stream:
        return decode_stream(stream, size, str(path))


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    shape = array.shape
    if len(shape) == 3 and shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (3, 4))):
        raise InputError(
            f"{name}: found a {array.dtype} array of shape {shape}, expected uint8 and (H, W), (H, W, 3) or (H, W, 4)"
        )
    if array.size == 0:
        raise InputError(f"{name}: the array has no pixels (shape {shape})")
    return Image.fromarray(np.ascontiguousarray(array))


def _square(image: Image.Image, size: int, name: str) -> NDArray[np.uint8]:
    if min(image.size) < MIN_SIDE:
        raise InputError(f"{name}: is {image.width}×{image.height} pixels, expected at least {MIN_SIDE}×{MIN_SIDE}")
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    rgb = _to_rgb(image, name) if image.width * image.height <= MAX_WHOLE_PIXELS else _reduced(image, size, name)
    if turn is not None:
        rgb = rgb.transpose(turn)
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    # Pillow's filters widen with the reduction, so that a large photo is averaged and not sampled.
    resized = rgb.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.array(resized)


def _reduced(image: Image.Image, size: int, name: str) -> Image.Image:
    """The centre square of a large photo as RGB, reduced to no less than four times ``size``: averaged in blocks."""
    factor = max(1, min(image.size) // (4 * size))
    side = min(image.size) // factor * factor
    left, top = (image.width - side) // 2, (image.height - side) // 2
    rows = max(1, PIECE_PIXELS // (side * factor)) * factor
    square = Image.new("RGB", (side // factor, side // factor))
    for y in range(0, side, rows):
        piece = image.crop((left, top + y, left + side, top + min(y + rows, side)))
        square.paste(_to_rgb(piece, name).reduce(factor), (0, y // factor))
    return square


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise InputError(f"{name}: has floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image, name).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)  # in either byte order
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{name}: has values from {values.min()} to {values.max()}, expected 16 bits (0 to 65535)")
    return Image.fromarray(_TO_8_BIT[values])
