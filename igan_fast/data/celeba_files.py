"""Finds CelebA's photos and annotation files in a folder or a zip, in whatever layout they were handed out."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from igan_fast.data.annotations import MAX_ANNOTATION_BYTES, AnnotationFile, annotation_file
from igan_fast.data.formats import describe_left_out, describe_unreadable, is_other_picture, is_photo_name
from igan_fast.data.photo_files import FolderPhotos, PhotoFiles, ZipPhotos
from igan_fast.errors import InputError
from igan_fast.files import entry_kind

__all__ = ["DataFiles", "find_files"]

#: The file names looked for, in lower case, the best first. The last two find CelebAMask-HQ-attribute-anno.txt.
ATTRIBUTE_FILES = ("list_attr_celeba.txt", "list_attr_celeba.csv", "list_attr*.txt", "list_attr*.csv",
                   "*attribute*.txt", "*attribute*.csv")  # fmt: skip
PARTITION_FILES = ("list_eval_partition.txt", "list_eval_partition.csv")
IDENTITY_FILES = ("identity_celeba.txt", "identity_celeba.csv")
ORIGINALS_FILES = ("celeba-hq-to-celeba-mapping.txt",)
PHOTOS = "img_align_celeba"

#: Folders below the given one that are looked through: DIR/CelebA/Img/img_align_celeba is three down.
DEPTH = 3


@dataclass(frozen=True)
class DataFiles:
    """What was found."""

    photos: PhotoFiles
    attributes: AnnotationFile | None
    partition: AnnotationFile | None
    identities: AnnotationFile | None
    originals: AnnotationFile | None  #: which of CelebA's photos each one of CelebA-HQ was made from
    problems: list[str]  #: what was left out, a phrase each


@dataclass(frozen=True)
class _Listing:
    """The files below a folder."""

    folder: Path
    files: list[str]  #: as paths with ``/``, near ones first
    problems: list[str]

    def find(self, patterns: Sequence[str]) -> AnnotationFile | None:
        found = _best(self.files, patterns)
        return None if found is None else annotation_file(self.folder / found)


def find_files(path: Path) -> DataFiles:
    """The photos and annotation files in a folder, or in and beside a zip.

    A folder's own annotation files come before those in its zip; those in a zip that is named itself come first.

    Raises:
        InputError: no such folder, it cannot be read, it holds no photos, or a zip is damaged.
    """
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(f"data: {path}: cannot be read: {error.strerror}") from error
    if path.suffix.lower() == ".zip" and exists and not is_folder:
        listing = _list(path.parent)
        photos: PhotoFiles = ZipPhotos(path)
        is_outside_first = False
        problems = []  # of the folder, which may be any
    elif is_folder:
        listing = _list(path)
        photos = _find_photos(listing)
        is_outside_first = True
        problems = listing.problems
    else:
        found = "a file" if exists else "no such folder"
        raise InputError(f"data: {path}: {found}; expected a folder with CelebA's files, or 'drawn' for built-in faces")
    files = photos.files if isinstance(photos, ZipPhotos) else listing.files
    others = [file for file in files if is_other_picture(file)]
    problems = [*problems, *([describe_left_out(others)] if others else [])]
    if not photos.names:
        zips = [file for file in listing.files if file.lower().endswith(".zip")]
        also = f"; it has {len(zips)} zips: name one of them ({', '.join(zips[:3])})" if len(zips) > 1 else ""
        left = f"; left out: {' and '.join(problems)}" if problems else ""
        raise InputError(
            f"{photos.path}: holds no photos; expected img_align_celeba/ or img_align_celeba.zip{also}{left}"
        )

    def find(patterns: Sequence[str]) -> AnnotationFile | None:
        inside = _find_in_zip(photos, patterns) if isinstance(photos, ZipPhotos) else None
        outside = listing.find(patterns)
        return (outside or inside) if is_outside_first else (inside or outside)

    return DataFiles(
        photos, find(ATTRIBUTE_FILES), find(PARTITION_FILES), find(IDENTITY_FILES), find(ORIGINALS_FILES), problems
    )


def _list(top: Path) -> _Listing:
    """Every file down to ``DEPTH`` levels below ``top`` that is not hidden, each once: links may lead round in circles.

    A photo that is a link to nothing, or no regular file, is left out.
    """
    files: list[str] = []
    dangling: list[str] = []
    unreadable: list[str] = []
    seen: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    # Folders first, at every depth, and what links lead to afterwards: a link beside a folder is the other name.
    while folders or links:
        prefix = (folders or links).pop(0)
        try:
            status = (top / prefix).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(top / prefix) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                raise InputError(f"{top}: cannot be read: {error.strerror}") from error
            unreadable.append(prefix)
            continue
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            kind = entry_kind(entry)
            if kind == "folder":
                if prefix.count("/") < DEPTH:
                    (links if entry.is_symlink() else folders).append(f"{name}/")
            elif kind == "other" and is_photo_name(name):
                dangling.append(name)
            else:
                files.append(name)
    problems = [describe_unreadable(dangling)] if dangling else []
    if unreadable:
        listed = f"{', '.join(unreadable[:3])}{', …' if len(unreadable) > 3 else ''}"
        problems.append(
            f"{len(unreadable):,} folder{'' if len(unreadable) == 1 else 's'} that cannot be read ({listed})"
        )
    return _Listing(top, sorted(files, key=lambda file: file.count("/")), problems)


def _find_photos(listing: _Listing) -> PhotoFiles:
    folder = listing.folder
    photos = [file for file in listing.files if is_photo_name(file)]
    zips = [file for file in listing.files if file.lower().endswith(".zip")]
    if aligned := [photo for photo in photos if PHOTOS in photo.lower().split("/")[:-1]]:
        return FolderPhotos(folder, aligned)
    if aligned := [file for file in zips if PurePosixPath(file).stem.lower() == PHOTOS]:
        return ZipPhotos(folder / aligned[0])
    if len(zips) == 1 and not (photos and listing.find(ATTRIBUTE_FILES)):
        archive = ZipPhotos(folder / zips[0])
        if not photos or _find_in_zip(archive, ATTRIBUTE_FILES):  # then the photos outside are something else
            return archive
    return FolderPhotos(folder, photos)


def _find_in_zip(photos: ZipPhotos, patterns: Sequence[str]) -> AnnotationFile | None:
    name = _best(sorted((f for f in photos.files if "__MACOSX" not in f), key=lambda file: file.count("/")), patterns)
    if name is None:
        return None
    return AnnotationFile(photos.where(name), PurePosixPath(name).name, lambda: photos.open(name, MAX_ANNOTATION_BYTES))


def _best(files: Sequence[str], patterns: Sequence[str]) -> str | None:
    """The file that fits the earliest of ``patterns``; of several, the first, which is the nearest."""
    last_parts = [file.rpartition("/")[2].lower() for file in files]
    for pattern in patterns:
        if found := fnmatch.filter(last_parts, pattern):
            return files[last_parts.index(found[0])]
    return None
