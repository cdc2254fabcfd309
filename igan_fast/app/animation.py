"""Pictures of equal size as a strip or an animation."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from PIL import Image, ImageCms

from igan_fast.data.pixels import to_rgb

__all__ = ["as_gif", "strip"]

#: How long an animation shows each picture, and the first and the last one, in milliseconds.
_EACH, _ENDS = 80, 600
#: The animation is at most this wide and high: a GIF is not compressed well.
_MOST_SIDE = 640


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return the pictures side by side, RGB with the colour profile of the first one."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(pictures), height))
    for index, picture in enumerate(pictures):
        sheet.paste(to_rgb(picture, "picture"), (index * width, 0))
    if profile := pictures[0].info.get("icc_profile"):
        sheet.info["icc_profile"] = profile  # which is written to a PNG file
    return sheet


def as_gif(pictures: Iterable[Image.Image]) -> bytes:
    """Return an animation in sRGB that runs forth and back for ever, with at most 640 pixels a side."""
    small = []
    for picture in pictures:
        small.append(_in_srgb(picture))
        small[-1].thumbnail((_MOST_SIDE, _MOST_SIDE), Image.Resampling.LANCZOS)
    frames = [*small, *small[-2:0:-1]]
    ends = {0, len(small) - 1}
    data = io.BytesIO()
    frames[0].save(
        data,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[_ENDS if index in ends else _EACH for index in range(len(frames))],
        loop=0,
    )
    return data.getvalue()


def _in_srgb(picture: Image.Image) -> Image.Image:
    """Convert a picture's colours, since a GIF file cannot hold their profile."""
    rgb = to_rgb(picture, "picture")
    profile = picture.info.get("icc_profile")
    if profile is None or picture.mode not in ("RGB", "RGBA"):
        return rgb
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = ImageCms.profileToProfile(rgb, own, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError):  # a broken profile
        return rgb
    return rgb if found is None else found
