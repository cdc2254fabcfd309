"""Photos with their labels in parquet files, as Hugging Face distributes CelebA."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.attributes import attribute_indices
from igan_fast.data.celeba_files import DataFiles, find_files
from igan_fast.data.left_out import LeftOut
from igan_fast.data.messages import counted, first_three
from igan_fast.data.parquet_columns import Columns, find_columns, label_values, person_numbers
from igan_fast.data.parquet_files import ParquetFiles, load_pyarrow
from igan_fast.data.photo_files import FolderPhotos, decode_photo_stream, photos_fingerprint
from igan_fast.data.source import Aligner
from igan_fast.data.splits import SPLIT_NAMES, check_split, described_sizes, named_splits, no_validation
from igan_fast.errors import InputError, printable

__all__ = ["ParquetFaces"]


class ParquetFaces:
    """Parquet files of photos and labels, as a ``FaceSource``. Nothing is downloaded.

    The files are those of CelebA on Hugging Face (``flwrlabs/celeba``, ``tpremoli/CelebA-attrs``), or any that hold
    photos as bytes or as structs with ``bytes``, and a column for each attribute, of Booleans, of 0 and 1, or of −1
    and 1. The column ``celeb_id`` or ``identity`` numbers the people. A ``ClassLabel``, a column of numbers of classes,
    gives an attribute for each class. Other columns are ignored. Row numbers in messages begin at 0.

    Args:
        data: a parquet file, or a folder with parquet files of the same columns, or what ``find_files`` found.
        split: ``"official"`` follows the names of the files or of their folders: ``train-00000-of-00003.parquet``,
            ``valid/0000.parquet`` and so on. Without such names, or with "train" alone, a random 90 % are "train", 5 %
            "val" and 5 % "test"; without "val" alone, "val" is a random 5 % of "train". ``"paper"``: see ``CelebA``.
        attributes: the label columns, in this order. Default: all.
        strict: raise an error where files do not match. Otherwise what cannot be used is skipped with a warning.
        seed: seed of a random split.
        align: see ``CelebA``.

    Raises:
        InputError: a file is damaged or has other columns than the others, a label is missing or is no label, only some
            files are named after splits, there are also photos in the folder, or an attribute is unknown.
        PackageMissing: pyarrow is not installed.
    """

    def __init__(
        self,
        data: str | Path | DataFiles,
        *,
        split: Literal["official", "paper"] = "official",
        attributes: Sequence[str] = (),
        strict: bool = False,
        seed: int = 0,
        align: Aligner | None = None,
    ) -> None:
        check_split(split)
        found = data if isinstance(data, DataFiles) else find_files(data)
        if not found.parquet:
            raise InputError(f"{found.path}: holds no parquet files")
        if found.photos.names:
            raise InputError(
                f"{found.path}: found {counted(found.parquet, 'parquet file')} ({first_three(found.parquet)}) and "
                f"{counted(found.photos.names, 'photo')} ({first_three(found.photos.names)}); expected parquet files "
                "alone: name one of them, or their folder"
            )
        parts = _parts(found)
        arrow = load_pyarrow()
        self._files = ParquetFiles(found.folder, found.parquet)
        if not len(self._files):
            raise InputError(f"{found.path}: has no rows in {counted(found.parquet, 'parquet file')}")
        self._align = align
        left_out = LeftOut(found.path, strict)
        for problem in found.problems:
            left_out.unreadable(problem)

        columns = [find_columns(arrow, self._files.schema(k), self._files.file(k)) for k in range(len(found.parquet))]
        self._columns = columns[0]
        for number, other in enumerate(columns):
            if other != columns[0]:
                raise InputError(f"{self._files.file(number)}: {_difference(columns[0], other, found.parquet[0])}")
        self.attributes = tuple(attributes) or tuple(columns[0].labels)
        for name in self.attributes:
            if name in columns[0].others:
                raise InputError(f"attributes: the column {name!r} holds {columns[0].others[name]}, expected 0 and 1")
        attribute_indices(self.attributes, tuple(columns[0].labels))  # raises for unknown and repeated ones
        self.labels, self.identities = self._read_labels()

        counts = self._files.counts()
        self.splits: Mapping[str, NDArray[np.int64]]
        of_rows = [part for part, count in zip(parts, counts, strict=True) for _ in range(count)]
        self.splits, how = named_splits(of_rows, "file", split, seed)
        if not len(self.splits["val"]):
            left_out.warn(no_validation(how))
        people = ""
        if self.identities is not None:
            people = f", {len(np.unique(self.identities[self.identities >= 0])):,} people"
        self._description = (
            f"{len(self):,} photos in {found.path} ({counted(found.parquet, 'parquet file')}), "
            f"{counted(self.attributes, 'attribute')}{people}; "
            f"{how}: {described_sizes(self.splits)}; {left_out.describe()}"
        )

    def __len__(self) -> int:
        return len(self._files)

    def describe(self) -> str:
        """One line: the numbers of photos, files, attributes and identities, the split sizes, and what was skipped."""
        return printable(self._description)

    def fingerprint(self) -> str:
        """A digest of the files' names, sizes and times. Other labels in the same files change it too."""
        digest = FolderPhotos(self._files.folder, self._files.names).digest(self._files.names)
        return photos_fingerprint(f"{self._columns.photo}\n{digest}", self._align)

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        """The photo in row ``index`` of all files, cropped to its centre square and resized, or aligned.

        Returns:
            (size, size, 3) uint8, RGB.

        Raises:
            InputError: the row has no photo, the photo or the file is broken, or no face is found to align. The
                message names the file and the row.
        """
        found, where = self._files.value(index, self._columns.photo)
        content, name = (found["bytes"], found.get("path")) if isinstance(found, dict) else (found, None)
        if name:
            where = f"{where} ({name})"
        if content is None:
            raise InputError(f"{where}: holds {'only the name of a photo' if name else 'no photo'}, expected its bytes")
        return decode_photo_stream(io.BytesIO(content), where, size, self._align)

    def _read_labels(self) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """The labels (N, A), and the people's numbers (N,) if there are any."""
        chosen = [self._columns.labels[name] for name in self.attributes]
        people = self._columns.people
        needed = list(dict.fromkeys(label.column for label in chosen)) + ([people] if people else [])
        parts, numbers = [], []
        for file in range(len(self._files.names)):
            table = self._files.columns(file, needed)
            where = self._files.file(file)
            parts.append(np.stack([label_values(table.column(label.column), label, where) for label in chosen], axis=1))
            if people:
                numbers.append(person_numbers(table.column(people)))
        labels = np.concatenate(parts)
        unclear = (labels == 0).any(axis=0) & (labels == -1).any(axis=0)
        if unclear.any():
            name = self.attributes[int(np.argmax(unclear))]
            raise InputError(
                f"{self._files.folder}: {name} is both 0 and -1, so 0 may mean unknown; expected -1 or 1, or 0 or 1 "
                "(or choose other columns: --attributes)"
            )
        identities = np.concatenate(numbers) if people else None
        return (labels == 1).astype(np.uint8), identities


