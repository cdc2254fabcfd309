"""Reads single photos from a folder, or from a zip without unpacking it to disk."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.annotations import looks_like_html
from igan_fast.data.formats import MAX_FILE_BYTES, is_photo_name, open_image
from igan_fast.data.photos import decode_stream
from igan_fast.data.source import Aligner
from igan_fast.errors import InputError
from igan_fast.files import open_regular

__all__ = ["FolderPhotos", "PhotoFiles", "ZipPhotos", "decode_photo", "decode_photo_stream", "photos_fingerprint"]

#: How photos are cropped and resized. It is part of the fingerprint, so changing this text rebuilds every store.
CROP = "centre square, bicubic, 2"

#: How many bytes to read at a time from a zip entry, by its compression. This bounds the memory of one read: a byte of
#: LZMA may unpack to 7,000 bytes. bzip2 is missing, because a few of its bytes may unpack to gigabytes.
_READ_BYTES = {zipfile.ZIP_STORED: 2**20, zipfile.ZIP_DEFLATED: 2**20, zipfile.ZIP_LZMA: 2**12}

#: More than the resolution of file times (a tick of the kernel's clock), so a change after this interval has a later
#: time.
_CLOCK_TICK_NS = 20_000_000


class PhotoFiles(Protocol):
    """A folder or a zip of photos."""

    @property
    def path(self) -> Path:
        """The folder or the zip."""

    @property
    def names(self) -> Sequence[str]:
        """The photos, as paths below ``path`` with ``/``."""

    def where(self, name: str) -> str:
        """A photo's full path, for error messages."""

    def open(self, name: str) -> BinaryIO:
        """Open a photo at its first byte. Raises ``InputError``, which names the file."""

    def digest(self, names: Iterable[str]) -> str:
        """A hexadecimal digest that changes if the contents of one of these photos or their order changes."""

    def keys(self, names: Sequence[str]) -> list[Hashable]:
        """A key for each photo. Links to one file have the same key, and copies of one file that keep its name."""


def decode_photo(photos: PhotoFiles, name: str, size: int, align: Aligner | None = None) -> NDArray[np.uint8]:
    """A photo, cropped to its centre square and resized, with the same result as ``load_photo``; or its face, aligned.

    Args:
        photos: the folder or zip.
        name: one of its photos.
        size: side of the result in pixels.
        align: cuts out the face; None takes the centre square.

    Returns:
        (size, size, 3) uint8, RGB.

    Raises:
        InputError: the photo is truncated, broken, smaller than 16 pixels, or too large to decode safely.
    """
    with photos.open(name) as stream:
        return decode_photo_stream(stream, photos.where(name), size, align)


def decode_photo_stream(stream: BinaryIO, where: str, size: int, align: Aligner | None = None) -> NDArray[np.uint8]:
    """``decode_photo`` for the bytes of a photo. ``where`` names the photo in error messages."""
    if align is None:
        return decode_stream(stream, size, where)
    with open_image(stream, where) as image:
        return align(image, size, where)


def photos_fingerprint(digest: str, align: Aligner | None) -> str:
    """A dataset's fingerprint: a hexadecimal digest of ``digest`` of its photos and of how they are cropped."""
    crop = CROP if align is None else f"aligned faces, {align.version}"
    return hashlib.sha256(f"{crop}\n{digest}".encode()).hexdigest()


class FolderPhotos:
    """Photos in a folder. ``names`` are their paths relative to it."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self.names = names

    def where(self, name: str) -> str:
        return str(self.path / name)

    def open(self, name: str) -> BinaryIO:
        try:
            return open_regular(self.path / name)
        except OSError as error:
            raise InputError(f"{self.path / name}: cannot be read: {error.strerror}") from error

    def digest(self, names: Iterable[str]) -> str:
        """A digest of names, sizes, mtimes and ctimes. Reading the contents would take as long as building the store.

        The mtime alone is not enough: a program that replaces a photo may set it to the old value. The ctime is set by
        the kernel.
        """
        digest = hashlib.sha256()
        newest = 0
        for name in names:
            try:
                status = (self.path / name).stat()
            except OSError:  # the file is gone, which ``open`` reports when the photo is decoded
                digest.update(f"{name}\0gone\n".encode("utf-8", "surrogateescape"))
                continue
            newest = max(newest, status.st_ctime_ns)
            state = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\n"
            digest.update(state.encode("utf-8", "surrogateescape"))
        # A photo that changes twice within one clock tick keeps its time: wait until the tick is over.
        if 0 <= (age := time.time_ns() - newest) < _CLOCK_TICK_NS:
            time.sleep((_CLOCK_TICK_NS - age) / 1e9)
        return digest.hexdigest()

    def keys(self, names: Sequence[str]) -> list[Hashable]:
        """Keys as in ``PhotoFiles``. Only files of the same name and size are read, to compare their contents."""
        inodes: list[Hashable] = []
        files: dict[Hashable, tuple[str, int, str]] = {}  # of each inode: the name without folders, size, a path
        for name in names:
            try:
                status = (self.path / name).stat()
                inodes.append((status.st_dev, status.st_ino))
                files.setdefault(inodes[-1], (PurePosixPath(name).name, status.st_size, name))
            except OSError:  # the file is gone, which ``open`` reports when the photo is decoded
                inodes.append(name)
        alike = Counter((name, size) for name, size, _ in files.values())
        contents: dict[Hashable, Hashable] = {}
        for inode, (name, size, path) in files.items():
            if alike[name, size] > 1 and (content := self._content_digest(path)):
                contents[inode] = name, content
        return [contents.get(inode, inode) for inode in inodes]

    def _content_digest(self, name: str) -> str | None:
        """A digest of a photo's bytes; None if it cannot be read."""
        digest = hashlib.sha256()
        try:
            with self.open(name) as file:
                while part := file.read(2**20):
                    digest.update(part)
        except (InputError, OSError):
            return None
        return digest.hexdigest()


