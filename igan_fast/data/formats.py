"""Which files are photos, and how they are opened: only in safe formats and with bounded memory.

``open_image`` is the only place in the package that opens image files.
"""

from __future__ import annotations

import functools
import importlib
import mimetypes
import posixpath
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from igan_fast.data.annotations import looks_like_html
from igan_fast.data.messages import counted, first_three
from igan_fast.errors import InputError

__all__ = [
    "FORMATS",
    "MAX_FILE_BYTES",
    "PHOTO_SUFFIXES",
    "describe_non_files",
    "describe_unsupported",
    "is_photo_name",
    "is_unsupported_name",
    "open_image",
]

#: The formats that are opened, by Pillow's names. Their decoders start no other program and read no other file. (An EPS
#: file would start Ghostscript.) Pillow detects the format from a file's contents, so the suffix does not matter.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF")

#: The suffixes of photos, in lower case. Upper case matches too.
PHOTO_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif",
    ".tiff", ".webp",
)  # fmt: skip

#: The suffixes of HEIC photos, which are read if the package pillow-heif is installed.
HEIF_SUFFIXES = (".heic", ".heif", ".hif")

#: Suffixes of image formats that are not supported and that ``mimetypes`` does not know.
UNSUPPORTED_SUFFIXES = (
    ".arw", ".cr2", ".cr3", ".dds", ".dng", ".eps", ".exr", ".hdr", ".jxl", ".nef", ".orf", ".pcx", ".pfm", ".psd",
    ".raf", ".raw", ".rw2", ".tga", *HEIF_SUFFIXES,
)  # fmt: skip

#: The largest file that is decoded. Pillow's limit of 89 megapixels takes 268 MB uncompressed, at three bytes a pixel.
MAX_FILE_BYTES = 300 * 2**20

#: The largest memory for the coefficients of a progressive JPEG. The decoder holds all of them until the last scan.
MAX_COEFFICIENT_BYTES = 640 * 2**20

#: The largest number of scans of a progressive JPEG; about ten are usual. Each takes a pass over the image: 0.1 s at 89
#: megapixels.
MAX_SCANS = 100

#: How many copies of the image a format's decoder holds. The limit of pixels is divided by it, so that a file of 2 kB
#: cannot take 2 GB of memory.
DECODER_COPIES = {"WEBP": 2, "JPEG2000": 3}

_HEIF_NOTE = "after pip install pillow-heif HEIC photos are read too"

for _plugin in ("Avif", "Bmp", "Gif", "Jpeg2K", "Png", "Ppm", "Tiff", "WebP"):
    with suppress(ImportError):  # Pillow before 11.3 has no AVIF
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")


def is_photo_name(name: str) -> bool:
    """Whether a path (with ``/``) has a photo's suffix and is not hidden, as ``._face.jpg`` and ``__MACOSX/`` are."""
    suffix = _suffix(name)
    return (suffix in PHOTO_SUFFIXES or (suffix in HEIF_SUFFIXES and _has_heif())) and not _is_hidden(name)


def is_unsupported_name(name: str) -> bool:
    """Whether a path has the suffix of an image format that is not supported (``.heic``, ``.tga`` …)."""
    suffix = _suffix(name)
    is_image = suffix in UNSUPPORTED_SUFFIXES or mimetypes.types_map.get(suffix, "").startswith("image/")
    return is_image and not is_photo_name(name) and not _is_hidden(name)


def describe_unsupported(names: Sequence[str]) -> str:
    """A phrase for messages: how many images have an unsupported format, the first three names, and what to do."""
    advice = _HEIF_NOTE if any(_suffix(name) in HEIF_SUFFIXES for name in names) else "save them as JPEG or PNG"
    return f"{counted(names, 'picture')} in other formats ({first_three(names)}; {advice})"


def describe_non_files(names: Sequence[str]) -> str:
    """A phrase for messages: how many photos are not regular files (dangling links, pipes …), and the first three."""
    what = "that is not a regular file" if len(names) == 1 else "that are not regular files"
    return f"{counted(names, 'photo')} {what} ({first_three(names)})"


@contextmanager
def open_image(stream: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Open a photo in one of ``FORMATS``. Decoding errors inside the block become ``InputError`` too.

    The limit is ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million). A JPEG above it is decoded at 1/2, 1/4 or 1/8 of its width
    and height, which takes less memory; for a progressive JPEG this begins at 1/4 of the limit. Other formats cannot be
    decoded at a reduced size. They are refused above the limit, WebP above 1/2 of it and JPEG 2000 above 1/3.

    Args:
        stream: the bytes of the photo, seekable.
        name: the photo's name for error messages.

    Raises:
        InputError: the photo has another format, or is truncated, broken or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit is checked below
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # unusual metadata
            with _open(stream, name) as image:
                yield image
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except UnidentifiedImageError:  # its message would show the stream object's address
        stream.seek(0)
        raise InputError(f"{name}: {_describe_contents(stream.read(1024))}") from None
    except Exception as error:  # Pillow's decoders raise many exception types for broken data
        raise InputError(f"{name}: is truncated, broken or not a photo ({error})") from error