def _parts(found: DataFiles) -> list[str | None]:
    """The split that each parquet file, or else a folder that it is in, is named after."""
    parts = [_part(name) for name in found.parquet]
    named = [name for name, part in zip(found.parquet, parts, strict=True) if part]
    others = [name for name, part in zip(found.parquet, parts, strict=True) if not part]
    if named and others:
        raise InputError(
            f"{found.path}: {first_three(others)} {'is' if len(others) == 1 else 'are'} not named after one split, but "
            f"{first_three(named)} {'is' if len(named) == 1 else 'are'}; expected names such as train-0.parquet, "
            "val-0.parquet and test-0.parquet for all or none"
        )
    return parts


def _part(name: str) -> str | None:
    """The split that a word of the file's name means; else the split that the nearest folder is called."""
    *folders, file = name.lower().split("/")
    words = {SPLIT_NAMES[word] for word in re.findall("[a-z]+", file.removesuffix(".parquet")) if word in SPLIT_NAMES}
    if words:
        return words.pop() if len(words) == 1 else None
    return next((SPLIT_NAMES[folder] for folder in reversed(folders) if folder in SPLIT_NAMES), None)


def _difference(first: Columns, other: Columns, name: str) -> str:
    """The end of an error message: how the columns of one file differ from those of the first file, ``name``."""
    missing, more = ([each for each in a.labels if each not in b.labels] for a, b in ((first, other), (other, first)))
    if missing:
        return f"has no labels of {first_three(missing)}, which {name} has"
    if more:
        return f"has labels of {first_three(more)}, which {name} does not have"
    return f"has photos, people or classes in other columns than {name}; expected the same columns in each file"
