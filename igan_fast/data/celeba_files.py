"""Finds the photos and annotation files of a dataset in a folder or a zip, in any of CelebA's usual layouts."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from igan_fast.data.annotations import MAX_ANNOTATION_BYTES, AnnotationFile, annotation_file
from igan_fast.data.formats import describe_non_files, describe_unsupported, is_photo_name, is_unsupported_name
from igan_fast.data.messages import counted, first_three
from igan_fast.data.photo_files import FolderPhotos, PhotoFiles, ZipPhotos
from igan_fast.errors import InputError
from igan_fast.files import entry_kind
from igan_fast.paths import given_path

__all__ = ["DataFiles", "Listing", "find_files", "list_files"]

#: File name patterns, in lower case and in order of preference. The last two match CelebAMask-HQ-attribute-anno.txt.
ATTRIBUTE_FILES = ("list_attr_celeba.txt", "list_attr_celeba.csv", "list_attr*.txt", "list_attr*.csv",
                   "*attribute*.txt", "*attribute*.csv")  # fmt: skip
PARTITION_FILES = ("list_eval_partition.txt", "list_eval_partition.csv")
IDENTITY_FILES = ("identity_celeba.txt", "identity_celeba.csv")
ORIGINALS_FILES = ("celeba-hq-to-celeba-mapping.txt",)
PHOTOS = "img_align_celeba"

#: How many levels of subfolders are searched: DIR/CelebA/Img/img_align_celeba is three levels below DIR.
DEPTH = 3


@dataclass(frozen=True)
class DataFiles:
    """The photos and annotation files of a dataset; None for a file that it lacks."""

    path: Path  #: the folder, zip or parquet file that was searched
    photos: PhotoFiles
    attributes: AnnotationFile | None
    partition: AnnotationFile | None
    identities: AnnotationFile | None
    originals: AnnotationFile | None  #: the mapping from CelebA-HQ photos to the CelebA photos that they come from
    parquet: list[str]  #: parquet files, which hold photos with their labels, as paths below ``folder``
    problems: list[str]  #: one phrase for each kind of file that was left out

    @property
    def folder(self) -> Path:
        """``path``, or the folder around it if it is a file."""
        return self.path if self.path.is_dir() else self.path.parent


@dataclass(frozen=True)
class Listing:
    """The files below a folder."""

    folder: Path
    files: list[str]  #: relative paths with ``/``, those with the fewest folders first
    problems: list[str]  #: one phrase for each kind of file that was left out

    def with_suffix(self, suffix: str) -> list[str]:
        """The files whose names end in ``suffix``, in upper or lower case."""
        return [file for file in self.files if file.lower().endswith(suffix)]

    def find(self, patterns: Sequence[str]) -> AnnotationFile | None:
        """The file that matches the earliest of ``patterns``."""
        found = _best_match(self.files, patterns)
        return None if found is None else annotation_file(self.folder / found)


def find_files(data: str | Path) -> DataFiles:
    """Find the photos and annotation files of the dataset at ``data``, a folder, a zip or a parquet file.

    A zip may hold annotation files, and so may the folder around it. If ``data`` is the folder, the folder's files are
    preferred; if ``data`` is the zip, the zip's.

    Raises:
        InputError: ``data`` does not exist, cannot be read or holds neither photos nor parquet files, or a zip is
            damaged.
    """
    path = given_path(data, "data")
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(f"data: {path}: cannot be read: {error.strerror}") from error
    if path.suffix.lower() == ".zip" and exists and not is_folder:
        listing = list_files(path.parent)
        photos: PhotoFiles = ZipPhotos(path)
        prefers_folder = False
        problems = []  # the folder around the zip may hold anything: its problems are not the dataset's
    elif path.suffix.lower() == ".parquet" and exists and not is_folder:
        return DataFiles(path, FolderPhotos(path.parent, []), None, None, None, None, [path.name], [])
    elif is_folder:
        listing = list_files(path)
        photos = _find_photos(listing)
        prefers_folder = True
        problems = listing.problems
    else:
        found = "a file" if exists else "no such folder"
        raise InputError(
            f"data: {path}: {found}; expected a folder with CelebA's files or with a folder of photos per class, a zip "
            "or parquet file, or 'drawn' for built-in faces"
        )
    files = photos.files if isinstance(photos, ZipPhotos) else listing.files
    unsupported = [file for file in files if is_unsupported_name(file)]
    problems = [*problems, *([describe_unsupported(unsupported)] if unsupported else [])]
    parquet = sorted(listing.with_suffix(".parquet")) if prefers_folder else []
    if not photos.names and not parquet:
        zips = listing.with_suffix(".zip")
        also = f"; it has {len(zips)} zips: name one of them ({', '.join(zips[:3])})" if len(zips) > 1 else ""
        left = f"; left out: {' and '.join(problems)}" if problems else ""
        raise InputError(
            f"{photos.path}: holds no photos; expected img_align_celeba/ or img_align_celeba.zip, a folder of photos "
            f"per class, or parquet files{also}{left}"
        )

    def find(patterns: Sequence[str]) -> AnnotationFile | None:
        in_zip = _find_in_zip(photos, patterns) if isinstance(photos, ZipPhotos) else None
        in_folder = listing.find(patterns)
        return (in_folder or in_zip) if prefers_folder else (in_zip or in_folder)

    return DataFiles(
        path,
        photos,
        find(ATTRIBUTE_FILES),
        find(PARTITION_FILES),
        find(IDENTITY_FILES),
        find(ORIGINALS_FILES),
        parquet,
        problems,
    )


def list_files(top: Path, depth: int = DEPTH) -> Listing:
    """List the files in ``top`` and down to ``depth`` levels of folders below, without hidden ones.

    Photos that are not regular files (dangling links, pipes, devices) are left out.
    """
    files: list[str] = []
    non_files: list[str] = []
    unreadable: list[str] = []
    seen: set[tuple[int, int]] = set()  # device and inode of each folder: links may form cycles
    folders, links = [""], list[str]()
    # All real folders are visited before any linked one, so that a folder reached both ways gets its real name.
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
                if prefix.count("/") < depth:
                    (links if entry.is_symlink() else folders).append(f"{name}/")
            elif kind == "other" and is_photo_name(name):
                non_files.append(name)
            else:
                files.append(name)
    problems = [describe_non_files(non_files)] if non_files else []
    if unreadable:
        problems.append(f"{counted(unreadable, 'folder')} that cannot be read ({first_three(unreadable)})")
    return Listing(top, sorted(files, key=lambda file: file.count("/")), problems)


def _find_photos(listing: Listing) -> PhotoFiles:
    """The photos of a folder: those in ``img_align_celeba/``, else in its zip, else in a single zip, else any."""
    folder = listing.folder
    photos = [file for file in listing.files if is_photo_name(file)]
    zips = listing.with_suffix(".zip")
    if aligned := [photo for photo in photos if PHOTOS in photo.lower().split("/")[:-1]]:
        return FolderPhotos(folder, aligned)
    if aligned := [file for file in zips if PurePosixPath(file).stem.lower() == PHOTOS]:
        return ZipPhotos(folder / aligned[0])
    if len(zips) == 1 and not (photos and listing.find(ATTRIBUTE_FILES)):
        archive = ZipPhotos(folder / zips[0])
        if not photos or _find_in_zip(archive, ATTRIBUTE_FILES):  # then photos beside the zip are not the dataset
            return archive
    return FolderPhotos(folder, photos)


def _find_in_zip(photos: ZipPhotos, patterns: Sequence[str]) -> AnnotationFile | None:
    files = sorted((file for file in photos.files if "__MACOSX" not in file), key=lambda file: file.count("/"))
    name = _best_match(files, patterns)
    if name is None:
        return None
    return AnnotationFile(photos.where(name), PurePosixPath(name).name, lambda: photos.open(name, MAX_ANNOTATION_BYTES))


def _best_match(files: Sequence[str], patterns: Sequence[str]) -> str | None:
    """The first of ``files`` that matches the earliest of ``patterns``; None if no file matches any."""
    names = [file.rpartition("/")[2].lower() for file in files]
    for pattern in patterns:
        if found := fnmatch.filter(names, pattern):
            return files[names.index(found[0])]
    return None
