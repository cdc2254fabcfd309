"""Where results go: checked before any work, written as they come, never over what was given."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igan_fast.data.photos import PHOTO_SUFFIXES, load_photo
from igan_fast.errors import InputError, printable
from igan_fast.files import check_place, write_file

__all__ = [
    "PHOTOS_AT_A_TIME",
    "GrowingJson",
    "SomeFailed",
    "check_results",
    "names_of_results",
    "read_photos",
    "sheet_fits",
    "told",
]

#: Photos that are read, computed and written before the next: few, so that little is lost by an interruption.
PHOTOS_AT_A_TIME = 16

#: Seconds between two writes of a file that grows.
WRITE_EVERY = 5.0


class SomeFailed(Exception):
    """Some photos could not be used, which was said of each; the results of the others are written."""


def read_photos(photos: Sequence[Path], size: int) -> Iterator[tuple[list[Path], list[NDArray[np.uint8]]]]:
    """Read photos a few at a time: their paths, and each as (size, size, 3) uint8.

    One that cannot be read is named on stderr and left out.

    Raises:
        SomeFailed: after the last, where some could not be read.
        InputError: after the last, where none could be.
    """
    failed = 0
    for start in range(0, len(photos), PHOTOS_AT_A_TIME):
        paths: list[Path] = []
        pictures: list[NDArray[np.uint8]] = []
        for path in photos[start : start + PHOTOS_AT_A_TIME]:
            try:
                pictures.append(load_photo(path, size))
            except InputError as error:
                if len(photos) == 1:
                    raise
                failed += 1
                print(f"igan-fast: error: {printable(error)}", file=sys.stderr, flush=True)
            else:
                paths.append(path)
        if paths:
            yield paths, pictures
    if failed == len(photos):
        raise InputError(f"PHOTO: none of the {failed:,} photos can be used")
    if failed:
        raise SomeFailed(f"{failed:,} of {len(photos):,} photos could not be used; the others are done")


def names_of_results(photos: Sequence[Path], out: Path, word: str) -> list[Path]:
    """Where each photo's result goes: ``out`` itself, a .png for one photo; else ``NAME-WORD.png`` in that folder.

    Raises:
        InputError: a file for several photos, a file in another format, or two photos whose results would have one
            name.
    """
    if out.suffix.lower() == ".png" and not out.is_dir():
        if len(photos) > 1:
            raise InputError(f"--out {out}: is one file for {len(photos):,} photos; expected a folder")
        return [out]
    if out.suffix.lower() in PHOTO_SUFFIXES and not out.is_dir():
        raise InputError(f"--out {out}: expected a name in .png for one photo, or a folder")
    from_name: dict[Path, Path] = {}
    for photo in photos:
        file = out / f"{photo.stem}-{word}.png"
        if file in from_name:
            raise InputError(
                f"PHOTO: {from_name[file]} and {photo} would both be written to {file}; rename one, or give them one "
                "by one"
            )
        from_name[file] = photo
    return list(from_name)


def check_results(files: Iterable[Path], *, force: bool, given: Iterable[Path] = ()) -> None:
    """Before any work: nothing may be written over, unless forced, nor twice, nor into what is no folder.

    Args:
        files: what would be written.
        force: whether files that exist may be written over.
        given: what the command reads: a file, or a folder of which every file counts. It is never written over.

    Raises:
        InputError: names the file, and why it cannot be written.
    """
    sources = _Sources(given)
    seen: set[Path] = set()
    for file in files:
        if file in seen:
            raise InputError(f"{file}: two results would be written to this file; expected a name for each")
        seen.add(file)
        check_place(file)
        if file.is_dir():
            raise InputError(f"{file}: found a folder, expected the name of a file to write")
        if not os.path.lexists(file):
            continue
        if file in sources:
            raise InputError(f"{file}: is read by this command, and is never written over; expected another name")
        if not force:
            raise InputError(f"{file}: exists already; --force writes over it")


class _Sources:
    """Files and folders that are read, whatever name they are known by."""

    def __init__(self, given: Iterable[Path]) -> None:
        self._files: set[tuple[int, int]] = set()
        self._folders: list[Path] = []
        for path in given:
            if path.is_dir():
                self._folders.append(_real(path))
            elif path.exists():
                self._files.add(_identity(path))

    def __contains__(self, file: Path) -> bool:
        return (file.exists() and _identity(file) in self._files) or any(
            _real(file).is_relative_to(folder) for folder in self._folders
        )


def _real(path: Path) -> Path:
    """The path without links. Path.resolve raises at one that leads round in a circle."""
    return Path(os.path.realpath(path))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


class GrowingJson:
    """One JSON object, ``{key: value, …}``, in a file that is whole whenever it is looked at.

    It is replaced every few seconds while it grows, and at the end, whatever ended it: leaving the ``with`` block by an
    exception, Ctrl-C among them, keeps what there is. Without any entry no file is written.

    Args:
        path: the file, which a line names when it is done; ``-`` prints the object at the end instead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[str] = []
        self._written = 0
        self._due = time.monotonic() + WRITE_EVERY

    def add(self, entries: Mapping[str, object]) -> None:
        """Put entries at the end."""
        self._entries += [json.dumps({key: value}, indent=2)[2:-2] for key, value in entries.items()]
        if time.monotonic() >= self._due and str(self._path) != "-":
            began = time.monotonic()
            self._write()
            # A large file is written more rarely, so that most of the time goes into the work.
            self._due = time.monotonic() + max(WRITE_EVERY, 20 * (time.monotonic() - began))

    def __enter__(self) -> GrowingJson:
        return self

    def __exit__(self, *error: object) -> None:
        if str(self._path) == "-":
            print(self._text())
        elif self._entries:
            if len(self._entries) > self._written:
                self._write()
            print(told([self._path]))

    def _text(self) -> str:
        return "{\n" + ",\n".join(self._entries) + "\n}" if self._entries else "{}"

    def _write(self) -> None:
        write_file(self._path, f"{self._text()}\n".encode("ascii"))
        self._written = len(self._entries)


def told(files: Sequence[Path]) -> str:
    """What was written, in a line."""
    return (
        f"wrote {printable(files[0])}"
        if len(files) == 1
        else f"wrote {len(files):,} files to {printable(files[0].parent)}"
    )


def sheet_fits(count: int, pixels: int, rows: int = 1) -> bool:
    """Whether a picture of ``count`` times ``rows`` pictures, each ``pixels`` wide and high, can be opened again."""
    side = max(pixels, 64) + 2
    return Image.MAX_IMAGE_PIXELS is None or count * rows * side**2 <= Image.MAX_IMAGE_PIXELS
