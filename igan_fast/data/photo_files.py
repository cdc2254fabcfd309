"""Photos in a folder or in a zip, read one at a time and without unpacking."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.annotations import looks_like_html
from igan_fast.data.formats import MAX_FILE_BYTES, is_photo_name
from igan_fast.data.photos import decode_stream
from igan_fast.errors import InputError
from igan_fast.files import open_regular

__all__ = ["FolderPhotos", "PhotoFiles", "ZipPhotos", "decode_photo"]

#: Bytes that are read at a time from a packed file, by its compression: with deflate that bounds what they unpack to;
#: with LZMA each byte may become 7,000. Of bzip2, which is in no list, a few become gigabytes.
_STEPS = {zipfile.ZIP_STORED: 2**20, zipfile.ZIP_DEFLATED: 2**20, zipfile.ZIP_LZMA: 2**12}

#: Longer than what the kernel's clock of files counts in: later changes of a file get a later time.
_TICK_NS = 20_000_000


class PhotoFiles(Protocol):
    """Where photos are read from."""

    @property
    def path(self) -> Path:
        """The folder or the zip."""

    @property
    def names(self) -> Sequence[str]:
        """The photos, as paths below ``path`` with ``/``."""

    def where(self, name: str) -> str:
        """What messages call a photo."""

    def open(self, name: str) -> BinaryIO:
        """A photo's file, to be read from its beginning. Raises ``InputError`` that names the file."""

    def digest(self, names: Iterable[str]) -> str:
        """A hexadecimal digest that changes when the contents of one of these photos, or their order, would."""


def decode_photo(photos: PhotoFiles, name: str, size: int) -> NDArray[np.uint8]:
    """A photo's centre square as (size, size, 3) RGB, exactly as ``load_photo`` gives a user's own photo to the model.

    Raises:
        InputError: the photo is truncated, broken, smaller than 16 pixels, or too large to be safe.
    """
    with photos.open(name) as stream:
        return decode_stream(stream, size, photos.where(name))


class FolderPhotos:
    """Photos below a folder: ``names`` are their paths in it."""

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
        """From names, sizes and times of change: reading everything would take as long as building the store.

        Two times: of the last change of a file's contents, which can be set to anything by whoever puts a photo in
        another one's place, and of the last change of what is known about it (ctime), which the system keeps.
        """
        digest = hashlib.sha256()
        newest = 0
        for name in names:
            try:
                status = (self.path / name).stat()
            except OSError:  # it has gone; whoever decodes it will say so
                digest.update(f"{name}\0gone\n".encode("utf-8", "surrogateescape"))
                continue
            newest = max(newest, status.st_ctime_ns)
            state = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\n"
            digest.update(state.encode("utf-8", "surrogateescape"))
        # A photo that is changed within the same tick of the clock would keep its time.
        if 0 <= (age := time.time_ns() - newest) < _TICK_NS:
            time.sleep((_TICK_NS - age) / 1e9)
        return digest.hexdigest()


class ZipPhotos:
    """Photos in a zip. Each process opens the file for itself, when it reads the first photo.

    Raises:
        InputError: the file cannot be read, is a web page, is truncated, or is no zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None  # by which process
        #: Every file in it, with ``/`` between folders. Of two entries with one name the later one counts.
        self._entries: dict[str, zipfile.ZipInfo] = {
            name: entry for entry in self._zip().infolist() if not (name := _name_of(entry)).endswith("/")
        }
        self.names: Sequence[str] = [name for name in self._entries if is_photo_name(name)]

    @property
    def files(self) -> list[str]:
        """All files in the zip, photos or not."""
        return list(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def where(self, name: str) -> str:
        return f"{self.path}: {name}"

    def open(self, name: str, limit: int = MAX_FILE_BYTES) -> BinaryIO:
        """A file of the zip, unpacked; of more than ``limit`` bytes it is refused before they fill the memory."""
        entry = self._entries[name]
        if entry.file_size > limit:
            raise InputError(f"{self.where(name)}: unpacks to {entry.file_size:,} bytes; up to {limit:,} are read")
        if entry.compress_type not in _STEPS:
            packed = zipfile.compressor_names.get(entry.compress_type, f"method {entry.compress_type}")  # type: ignore[attr-defined]
            raise InputError(f"{self.where(name)}: cannot be unpacked: is packed with {packed}, expected deflate")
        content = bytearray()
        archive = self._zip()
        try:
            with archive.open(entry) as file:  # it checks the CRC at the end
                while part := file.read(_STEPS[entry.compress_type]):
                    content += part
        except Exception as error:  # zlib's, zipfile's and the operating system's errors for broken data
            raise InputError(f"{self.where(name)}: cannot be unpacked ({error})") from error
        if len(content) != entry.file_size:
            raise InputError(
                f"{self.where(name)}: cannot be unpacked (found {len(content):,} bytes, expected {entry.file_size:,})"
            )
        return io.BytesIO(content)

    def digest(self, names: Iterable[str]) -> str:
        """From names, sizes and checksums, which the zip's table of contents has."""
        digest = hashlib.sha256()
        for name in names:
            entry = self._entries[name]
            digest.update(f"{name}\0{entry.file_size}\0{entry.CRC}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _zip(self) -> zipfile.ZipFile:
        # A forked process must not share the file position with its parent.
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                open_regular(self.path).close()  # a pipe or a device is refused, and not waited for
                self._opened = os.getpid(), zipfile.ZipFile(self.path)
            except InputError:
                raise
            except OSError as error:
                raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from error
            except Exception as error:  # BadZipFile, and what else zipfile raises for a damaged table of contents
                raise InputError(f"{self.path}: {_what_is_wrong(self.path)}") from error
        return self._opened[1]


def _name_of(entry: zipfile.ZipInfo) -> str:
    """An entry's path, with ``/`` and as UTF-8: some programs write other separators, or leave out UTF-8's flag."""
    name = entry.filename
    if not entry.flag_bits & 0x800:
        name = name.encode("cp437").decode("utf-8", "surrogateescape")
    return name.replace("\\", "/")


def _what_is_wrong(path: Path) -> str:
    with open_regular(path) as file:
        head = file.read(1024)
    if looks_like_html(head):
        return "is a web page, not a zip (Google Drive's quota or sign-in page?); download it again"
    if not head:
        return "is empty, not a zip; download it again"
    if head.startswith(b"PK"):
        return f"is a truncated or damaged zip ({path.stat().st_size:,} bytes); download it again"
    return f"is not a zip (it begins with {head[:8]!r})"
