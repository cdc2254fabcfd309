"""Which files are photos, and the one place that opens one: only formats listed here, and never more than fits."""

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

from igan_fast.errors import InputError

__all__ = [
    "FORMATS",
    "MAX_FILE_BYTES",
    "PHOTO_SUFFIXES",
    "describe_left_out",
    "describe_unreadable",
    "is_other_picture",
    "is_photo_name",
    "open_image",
]

#: The only formats that are ever opened, by Pillow's names: decoders of pixels, which start no program and read no
#: other file. (An EPS file, whatever its name, would start Ghostscript.) The contents decide, not the suffix.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF")

#: The files of a folder that count as photos, whatever the case of their letters.
PHOTO_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif",
    ".tiff", ".webp",
)  # fmt: skip

#: Photos too where the package pillow-heif is installed.
HEIF_SUFFIXES = (".heic", ".heif", ".hif")

#: Pictures that the standard library's table of types does not know.
OTHER_SUFFIXES = (
    ".arw", ".cr2", ".cr3", ".dds", ".dng", ".eps", ".exr", ".hdr", ".jxl", ".nef", ".orf", ".pcx", ".pfm", ".psd",
    ".raf", ".raw", ".rw2", ".tga", *HEIF_SUFFIXES,
)  # fmt: skip

#: The largest file that is decoded: what Pillow's limit of 89 megapixels takes as three bytes a pixel, and some more.
MAX_FILE_BYTES = 300 * 2**20

#: What the coefficients of a JPEG may take that has to be held whole until its last scan is read (a progressive one).
MAX_COEFFICIENT_BYTES = 640 * 2**20

#: A progressive JPEG has about ten scans. Each is a pass over the whole picture: 0.1 s at 89 megapixels.
MAX_SCANS = 100

#: Decoders that keep the picture several times over: the limit of pixels is divided by this, so that 2 kB of a file do
#: not become 2 GB of memory.
COPIES = {"WEBP": 2, "JPEG2000": 3}

_HEIF_NOTE = "after pip install pillow-heif HEIC photos are read too"

for _plugin in ("Avif", "Bmp", "Gif", "Jpeg2K", "Png", "Ppm", "Tiff", "WebP"):
    with suppress(ImportError):  # AVIF came with Pillow 11.3
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")


def is_photo_name(name: str) -> bool:
    """Whether a path, with ``/``, has the suffix of a photo and is not hidden (``._face.jpg``, ``__MACOSX/``)."""
    suffix = _suffix(name)
    return (suffix in PHOTO_SUFFIXES or (suffix in HEIF_SUFFIXES and _has_heif())) and not _is_hidden(name)


def is_other_picture(name: str) -> bool:
    """Whether a path has the suffix of a picture, but of none that is read here (``.heic``, ``.tga`` …)."""
    suffix = _suffix(name)
    known = suffix in OTHER_SUFFIXES or mimetypes.types_map.get(suffix, "").startswith("image/")
    return known and not is_photo_name(name) and not _is_hidden(name)


def describe_left_out(names: Sequence[str]) -> str:
    """How many pictures are left out for their format, the first of them, and what to do: for a message."""
    advice = _HEIF_NOTE if any(_suffix(name) in HEIF_SUFFIXES for name in names) else "save them as JPEG or PNG"
    return f"{_count(names, 'picture')} in other formats ({_first(names)}; {advice})"


def describe_unreadable(names: Sequence[str]) -> str:
    """The same for photos that are a link to nothing, a pipe, a device …"""
    return f"{_count(names, 'photo')} with no regular file behind the name ({_first(names)})"


@contextmanager
def open_image(stream: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Open a photo in one of ``FORMATS``; errors of decoding inside the block become ``InputError`` too.

    A JPEG of more than ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million; a quarter of it for a progressive one) is decoded at
    a half, a quarter or an eighth of its size, which takes that much less memory; other formats cannot: refused (WebP
    from a half of that number, JPEG 2000 from a third).

    Args:
        stream: of the photo's bytes, seekable.
        name: what messages call the photo.

    Raises:
        InputError: the photo is in no such format, truncated, broken, or too large. ``name`` is in the message.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit is ours to check
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # oddities of metadata
            with _open(stream, name) as image:
                yield image
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except UnidentifiedImageError:  # its own message shows our buffer's address
        stream.seek(0)
        raise InputError(f"{name}: {_what_it_is(stream.read(1024))}") from None
    except Exception as error:  # Pillow's decoders raise a dozen types for broken data
        raise InputError(f"{name}: is truncated, broken or no photo ({error})") from error


