"""Reads which class and split each photo belongs to, from a tree of folders."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from igan_fast.data.annotations import is_decodable
from igan_fast.data.attributes import can_be_typed
from igan_fast.data.celeba_files import PHOTOS, DataFiles, list_files
from igan_fast.data.formats import is_photo_name
from igan_fast.data.messages import counted, first_three
from igan_fast.data.photo_files import FolderPhotos, PhotoFiles, ZipPhotos
from igan_fast.data.splits import SPLIT_NAMES
from igan_fast.errors import InputError
from igan_fast.files import entry_kind

__all__ = ["ClassLayout", "PhotoClass", "read_layout"]

#: How many levels of folders a class folder may have.
DEPTH = 32

_ATTRIBUTE_FILE = "list_attr_celeba.txt or .csv"


@dataclass(frozen=True)
class PhotoClass:
    """A photo in a class folder."""

    name: str  #: as in ``PhotoFiles.names``
    split: str | None  #: "train", "val" or "test"; None for all photos if there are no folders of splits
    of_class: str


@dataclass(frozen=True)
class ClassLayout:
    """Photos in class folders. A photo that is in several of them is listed for each."""

    photos: PhotoFiles
    listed: list[PhotoClass]  #: by name, ascending
    classes: tuple[str, ...]  #: ascending, at least two
    empty: list[str]  #: the folders that would be classes, but hold no photos


def read_layout(found: DataFiles) -> ClassLayout:
    """Read the classes of a folder's or zip's photos.

    Raises:
        InputError: see ``ClassFolders``.
    """
    where, photos, empty = found.photos.path, found.photos, list[str]()
    if isinstance(photos, ZipPhotos):
        names = sorted(photos.names)
        top = _common_top(names)
    else:
        names, empty = _list_tree(where)
        photos = FolderPhotos(where, names)
        top = ""
    if not names:
        raise InputError(f"{where}: holds no photos; expected a folder of photos per class")
    paths = {name: name.removeprefix(top).split("/") for name in names}
    if any(folder.lower() == PHOTOS for path in paths.values() for folder in path[:-1]):
        raise InputError(f"{where}: found CelebA's photos ({PHOTOS}) but no attribute file; expected {_ATTRIBUTE_FILE}")
    splits = _splits(where, sorted({path[0] for path in paths.values() if len(path) > 1}))
    level = 1 if splits else 0
    if isinstance(photos, ZipPhotos):
        empty = _empty_folders(photos, top, level)
    loose = [name for name, path in paths.items() if len(path) < level + 2]
    folders = sorted({path[level] for path in paths.values() if len(path) > level + 1})
    if loose:
        beside = f" beside the folders {first_three(folders)}" if folders else ""
        raise InputError(
            f"{where}: found {counted(loose, 'photo')} in no class folder ({first_three(loose)}){beside}, and no "
            f"attribute file; expected a folder of photos per class, or {_ATTRIBUTE_FILE}"
        )
    _check_names(where, folders)
    classes = tuple(sorted(map(_attribute, folders)))
    if len(classes) < 2:
        raise InputError(
            f"{where}: found one folder of photos ({folders[0]}) but no attribute file; expected at least two, one per "
            f"class, or {_ATTRIBUTE_FILE}"
        )
    listed = [
        PhotoClass(name, splits[path[0]] if splits else None, _attribute(path[level])) for name, path in paths.items()
    ]
    for folder, split in splits.items():
        if missing := sorted(set(classes) - {photo.of_class for photo in listed if photo.split == split}):
            raise InputError(
                f"{where}: {folder} has no photos of the class {missing[0]}, which another split has; expected the "
                "same class folders in each"
            )
    return ClassLayout(photos, listed, classes, empty)


def _common_top(names: Sequence[str]) -> str:
    """The folders that only wrap the class folders of a zip, as a prefix that ends in ``/``, or ``""``."""
    top = ""
    while True:
        paths = [name.removeprefix(top).split("/") for name in names]
        first = paths[0][0]
        if first.lower() in SPLIT_NAMES or any(path[0] != first or len(path) < 3 for path in paths):
            return top
        top += f"{first}/"


def _empty_folders(archive: ZipPhotos, top: str, level: int) -> list[str]:
    """The folders of a zip that would be classes, or hold them, but hold no photos."""

    def folders(names: Iterable[str]) -> set[str]:
        paths = [name.removeprefix(top).split("/")[:-1] for name in names if name.startswith(top)]
        return {"/".join(path[: depth + 1]) for path in paths for depth in range(min(len(path), level + 1))}

    used = folders(archive.names)
    without = folders([*archive.files, *archive.folders]) - used
    inside = [folder for folder in without if folder.rpartition("/")[0] in (used | {""})]
    return sorted(folder for folder in inside if is_photo_name(f"{folder}/a.jpg"))  # without hidden ones


def _list_tree(top: Path) -> tuple[list[str], list[str]]:
    """The photos below ``top``, and the folders that would be classes but hold no photos, as paths below it.

    Each class folder is listed for itself, so that it may be a link to another one.
    """
    photos: list[str] = []
    empty: list[str] = []

    def add(prefix: str, depth: int) -> int:
        found = [prefix + file for file in list_files(top / prefix, depth).files if is_photo_name(file)]
        photos.extend(found)
        return len(found)

    add("", 0)
    for folder in _folders(top):
        inside = _folders(top / folder) if folder.lower() in SPLIT_NAMES else []
        if inside:
            add(f"{folder}/", 0)
        for prefix in [f"{folder}/{name}/" for name in inside] or [f"{folder}/"]:
            if not add(prefix, DEPTH):
                empty.append(prefix.rstrip("/"))
    return sorted(photos), empty


def _folders(path: Path) -> list[str]:
    """The folders in ``path``, also linked ones, without hidden ones."""
    try:
        with os.scandir(path) as entries:
            found = [entry.name for entry in entries if entry_kind(entry) == "folder"]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return sorted(name for name in found if not name.startswith(".") and name != "__MACOSX")


def _splits(where: Path, folders: Sequence[str]) -> dict[str, str]:
    """The split of each folder that is named after one; empty if none is."""
    splits: dict[str, str] = {}
    for folder in folders:
        split = SPLIT_NAMES.get(folder.lower())
        if split is None:
            continue
        if split in splits.values():
            twice = next(other for other, its in splits.items() if its == split)
            raise InputError(f"{where}: the folders {twice} and {folder} are both of the split {split!r}; keep one")
        splits[folder] = split
    others = [folder for folder in folders if folder not in splits]
    if splits and others:
        raise InputError(
            f"{where}: found {first_three(others)} beside the splits {first_three(list(splits))}; expected class "
            "folders inside of the splits' folders only"
        )
    return splits


def _check_names(where: Path, folders: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for folder in folders:
        if not is_decodable(folder) or not can_be_typed(folder):
            raise InputError(
                f"{where}: the name of the class folder {folder!r} cannot be an attribute's; rename it: expected "
                "printable UTF-8 text without = and , and without - in front"
            )
        other = seen.setdefault(_attribute(folder).casefold(), folder)
        if other != folder:
            raise InputError(
                f"{where}: the class folders {other} and {folder} have the same name but for upper and lower case or "
                "the encoding of accents; give them one name, or different ones"
            )


def _attribute(folder: str) -> str:
    """The attribute that a class folder is named after. macOS writes accents as characters of their own."""
    return unicodedata.normalize("NFC", folder)
