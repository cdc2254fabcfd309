"""Photos in a folder or in a zip, read one at a time and without unpacking."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from igan_fast.data.annotations import looks_like_html
from igan_fast.data.photos import PHOTO_SUFFIXES, load_photo
from igan_fast.errors import InputError

__all__ = ["FolderPhotos", "PhotoFiles", "ZipPhotos", "decode_photo", "is_photo_name"]


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

    def read(self, name: str) -> bytes:
        """The contents of a photo's file. Raises ``InputError`` that names the file."""

    def digest(self, names: Iterable[str]) -> str:
        """A hexadecimal digest that changes when the contents of one of these photos, or their order, would."""


def is_photo_name(name: str) -> bool:
    """Whether a path, with ``/``, has the suffix of a photo and is not hidden (``._face.jpg``, ``__MACOSX/``)."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in PHOTO_SUFFIXES and not hidden


def decode_photo(photos: PhotoFiles, name: str, size: int) -> NDArray[np.uint8]:
    """A photo's centre square as (size, size, 3) RGB, exactly as ``load_photo`` gives a user's own photo to the model.

    JPEG's reduced-size decoding is not used: it would save little at CelebA's 178 pixels, and training photos would be
    sampled in another way than the ones that are edited later.

    Raises:
        InputError: the photo is truncated, broken, smaller than 16 pixels, or too large to be safe.
    """
    content = photos.read(name)
    where = photos.where(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                return load_photo(image, size, name=where)
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # its own message shows our buffer's address
        found = "is not a photo in a format that Pillow reads" if content else "is empty"
        raise InputError(f"{where}: {found}") from error
    except Exception as error:  # Pillow's decoders raise a dozen types for broken data
        found = f"is truncated, broken or no photo ({error})"
        raise InputError(f"{where}: {found}") from error


class FolderPhotos:
    """Photos below a folder: ``names`` are their paths in it."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self.names = names

    def where(self, name: str) -> str:
        return str(self.path / name)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.path / name}: cannot be read: {error.strerror}") from error

    def digest(self, names: Iterable[str]) -> str:
        """From names, sizes and times of change: reading everything would take as long as building the store."""
        digest = hashlib.sha256()
        for name in names:
            try:
                status = (self.path / name).stat()
            except OSError as error:
                raise InputError(f"{self.path / name}: cannot be read: {error.strerror}") from error
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


class ZipPhotos:
    """Photos in a zip. Each process opens the file for itself, when it reads the first photo.

    Raises:
        InputError: the file cannot be read, is a web page, is truncated, or is no zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None  # by which process
        self.names: Sequence[str] = [name for name in self._zip().namelist() if is_photo_name(name)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def where(self, name: str) -> str:
        return f"{self.path}: {name}"

    def read(self, name: str) -> bytes:
        archive = self._zip()
        try:
            return archive.read(name)  # checks the CRC
        except Exception as error:  # zlib's, zipfile's and the operating system's errors for broken data
            raise InputError(f"{self.where(name)}: cannot be unpacked ({error})") from error

    def digest(self, names: Iterable[str]) -> str:
        """From names, sizes and checksums, which the zip's table of contents has."""
        archive = self._zip()
        digest = hashlib.sha256()
        for name in names:
            entry = archive.getinfo(name)
            digest.update(f"{name}\0{entry.file_size}\0{entry.CRC}\n".encode())
        return digest.hexdigest()

    def _zip(self) -> zipfile.ZipFile:
        # A forked process must not share the file position with its parent.
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise InputError(f"{self.path}: {_what_is_wrong(self.path)}") from error
            except OSError as error:
                raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        return self._opened[1]


def _what_is_wrong(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(1024)
    if looks_like_html(head):
        return "is a web page, not a zip (Google Drive's quota or sign-in page?); download it again"
    if not head:
        return "is empty, not a zip; download it again"
    if head.startswith(b"PK"):
        return f"is a truncated or damaged zip ({path.stat().st_size:,} bytes); download it again"
    return f"is not a zip (it begins with {head[:8]!r})"
