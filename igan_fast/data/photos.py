"""Any photo a user may have, whatever its size, shape and colour mode, as the square RGB picture that a model reads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from igan_fast.errors import InputError

__all__ = ["MIN_SIDE", "PHOTO_SUFFIXES", "Photo", "expand_photos", "load_photo"]

#: What counts as one photo: a path, a PIL image, or a uint8 array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.
Photo: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any]

#: The shortest side, in pixels, that still can show a face.
MIN_SIDE = 16

#: The files of a folder that count as photos, whatever the case of their letters.
PHOTO_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip

#: What a value of a 16-bit picture is divided by: 65535 becomes 255.
_TO_8_BIT = 257.0


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
        InputError: no such file, a folder, no photo, a truncated or broken one, one side under 16 pixels, more pixels
            than Pillow takes for safe (``PIL.Image.MAX_IMAGE_PIXELS``), or an array of another shape or dtype.
    """
    if size < 1:
        raise InputError(f"size: found {size}, expected at least 1 pixel")
    if isinstance(photo, Image.Image):
        try:
            photo.load()  # an opened file is not decoded yet
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{name}: is truncated, broken or no photo ({error})") from error
        return _square(photo, size, name)
    if isinstance(photo, np.ndarray):
        return _square(_from_array(photo, name), size, name)
    if isinstance(photo, str | os.PathLike):
        return _from_file(Path(photo), size)
    raise InputError(f"{name}: found a {type(photo).__name__}, expected a path, a PIL image or a NumPy array")


def expand_photos(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files as they are given, and for each folder the photos directly in it, sorted by name; each photo once.

    Raises:
        InputError: there is no path, a path does not exist, or a folder holds no file with one of ``PHOTO_SUFFIXES``.
    """
    found: dict[Path, None] = {}  # a set that keeps the order
    for path in map(Path, paths):
        if path.is_dir():
            photos = sorted(child for child in path.iterdir() if _is_photo(child))
            if not photos:
                raise InputError(f"{path}: this folder holds no photo ({' '.join(PHOTO_SUFFIXES)})")
            found.update(dict.fromkeys(photos))
        elif path.is_file():
            found[path] = None
        elif path.exists():
            raise InputError(f"{path}: is neither a file nor a folder; expected a photo")
        else:
            raise InputError(f"{path}: no such file or folder")
    if not found:
        raise InputError("no photo is given; expected at least one file or folder")
    return list(found)


def _is_photo(path: Path) -> bool:
    # A name that begins with a dot is no photo but what some systems keep beside one (macOS: "._face.jpg").
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _from_file(path: Path, size: int) -> NDArray[np.uint8]:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a photo")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # oddities of metadata
            with Image.open(path) as image:
                return _square(image, size, str(path))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{Image.MAX_IMAGE_PIXELS:,}" if Image.MAX_IMAGE_PIXELS else "Pillow's limit of"
        raise InputError(
            f"{path}: has more than {limit} pixels (a decompression bomb?); make it smaller first"
        ) from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a photo in a format that Pillow reads") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read (permission denied)") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types for broken data
        raise InputError(f"{path}: is truncated, broken or no photo ({error})") from error


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
    rgb = _to_rgb(ImageOps.exif_transpose(image), name)
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    # Pillow's filters widen with the reduction, so that a large photo is averaged and not sampled.
    resized = rgb.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.array(resized)


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
    values = np.asarray(image).astype(np.int64)  # from either byte order
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{name}: has values from {values.min()} to {values.max()}, expected 16 bits (0 to 65535)")
    return Image.fromarray(np.rint(values / _TO_8_BIT).astype(np.uint8))