def _open(stream: BinaryIO, name: str) -> Image.Image:
    if stream.seek(0, 2) > MAX_FILE_BYTES:
        raise InputError(f"{name}: is a file of {stream.tell():,} bytes; photos of up to {MAX_FILE_BYTES:,} are read")
    stream.seek(0)
    head = stream.read(12)
    stream.seek(0)
    if head.startswith(b"\xff\xd8\xff"):
        image = JpegImageFile(stream, name)  # Image.open refuses a large one before it can be reduced
        _limit_jpeg(image, stream, name)
        return image
    if _is_heif(head):
        _has_heif()
    opened = Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    copies = COPIES.get(opened.format or "", 1)
    if Image.MAX_IMAGE_PIXELS and opened.width * opened.height > Image.MAX_IMAGE_PIXELS // copies:
        raise _too_large(name, opened.width * opened.height, divisor=copies)
    return opened


def _limit_jpeg(image: JpegImageFile, stream: BinaryIO, name: str) -> None:
    """Have a large JPEG decoded at a reduced size, and refuse one that even then would fill the memory or the day."""
    pixels = image.width * image.height
    limit = allowed = Image.MAX_IMAGE_PIXELS or 8 * pixels
    if not _comes_in_one_scan(image, stream):
        sampling = [across * down for _, across, down, _ in image.layer]
        held = 2 * pixels * sum(sampling) // max(*sampling, 1)
        if pixels > limit and held > MAX_COEFFICIENT_BYTES:
            raise _too_large(name, pixels, ", and is progressive: it would have to be held whole")
        allowed = limit // 4  # beside what is held there is less room for the result
        position = stream.tell()
        stream.seek(0)
        scans = stream.read().count(b"\xff\xda")
        stream.seek(position)
        if scans > MAX_SCANS:
            raise InputError(f"{name}: is a JPEG of {scans:,} scans, expected at most {MAX_SCANS}; save it anew")
    if pixels > allowed:
        scale = next(scale for scale in (2, 4, 8) if scale == 8 or pixels <= allowed * scale**2)
        image.draft(None, (image.width // scale, image.height // scale))


def _comes_in_one_scan(image: JpegImageFile, stream: BinaryIO) -> bool:
    """Whether the first scan, whose header was read last, holds all colours, so that rows are decoded as they come."""
    position = stream.tell()
    header = b"\xff\xda" + (6 + 2 * image.layers).to_bytes(2, "big") + bytes([image.layers])
    stream.seek(max(position - 8 - 2 * image.layers, 0))
    found = stream.read(len(header))
    stream.seek(position)
    return found == header and "progressive" not in image.info


def _too_large(name: str, pixels: int | None = None, why: str = "", divisor: int = 1) -> InputError:
    limit = f"{Image.MAX_IMAGE_PIXELS // divisor:,}" if Image.MAX_IMAGE_PIXELS else "tolerable"
    share = f"/{divisor} (for this format)" if divisor > 1 else ""
    found = f", namely {pixels:,}" if pixels else ""
    return InputError(
        f"{name}: has more than the {limit} pixels of PIL.Image.MAX_IMAGE_PIXELS{share}{found}{why}; "
        "make it smaller, or save it as a plain JPEG, which is reduced while it is decoded"
    )


def _what_it_is(head: bytes) -> str:
    if _is_heif(head):
        return f"is a HEIC photo; {_HEIF_NOTE}"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "is an AVIF photo, which Pillow reads from version 11.3 on"
    if not head.strip(b"\0"):
        return f"is truncated, broken or no photo (it {'begins with zeros' if head else 'is empty'})"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is truncated, broken or no photo (it is a web page; download it again)"
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
    """Whether HEIC can be read: the caller has registered pillow-heif with Pillow, or it is installed."""
    return "HEIF" in Image.OPEN or _register_heif()


@functools.cache
def _register_heif() -> bool:
    # In each process anew, so also in those that decode a dataset.
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return "HEIF" in Image.OPEN


def _count(names: Sequence[str], noun: str) -> str:
    return f"{len(names):,} {noun}{'' if len(names) == 1 else 's'}"


def _first(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _is_hidden(name: str) -> bool:
    return any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in name.split("/"))
