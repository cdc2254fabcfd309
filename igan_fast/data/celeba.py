"""CelebA, or any folder of photos with such an attribute file, in whatever layout the user has it.

Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.annotations import AttributeTable, read_attributes, read_identities, read_partition
from igan_fast.data.attributes import attribute_indices
from igan_fast.data.photo_files import FolderPhotos, PhotoFiles, ZipPhotos, decode_photo, is_photo_name
from igan_fast.data.shuffle import check_seed, seeded_permutation
from igan_fast.errors import InputError

__all__ = ["CelebA"]

#: The file names looked for, in lower case, the best first. The last two find CelebAMask-HQ-attribute-anno.txt.
ATTRIBUTE_FILES = ("list_attr_celeba.txt", "list_attr_celeba.csv", "list_attr*.txt", "list_attr*.csv",
                   "*attribute*.txt", "*attribute*.csv")  # fmt: skip
PARTITION_FILES = ("list_eval_partition.txt", "list_eval_partition.csv")
IDENTITY_FILES = ("identity_celeba.txt", "identity_celeba.csv")
PHOTOS = "img_align_celeba"

#: Folders below the given one that are looked through: DIR/CelebA/Img/img_align_celeba is three down.
DEPTH = 3

#: Sec. 5.1 of the paper: 185,000 photos to train on and 15,000 to test on.
PAPER_SPLIT = (185_000, 15_000)

#: How the picture in the store comes from the photo; another text makes every store anew.
CROP = "centre square, bicubic, 1"


class CelebA:
    """The photos and labels below a folder, as a ``FaceSource``.

    Found in the folder or up to three levels below: photos as ``img_align_celeba/`` or ``img_align_celeba.zip`` (else
    any photos, else any one zip), ``list_attr_celeba.txt`` or ``.csv``, and where they exist ``list_eval_partition``
    and ``identity_CelebA``. So the layouts of Google Drive (``Anno/``, ``Eval/``, ``Img/``), Kaggle and torchvision
    all work.

    Args:
        data: the folder, or a zip of photos with the annotation files beside it.
        split: ``"official"`` divides as ``list_eval_partition`` says; without that file a seeded random 90 % are
            "train", 5 % "val" and 5 % "test". ``"paper"`` is the paper's random division (Sec. 5.1): 185,000 "train"
            and 15,000 "val", and in that proportion where there are fewer photos.
        attributes: the labels wanted, in this order; all by default.
        strict: raise where photos and annotations do not match. Otherwise what has no counterpart is left out with a
            warning.
        seed: of a random division.

    Raises:
        InputError: no such folder, nothing to use in it, a damaged file, an unknown attribute, or (``strict``) a
            mismatch.
    """

    def __init__(
        self,
        data: str | Path,
        *,
        split: Literal["official", "paper"] = "official",
        attributes: Sequence[str] = (),
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        if split not in ("official", "paper"):
            raise InputError(f"split: found {split!r}, expected 'official' or 'paper'")
        path = Path(data).expanduser()
        folder, files, self._photos = _look_through(path)
        table_path = _find(folder, files, ATTRIBUTE_FILES)
        if table_path is None:
            raise InputError(
                f"{path}: found {len(self._photos.names):,} photos but no attribute file; expected "
                "list_attr_celeba.txt or list_attr_celeba.csv in this folder (it must hold both)"
            )
        table = read_attributes(table_path)
        columns = attribute_indices(attributes, table.attributes) if attributes else range(len(table.attributes))

        self._skipped: list[str] = []
        self._strict = strict
        rows, self._names = self._match(table, table_path)
        listed = [table.files[row] for row in rows]
        self.attributes = tuple(table.attributes[column] for column in columns)
        self.labels: NDArray[np.uint8] = np.ascontiguousarray(table.labels[rows][:, list(columns)])

        identity_path = _find(folder, files, IDENTITY_FILES)
        self.identities: NDArray[np.int64] | None = None
        if identity_path is not None:
            people = read_identities(identity_path)
            self.identities = np.array([people.get(name, -1) for name in listed], dtype=np.int64)
        partition_path = _find(folder, files, PARTITION_FILES)
        self.splits: Mapping[str, NDArray[np.int64]]
        if split == "paper":
            self.splits, how = _paper_split(len(rows), seed), f"the paper's split, seed {seed}"
        elif partition_path is None:
            self.splits, how = _random_split(len(rows), seed), f"no partition file: random 90/5/5 % split, seed {seed}"
        else:
            self.splits, how = self._official_split(partition_path, listed), f"official split ({partition_path.name})"
        self._description = self._describe(table_path, how)

    def __len__(self) -> int:
        return len(self._names)

    def describe(self) -> str:
        """One line: photos, attributes, identities, split sizes, and what was left out."""
        return self._description

    def fingerprint(self) -> str:
        """A digest of the photos' names and contents (sizes and times of change where they lie in a folder)."""
        return hashlib.sha256(f"{CROP}\n{self._photos.digest(self._names)}".encode()).hexdigest()

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        """Photo ``index``: the centre square (178×178 of CelebA's 178×218), resized, as (size, size, 3) RGB.

        Raises:
            InputError: the photo is broken; its file is named.
        """
        return decode_photo(self._photos, self._names[index], size)

    def _match(self, table: AttributeTable, path: Path) -> tuple[list[int], list[str]]:
        """The rows of ``table`` that have a photo, and these photos."""
        index = _PhotoIndex(self._photos.names)
        found = [index.find(file) for file in table.files]
        rows = [row for row, name in enumerate(found) if name is not None]
        names = [name for name in found if name is not None]
        if table.announced not in (None, len(table.files)):
            self._skip(f"{path.name} announces {table.announced:,} rows, but has {len(table.files):,}")
        without_photo = [file for file, name in zip(table.files, found, strict=True) if name is None]
        used = set(names)
        if len(used) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise InputError(f"{path}: two rows stand for the photo {twice!r}")
        without_row = [name for name in self._photos.names if name not in used]
        if not table.files:
            raise InputError(f"{path}: has no rows below its header, expected one for each photo")
        if not names:
            raise InputError(
                f"{path}: none of its {len(table.files):,} rows has a photo among the {len(self._photos.names):,} of "
                f"{self._photos.path}{_examples(table.files)}"
            )
        if without_photo:
            self._skip(f"{_count(without_photo, 'row')} without a photo{_examples(without_photo)}")
        if without_row:
            self._skip(f"{_count(without_row, 'photo')} without a row{_examples(without_row)}")
        return rows, names

    def _official_split(self, path: Path, listed: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        partition = read_partition(path)
        part = np.array([partition.get(name, -1) for name in listed])
        without_part = [name for name in listed if name not in partition]
        if without_part:
            self._skip(f"{_count(without_part, 'photo')} in no split of {path.name}{_examples(without_part)}")
        splits = {name: np.flatnonzero(part == number) for number, name in enumerate(("train", "val", "test"))}
        if not len(splits["test"]):
            del splits["test"]
        return splits

    def _skip(self, what: str) -> None:
        """Note a mismatch: a warning, or an error where the caller asked for that."""
        if self._strict:
            raise InputError(f"{self._photos.path}: {what}")
        warnings.warn(f"{self._photos.path}: {what}; everything else is used", stacklevel=4)
        self._skipped.append(what)

    def _describe(self, table_path: Path, how: str) -> str:
        parts = [f"{len(self):,} photos in {self._photos.path}"]
        parts.append(f"{len(self.attributes)} attributes ({table_path.name})")
        if self.identities is not None:
            parts.append(f"{len(np.unique(self.identities[self.identities >= 0])):,} people")
        sizes = ", ".join(f"{len(positions):,} {name}" for name, positions in self.splits.items())
        skipped = "skipped: " + ", ".join(self._skipped) if self._skipped else "nothing skipped"
        return f"{', '.join(parts)}; {how}: {sizes}; {skipped}"


class _PhotoIndex:
    """Finds the photo that a row of an annotation file names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._tables: dict[tuple[int, bool], dict[str, list[str]]] = {}

    def find(self, file: str) -> str | None:
        """The photo whose path ends in ``file``, else the one with another suffix (CelebA also comes as PNG)."""
        depth = file.count("/") + 1
        found = self._table(depth, False).get(file)
        if found is None:
            found = self._table(depth, True).get(file.rpartition(".")[0] or file)
        if found is not None and len(found) > 1:
            raise InputError(f"{file!r} stands for {len(found)} photos: {', '.join(found[:3])}; keep one of them")
        return found[0] if found else None

    def _table(self, depth: int, without_suffix: bool) -> dict[str, list[str]]:
        key = depth, without_suffix
        if key not in self._tables:
            table = self._tables[key] = {}
            for name in self._names:
                end = "/".join(name.split("/")[-depth:])
                table.setdefault(end.rpartition(".")[0] if without_suffix else end, []).append(name)
        return self._tables[key]


def _look_through(path: Path) -> tuple[Path, list[str], PhotoFiles]:
    """The folder to search, the files below it, and the photos."""
    if path.is_file() and path.suffix.lower() == ".zip":
        photos: PhotoFiles = ZipPhotos(path)
        folder, files = path.parent, _files_below(path.parent)
    elif path.is_dir():
        folder, files = path, _files_below(path)
        photos = _find_photos(folder, files)
    else:
        found = "a file" if path.is_file() else "no such folder"
        raise InputError(f"data: {path}: {found}; expected a folder with CelebA's files, or 'drawn' for built-in faces")
    if not photos.names:
        raise InputError(f"{photos.path}: holds no photos; expected img_align_celeba/ or img_align_celeba.zip")
    return folder, files, photos


def _files_below(folder: Path, depth: int = DEPTH) -> list[str]:
    """Every file down to ``depth`` levels below ``folder`` that is not hidden, as paths with ``/``, near ones first."""
    files: list[str] = []
    level = [""]
    for _ in range(depth + 1):
        below: list[str] = []
        for prefix in level:
            try:
                entries = sorted(os.scandir(folder / prefix), key=lambda entry: entry.name)
            except OSError as error:
                raise InputError(f"{folder / prefix}: cannot be read: {error.strerror}") from error
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                name = f"{prefix}{entry.name}"
                if entry.is_dir():
                    below.append(f"{name}/")
                else:
                    files.append(name)
        level = below
    return files


def _find_photos(folder: Path, files: Sequence[str]) -> PhotoFiles:
    photos = [file for file in files if is_photo_name(file)]
    zips = [file for file in files if file.lower().endswith(".zip")]
    if aligned := [photo for photo in photos if PHOTOS in photo.lower().split("/")[:-1]]:
        return FolderPhotos(folder, aligned)
    if aligned := [file for file in zips if PurePosixPath(file).stem.lower() == PHOTOS]:
        return ZipPhotos(folder / aligned[0])
    if not photos and len(zips) == 1:
        return ZipPhotos(folder / zips[0])
    return FolderPhotos(folder, photos)


def _find(folder: Path, files: Sequence[str], patterns: Sequence[str]) -> Path | None:
    """The file that fits the earliest of ``patterns``; of several, the one nearest to ``folder``."""
    for pattern in patterns:
        for file in files:
            if fnmatch.fnmatchcase(PurePosixPath(file).name.lower(), pattern):
                return folder / file
    return None


def _random_split(count: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """90 % train, 5 % val, 5 % test; of few photos at least one each, if there are three."""
    held_out = max(count // 20, 1 if count >= 3 else 0)
    order = seeded_permutation(count, check_seed(seed))
    val, test, train = np.split(order, [held_out, 2 * held_out])
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


def _paper_split(count: int, seed: int) -> dict[str, NDArray[np.int64]]:
    train, val = PAPER_SPLIT
    if count < train + val:
        train = round(count * train / (train + val))
        val = count - train
    order = seeded_permutation(count, check_seed(seed))
    return {"train": np.sort(order[:train]), "val": np.sort(order[train : train + val])}


def _count(items: Sequence[str], noun: str) -> str:
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'}"


def _examples(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
