"""Pastes edited faces back into their photo, at its own resolution, under a soft mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from igan_fast.data.pixels import to_rgb
from igan_fast.data.whole_photo import WholePhoto
from igan_fast.faces.detector import CELEBA_SQUARE
from igan_fast.faces.resample import bounds
from igan_fast.faces.similarity import Similarity

__all__ = ["mask_weights", "paste_faces"]

#: Inside of ``_FULL`` of the way from the square's centre to its edge the mask is 1, outside of ``_ZERO`` it is 0.
_FULL, _ZERO = 0.7, 0.96
#: The mask's shape: 2 would be a circle, a large number a square.
_EXPONENT = 4

_SIDE = CELEBA_SQUARE[2] - CELEBA_SQUARE[0]
#: An edited face is first enlarged smoothly to at most this many pixels a side.
_MOST_ENLARGED = 2048
#: The number of the photo's pixels that are computed at a time.
_STRIP_PIXELS = 1_000_000
#: The parts of red, green and blue in grey (ITU-R 601), as Pillow has them.
_GREY = np.array([0.299, 0.587, 0.114])


def mask_weights(placement: Similarity, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """Return how much an edited face counts in each pixel of a photo's part.

    Args:
        placement: of the face, see ``igan_fast.faces.Face``.
        box: the part: left, top, right, bottom.

    Returns:
        (H, W) in [0, 1]: 1 in the face, 0 from near the edge of its square on.
    """
    left, top, right, bottom = box
    centres = np.stack(np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5), axis=-1)
    from_middle = np.abs(placement.inverse()(centres) / (_SIDE / 2) - 1)
    distance = (from_middle**_EXPONENT).sum(axis=-1) ** (1 / _EXPONENT)
    part = np.clip((_ZERO - distance) / (_ZERO - _FULL), 0, 1)
    weights: NDArray[np.float64] = part * part * (3 - 2 * part)
    return weights


def paste_faces(
    photo: WholePhoto,
    placements: Sequence[Similarity],
    edited: Sequence[Image.Image | NDArray[np.uint8]],
    before: Sequence[Image.Image | NDArray[np.uint8]] | None = None,
) -> Image.Image:
    """Return a photo with edited faces at their places.

    Where the masks of two faces overlap, each pixel belongs mostly to the face whose mask is stronger there. Pixels
    that no mask covers keep their values exactly.

    Args:
        photo: the photo.
        placements: the places of the faces, see ``igan_fast.faces.Face``.
        edited: an image for each of them, RGB, (S, S, 3) as an array.
        before: the faces before they were edited, in the same form. Then only the difference is added to the photo,
            so its fine details stay. By default the edited faces replace what is there.

    Returns:
        An image of the photo's size and colour profile. Grey photos stay grey, with 8 or 16 bits, and transparency
        stays. Other colour modes, such as CMYK, become RGB.
    """
    image = _paintable(photo)
    pixels = np.array(image)
    colours = pixels[..., :-1] if image.mode in ("RGBA", "LA") else pixels
    original = colours.copy() if len(placements) > 1 else colours
    for index, placement in enumerate(placements):
        face = _colours(edited[index])
        if before is not None:
            face = face - _colours(before[index])
        enlarged, to_enlarged = _enlarged(face, placement)
        for box in _strips(bounds(placement, _SIDE), image.size):
            weights = _share(placements, index, box)
            if not weights.any():
                continue
            left, top, right, bottom = box
            part = np.s_[top:bottom, left:right]
            values = _in_mode(_moved(enlarged, to_enlarged, box), colours)
            change = values if before is not None else values - original[part]
            mask = weights if colours.ndim == 2 else weights[..., None]
            top_value = np.iinfo(pixels.dtype).max if pixels.dtype != np.int32 else 65535
            painted = np.clip(np.rint(colours[part] + mask * change), 0, top_value).astype(pixels.dtype)
            colours[part] = np.where(mask > 0, painted, colours[part])
    result = Image.fromarray(pixels)
    if photo.profile is not None:
        result.info["icc_profile"] = photo.profile
    return result


def _paintable(photo: WholePhoto) -> Image.Image:
    """The photo in a mode whose pixels can be painted: 8 bits (RGB, RGBA, L or LA), or 16-bit grey."""
    image = photo.image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("RGB", "L") and not image.has_transparency_data:
        return image
    if image.mode in ("RGBA", "LA", "I") or image.mode.startswith("I;16"):
        return image
    return image.convert("RGBA") if image.has_transparency_data else to_rgb(image, photo.name)


def _colours(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(image, np.float32)


def _enlarged(face: NDArray[np.float32], placement: Similarity) -> tuple[list[Image.Image], Similarity]:
    """Resize a face to the photo's resolution, upright; return its channels, and the transform from the photo to it."""
    side = max(1, min(round(placement.scale * _SIDE), _MOST_ENLARGED))
    channels = [
        Image.fromarray(face[..., k]).resize((side, side), Image.Resampling.BICUBIC) for k in range(face.shape[2])
    ]
    return channels, Similarity(side / _SIDE).after(placement.inverse())


def _moved(channels: list[Image.Image], transform: Similarity, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """The pixels of a face in a part of the photo: (H, W, 3)."""
    left, top, right, bottom = box
    coefficients = transform.after(Similarity(1, complex(left, top))).affine()
    size = (right - left, bottom - top)
    moved = [
        channel.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC) for channel in channels
    ]
    return np.stack([np.asarray(channel, np.float64) for channel in moved], axis=-1)


def _in_mode(values: NDArray[np.float64], colours: ArrayLike) -> NDArray[np.float64]:
    """Values of RGB from 0 to 255 in the range of the photo's pixels: grey where it is grey."""
    colours = np.asarray(colours)
    if colours.ndim == 3 and colours.shape[2] == 3:
        return values
    grey: NDArray[np.float64] = values @ _GREY
    if colours.ndim == 3:  # LA
        return grey[..., None]
    return grey if colours.dtype == np.uint8 else grey * 257


def _share(placements: Sequence[Similarity], index: int, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """The weights of one face, less where another face's mask is stronger."""
    own = mask_weights(placements[index], box)
    if len(placements) == 1 or not own.any():
        return own
    each = np.stack([own, *(mask_weights(place, box) for k, place in enumerate(placements) if k != index)])
    total = (each**4).sum(axis=0)
    share: NDArray[np.float64] = np.divide(own**4, total, out=np.zeros_like(own), where=total > 0) * each.max(axis=0)
    return share


def _strips(box: tuple[int, int, int, int], size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Cut the part of the box that is inside of the photo into strips."""
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1])
    if right <= left:
        return
    rows = max(1, _STRIP_PIXELS // (right - left))
    for y in range(top, bottom, rows):
        yield left, y, right, min(y + rows, bottom)
