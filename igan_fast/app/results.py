"""Reads photos and writes results. Paths are checked before any work, and files that are read are never overwritten."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from igan_fast.data.photos import PHOTO_SUFFIXES
from igan_fast.errors import InputError, printable
from igan_fast.faces import AlignedPhoto, FaceSearch, FollowedFace
from igan_fast.faces.batches import HELD_PIXELS
from igan_fast.files import check_place, write_file

__all__ = [
    "PHOTOS_AT_A_TIME",
    "IncrementalJson",
    "SomePhotosFailed",
    "check_results",
    "read_photos",
    "result_paths",
    "sheet_fits",
    "tell_faces",
    "tell_reduction",
    "write_text",
    "written_message",
]

#: Number of photos that are read, computed and written at a time. It is small, so that an interruption loses little.
PHOTOS_AT_A_TIME = 16

#: Seconds between two writes of a growing file.
WRITE_EVERY = 5.0


class SomePhotosFailed(Exception):
    """Some photos could not be used. Each has been named on stderr; the results of the others are written."""


def read_photos(
    photos: Sequence[Path], search: FaceSearch | FollowedFace
) -> Iterator[tuple[list[Path], list[AlignedPhoto]]]:
    """Read photos a few at a time, and align their faces.

    A photo that cannot be read or in which no face is found is named on stderr and left out. If a photo shows several
    faces, a line on stderr says how many, and which are taken.

    Yields:
        Paths, and the photos at these paths.

    Raises:
        SomePhotosFailed: after the last photo, if some could not be read.
        InputError: after the last photo, if none could be read. If there is only one photo, its own error is raised.
    """
    failed = 0
    paths: list[Path] = []
    opened: list[AlignedPhoto] = []
    for number, path in enumerate(photos, start=1):
        try:
            photo = search.open(path)
        except InputError as error:
            if len(photos) == 1:
                raise
            failed += 1
            print(f"igan-fast: error: {printable(error)}", file=sys.stderr, flush=True)
        else:
            tell_faces(photo)
            paths.append(path)
            opened.append(photo)
        full = number % PHOTOS_AT_A_TIME == 0 or sum(each.pixels for each in opened) >= HELD_PIXELS
        if paths and (full or number == len(photos)):
            yield paths, opened
            paths, opened = [], []
    if failed == len(photos):
        raise InputError(f"PHOTO: none of the {failed:,} photos could be used")
    if failed:
        raise SomePhotosFailed(f"{failed:,} of {len(photos):,} photos could not be used; the others are done")


def tell_faces(photo: AlignedPhoto, how: str = "--face all takes each") -> None:
    """If a photo shows several faces, say on stderr how many, and which are taken; ``how`` says how to take others."""
    if photo.found > 1:
        taken = f"takes all {photo.found} faces"
        if len(photo.faces) == 1:
            taken = f"takes face {photo.faces[0].number} of {photo.found}, from left to right; {how}"
        print(f"igan-fast: {printable(photo.name)}: {taken}", file=sys.stderr, flush=True)


def tell_reduction(photo: AlignedPhoto, size: tuple[int, int]) -> None:
    """Say so if a result of this size is smaller than the photo because the photo did not fit in memory."""
    if photo.whole is not None and photo.whole.reduced_by > 1 and size == photo.whole.size:
        width, height = size
        print(
            f"{printable(photo.name)}: has more pixels than fit in memory safely; "
            f"the result has {width}×{height}, 1/{photo.whole.reduced_by} of its width and height"
        )


def result_paths(photos: Sequence[Path], out: Path, word: str) -> list[Path]:
    """Return the path of each photo's result: ``out`` if it is a .png file for one photo, else ``out/NAME-WORD.png``.

    Raises:
        InputError: ``out`` is one file for several photos, or a file in another format; or two results would have
            the same name.
    """
    if out.suffix.lower() == ".png" and not out.is_dir():
        if len(photos) > 1:
            raise InputError(f"--out {out}: is one file for {len(photos):,} photos; expected a folder")
        return [out]
    if out.suffix.lower() in PHOTO_SUFFIXES and not out.is_dir():
        raise InputError(f"--out {out}: expected a name that ends in .png for one photo, or a folder")
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
    """Check before any work that all results can be written.

    Args:
        files: the results.
        force: whether existing files may be overwritten.
        given: files and folders that the command reads. These files, and all files in these folders, are never
            overwritten.

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
    """Files and folders that a command reads. A file is recognised under any of its names (links, other paths)."""

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
    """Return the path without links. Path.resolve would raise an error for links that form a loop."""
    return Path(os.path.realpath(path))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


class IncrementalJson:
    """Writes a JSON object, ``{key: value, …}``, entry by entry. The file holds valid JSON at any moment.

    The file is replaced every few seconds and when the ``with`` block ends, even by an exception or Ctrl-C. If there is
    no entry, no file is written.

    Args:
        path: the file. Its name is printed at the end. If it is ``-``, the object is printed at the end instead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[str] = []
        self._written = 0
        self._due = time.monotonic() + WRITE_EVERY

    def add(self, entries: Mapping[str, object]) -> None:
        """Append entries."""
        self._entries += [json.dumps({key: value}, indent=2)[2:-2] for key, value in entries.items()]
        if time.monotonic() >= self._due and str(self._path) != "-":
            began = time.monotonic()
            self._write()
            # A large file is written less often, so that writing takes little of the time.
            self._due = time.monotonic() + max(WRITE_EVERY, 20 * (time.monotonic() - began))

    def __enter__(self) -> IncrementalJson:
        return self

    def __exit__(self, *error: object) -> None:
        if str(self._path) == "-":
            print(self._text())
        elif self._entries:
            if len(self._entries) > self._written:
                self._write()
            print(written_message([self._path]))

    def _text(self) -> str:
        return "{\n" + ",\n".join(self._entries) + "\n}" if self._entries else "{}"

    def _write(self) -> None:
        write_file(self._path, f"{self._text()}\n".encode("ascii"))
        self._written = len(self._entries)


def written_message(files: Sequence[Path]) -> str:
    """Return a line that says what was written."""
    return (
        f"wrote {printable(files[0])}"
        if len(files) == 1
        else f"wrote {len(files):,} files to {printable(files[0].parent)}"
    )


def write_text(path: Path, text: str) -> None:
    """Write a text, which then ends in one line end, and print its name."""
    write_file(path, (text.rstrip("\n") + "\n").encode())
    print(written_message([path]))


def sheet_fits(count: int, pixels: int, rows: int = 1) -> bool:
    """Whether Pillow would open an image of ``count`` times ``rows`` images, each ``pixels`` wide and high."""
    side = max(pixels, 64) + 2
    return Image.MAX_IMAGE_PIXELS is None or count * rows * side**2 <= Image.MAX_IMAGE_PIXELS