def _open(stream: BinaryIO, name: str) -> Image.Image:
    if stream.seek(0, 2) > MAX_FILE_BYTES:
        raise InputError(f"{name}: has {stream.tell():,} bytes, expected at most {MAX_FILE_BYTES:,} for a photo")
    stream.seek(0)
    head = stream.read(12)
    stream.seek(0)
    if head.startswith(b"\xff\xd8\xff"):
        image = JpegImageFile(stream, name)  # Image.open would refuse a large JPEG instead of reducing it
        _limit_jpeg(image, stream, name)
        return image
    if _is_heif(head):
        _has_heif()  # registers the decoder
    opened = Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    copies = DECODER_COPIES.get(opened.format or "", 1)
    if Image.MAX_IMAGE_PIXELS and opened.width * opened.height > Image.MAX_IMAGE_PIXELS // copies:
        raise _too_large(name, opened.width * opened.height, divisor=copies)
    return opened


def _limit_jpeg(image: JpegImageFile, stream: BinaryIO, name: str) -> None:
    """Make Pillow decode a large JPEG at a reduced size; refuse one that would still take too much memory or time."""
    pixels = image.width * image.height
    limit = allowed = Image.MAX_IMAGE_PIXELS or 8 * pixels
    if not _has_single_scan(image, stream):
        sampling = [across * down for _, across, down, _ in image.layer]
        coefficient_bytes = 2 * pixels * sum(sampling) // max(*sampling, 1)
        if pixels > limit and coefficient_bytes > MAX_COEFFICIENT_BYTES:
            raise _too_large(name, pixels, " and is progressive, so all of it would have to be held in memory")
        allowed = limit // 4  # the coefficients take memory too, so the result has to be smaller
        position = stream.tell()
        stream.seek(0)
        scans = stream.read().count(b"\xff\xda")
        stream.seek(position)
        if scans > MAX_SCANS:
            raise InputError(f"{name}: is a JPEG of {scans:,} scans, expected at most {MAX_SCANS}; save it again")
    if pixels > allowed:
        scale = next(scale for scale in (2, 4, 8) if scale == 8 or pixels <= allowed * scale**2)
        image.draft(None, (image.width // scale, image.height // scale))


def _has_single_scan(image: JpegImageFile, stream: BinaryIO) -> bool:
    """Whether the first scan holds all colour components, so that rows are decoded without holding the coefficients.

    ``stream`` is just behind the header of the first scan, where ``JpegImageFile`` stops reading.
    """
    position = stream.tell()
    header = b"\xff\xda" + (6 + 2 * image.layers).to_bytes(2, "big") + bytes([image.layers])
    stream.seek(max(position - 8 - 2 * image.layers, 0))
    found = stream.read(len(header))
    stream.seek(position)
    return found == header and "progressive" not in image.info


def _too_large(name: str, pixels: int | None = None, why: str = "", divisor: int = 1) -> InputError:
    share = f"1/{divisor} of " if divisor > 1 else ""
    limit = ""
    if Image.MAX_IMAGE_PIXELS:
        limit = f", expected at most {Image.MAX_IMAGE_PIXELS // divisor:,} ({share}PIL.Image.MAX_IMAGE_PIXELS)"
    return InputError(
        f"{name}: has {f'{pixels:,}' if pixels else 'too many'} pixels{why}{limit}; "
        "make it smaller, or save it as a plain JPEG, which is reduced while it is decoded"
    )


def _describe_contents(head: bytes) -> str:
    """The end of an error message: what a file that begins with ``head`` is, if it is not a photo."""
    if _is_heif(head):
        return f"is a HEIC photo; {_HEIF_NOTE}"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "is an AVIF photo, which Pillow reads from version 11.3 on"
    if not head.strip(b"\0"):
        return f"is truncated, broken or not a photo (it {'begins with zeros' if head else 'is empty'})"
    if head.startswith(b"%PDF-"):
        return "is a PDF document, not a photo; save its picture as JPEG or PNG"
    if looks_like_html(head):
        return "is truncated, broken or not a photo (it is a web page; download it again)"
    return f"is not a photo in a format that is read here ({', '.join(FORMATS)})"


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in (
        b"heic",
        b"heix",
        b"hevc",
        b"hevx",
        b"heim",
        b"heis",
        b"mif1",
        b"msf1",
    )


def _has_heif() -> bool:
    """Whether HEIC photos can be read: Pillow has a decoder, or pillow-heif is installed and registers one."""
    return "HEIF" in Image.OPEN or _register_heif()


@functools.cache
def _register_heif() -> bool:
    # Every process registers it for itself, so a dataset's worker processes read HEIC too.
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return "HEIF" in Image.OPEN


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _is_hidden(name: str) -> bool:
    return any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in name.split("/"))
