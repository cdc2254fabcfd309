"""Loads a photo of any size, shape and colour mode as the square RGB image that a model takes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from igan_fast.data.formats import (
    FORMATS,
    PHOTO_SUFFIXES,
    describe_non_files,
    describe_unsupported,
    is_photo_name,
    is_unsupported_name,
    open_image,
)
from igan_fast.data.pixels import MAX_WHOLE_PIXELS, averaged, to_rgb, upright_by
from igan_fast.errors import InputError, printable
from igan_fast.files import entry_kind, open_regular
from igan_fast.paths import given_path

__all__ = [
    "MIN_SIDE",
    "PHOTO_SUFFIXES",
    "Photo",
    "centre_square",
    "check_sides",
    "decode_stream",
    "decoded",
    "expand_photos",
    "load_photo",
    "load_photos",
    "typed_photo",
]

#: A photo: a path, a PIL image, or a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.
Photo: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any]

T = TypeVar("T")

#: The shortest side of a photo, in pixels. A smaller photo cannot show a face.
MIN_SIDE = 16


def load_photo(photo: Photo, size: int, *, name: str = "photo") -> NDArray[np.uint8]:
    """Load a photo, turn it upright, crop its centre square and resize it.

    Training crops photos in the same way, so an aligned CelebA photo gives the image that the model was trained on. The
    EXIF orientation is applied, transparent pixels are blended with white, grey becomes RGB, 16-bit grey is scaled to
    8 bits, and an animation gives its first frame.

    Args:
        photo: see ``Photo``. The values of 16-bit grey (mode ``I``, or ``I;16`` in any byte order) are 0 to 65535.
        size: height and width of the result in pixels.
        name: the name for error messages of a photo that is not a file.

    Returns:
        (size, size, 3) uint8, RGB, C-contiguous.

    Raises:
        InputError: the file does not exist, is not a photo in one of ``igan_fast.data.formats.FORMATS``, or is
            truncated or broken; a side is shorter than 16 pixels; the photo is too large to decode safely, see
            ``igan_fast.data.formats.open_image``; or an array has another shape or dtype.
    """
    if size < 1:
        raise InputError(f"size: found {size}, expected at least 1 pixel")
    return decoded(photo, name, lambda image, where: _centre_square(image, size, where))


def decoded(photo: Photo, name: str, use: Callable[[Image.Image, str], T]) -> T:
    """Open a photo and return ``use(image, name)``. Errors of Pillow's decoders in it become ``InputError``.

    Args:
        photo: see ``Photo``.
        name: the name for error messages of a photo that is not a file.
        use: gets the image, which may not be decoded yet, and the name; the name of a file is its path.

    Raises:
        InputError: as ``load_photo``.
    """
    if isinstance(photo, Image.Image):
        if isinstance(photo, ImageFile.ImageFile) and photo.tile and photo.format not in (*FORMATS, "MPO"):
            raise InputError(f"{name}: found a picture in {photo.format}, expected one in {', '.join(FORMATS)}")
        try:
            return use(photo, name)  # Pillow decodes an opened file here, so it may raise
        except (InputError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise many exception types for broken data
            raise InputError(f"{name}: is truncated, broken or not a photo ({error})") from error
    if isinstance(photo, np.ndarray):
        return use(_from_array(photo, name), name)
    if isinstance(photo, str | os.PathLike):
        path = Path(photo)
        with _open_file(path) as stream, open_image(stream, str(path)) as image:
            return use(image, str(path))
    raise InputError(f"{name}: found a {type(photo).__name__}, expected a path, a PIL image or a NumPy array")


def load_photos(photos: Sequence[Photo], size: int, batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """Load photos in batches.

    Args:
        photos: as for ``load_photo``; ``~`` in a path is expanded.
        size: as for ``load_photo``.
        batch_size: the number of photos in a batch; the last one may have fewer.

    Yields:
        (B, size, size, 3).

    Raises:
        InputError: as ``load_photo``; the message says which of the photos it is.
    """
    name = "photo" if len(photos) == 1 else "photo {} of {}"
    for start in range(0, len(photos), batch_size):
        part = range(start, min(start + batch_size, len(photos)))
        each = [(typed_photo(photos[k]), name.format(k + 1, len(photos))) for k in part]
        yield np.stack([load_photo(photo, size, name=called) for photo, called in each])


def typed_photo(photo: Photo) -> Photo:
    """Return the photo; ``~`` in a path is expanded."""
    return given_path(photo, "photo") if isinstance(photo, str | os.PathLike) else photo


def decode_stream(stream: BinaryIO, size: int, name: str) -> NDArray[np.uint8]:
    """``load_photo`` for a stream of bytes. ``name`` is the photo's name for error messages."""
    with open_image(stream, name) as image:
        return _centre_square(image, size, name)


def expand_photos(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Replace each folder by the photos directly in it, sorted by name. Files stay, and duplicates are dropped.

    Images in a folder that cannot be read (unsupported formats, dangling links) are skipped with a warning.

    Raises:
        InputError: ``paths`` is empty, a path does not exist, or a folder cannot be read or holds no photo.
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
    unsupported = sorted(name for name, kind in kinds.items() if kind == "file" and is_unsupported_name(name))
    non_files = sorted(name for name, kind in kinds.items() if kind == "other" and is_photo_name(name))
    left_out = [describe_unsupported(unsupported)] if unsupported else []
    if non_files:
        left_out.append(describe_non_files(non_files))
    if not photos:
        also = f"; left out: {' and '.join(left_out)}" if left_out else ""
        raise InputError(f"{folder}: this folder holds no photo ({' '.join(PHOTO_SUFFIXES)}){also}")
    if left_out:
        warnings.warn(printable(f"{folder}: left out {' and '.join(left_out)}"), stacklevel=3)
    return [folder / name for name in photos]


def _open_file(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a photo")
        return open_regular(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except PermissionError:
        raise InputError(f"{path}: cannot be read (permission denied)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


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


def check_sides(image: Image.Image, name: str) -> None:
    """Raise ``InputError`` if a side is shorter than 16 pixels."""
    if min(image.size) < MIN_SIDE:
        raise InputError(f"{name}: is {image.width}×{image.height} pixels, expected at least {MIN_SIDE}×{MIN_SIDE}")


def _centre_square(image: Image.Image, size: int, name: str) -> NDArray[np.uint8]:
    check_sides(image, name)
    image.load()
    return centre_square(image, size, name, upright_by(image))


def centre_square(
    image: Image.Image, size: int, name: str, transposition: Image.Transpose | None = None
) -> NDArray[np.uint8]:
    """Return the centre square of a decoded image, resized: (size, size, 3) uint8 RGB."""
    rgb = to_rgb(image, name) if image.width * image.height <= MAX_WHOLE_PIXELS else _reduced(image, size, name)
    if transposition is not None:
        rgb = rgb.transpose(transposition)
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    # Pillow's filters widen with the scale, so downscaling averages all pixels instead of sampling some.
    resized = rgb.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.array(resized)


def _reduced(image: Image.Image, size: int, name: str) -> Image.Image:
    """The centre square of a large photo as RGB, averaged in blocks down to at least ``4 * size`` pixels a side."""
    factor = max(1, min(image.size) // (4 * size))
    side = min(image.size) // factor * factor
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return averaged(image, (left, top, left + side, top + side), factor, name)