class ZipPhotos:
    """Photos in a zip. Each process opens the zip for itself when it reads its first photo.

    Raises:
        InputError: the file cannot be read, is truncated, or is not a zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None  # the process that opened the zip, and the open zip
        #: All files in the zip, by path with ``/``. If two entries have the same name, the later one wins.
        self._entries: dict[str, zipfile.ZipInfo] = {
            name: entry for entry in self._zip().infolist() if not (name := _entry_name(entry)).endswith("/")
        }
        self.names: Sequence[str] = [name for name in self._entries if is_photo_name(name)]
        #: The folders that the zip lists, which may be empty, by path with ``/`` at the end. Not all zips list folders.
        self.folders = [name for entry in self._zip().infolist() if (name := _entry_name(entry)).endswith("/")]

    @property
    def files(self) -> list[str]:
        """The paths of all files in the zip, including those that are not photos."""
        return list(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def where(self, name: str) -> str:
        return f"{self.path}: {name}"

    def open(self, name: str, limit: int = MAX_FILE_BYTES) -> BinaryIO:
        """Unpack a file of the zip into memory.

        Raises:
            InputError: the file has more than ``limit`` bytes, an unsupported compression, or damaged contents.
        """
        entry = self._entries[name]
        if entry.file_size > limit:
            raise InputError(f"{self.where(name)}: unpacks to {entry.file_size:,} bytes, expected at most {limit:,}")
        if entry.compress_type not in _READ_BYTES:
            packed = zipfile.compressor_names.get(entry.compress_type, f"method {entry.compress_type}")  # type: ignore[attr-defined]
            raise InputError(f"{self.where(name)}: cannot be unpacked: found {packed} compression, expected deflate")
        content = bytearray()
        archive = self._zip()
        try:
            with archive.open(entry) as file:  # zipfile checks the CRC at the end and never returns more than file_size
                while part := file.read(_READ_BYTES[entry.compress_type]):
                    content += part
        except Exception as error:  # zlib's, zipfile's and the operating system's errors for broken data
            raise InputError(f"{self.where(name)}: cannot be unpacked ({error})") from error
        if len(content) != entry.file_size:
            raise InputError(
                f"{self.where(name)}: cannot be unpacked (found {len(content):,} bytes, expected {entry.file_size:,})"
            )
        return io.BytesIO(content)

    def digest(self, names: Iterable[str]) -> str:
        """A digest of names, sizes and CRCs, which are in the zip's table of contents."""
        digest = hashlib.sha256()
        for name in names:
            entry = self._entries[name]
            digest.update(f"{name}\0{entry.file_size}\0{entry.CRC}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def keys(self, names: Sequence[str]) -> list[Hashable]:
        """Keys as in ``PhotoFiles``, by the sizes and CRCs in the zip's table of contents."""
        entries = [self._entries[name] for name in names]
        return [
            (PurePosixPath(name).name, entry.file_size, entry.CRC) for name, entry in zip(names, entries, strict=True)
        ]

    def _zip(self) -> zipfile.ZipFile:
        # A forked process opens the zip again: parent and child would share the file position.
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                open_regular(self.path).close()  # raises for a pipe or device, where ZipFile would block
                self._opened = os.getpid(), zipfile.ZipFile(self.path)
            except InputError:
                raise
            except OSError as error:
                raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from error
            except Exception as error:  # zipfile raises BadZipFile and other types for a damaged table of contents
                raise InputError(f"{self.path}: {_describe_damage(self.path)}") from error
        return self._opened[1]


def _entry_name(entry: zipfile.ZipInfo) -> str:
    """An entry's path with ``/``, decoded from UTF-8. Some programs write ``\\``, or UTF-8 without its flag."""
    name = entry.filename
    if not entry.flag_bits & 0x800:
        name = name.encode("cp437").decode("utf-8", "surrogateescape")
    return name.replace("\\", "/")


def _describe_damage(path: Path) -> str:
    """The end of an error message: why the file at ``path`` cannot be opened as a zip."""
    with open_regular(path) as file:
        head = file.read(1024)
    if looks_like_html(head):
        return "is a web page, not a zip (Google Drive's quota or sign-in page?); download it again"
    if not head:
        return "is empty, not a zip; download it again"
    if head.startswith(b"PK"):
        return f"is a truncated or damaged zip ({path.stat().st_size:,} bytes); download it again"
    return f"is not a zip (it begins with {head[:8]!r})"
