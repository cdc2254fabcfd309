"""Pictures as files in the folder of the running server, from which the browser takes them."""

from __future__ import annotations

import io
from pathlib import Path

from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from igan_fast.data.pixels import to_rgb

__all__ = ["as_jpeg", "as_png"]

#: At this quality the preview of a photo shows no traces of JPEG.
_QUALITY = 92
#: The highest level takes ten times as long for a file that is a tenth smaller.
_LEVEL = 1


def as_jpeg(image: Image.Image) -> str:
    """Write a picture to show, and return its path. JPEG is encoded many times faster than PNG and WebP."""
    data = io.BytesIO()
    profile = image.info.get("icc_profile")
    to_rgb(image, "preview").save(data, "JPEG", quality=_QUALITY, subsampling=0, icc_profile=profile)
    return str(save_bytes_to_cache(data.getvalue(), "preview.jpg", get_upload_folder()))


def as_png(image: Image.Image, photo: Path) -> str:
    """Write a result to keep, named after its photo, and return its path."""
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=_LEVEL)
    return str(save_bytes_to_cache(data.getvalue(), f"{photo.stem}-edited.png", get_upload_folder()))
