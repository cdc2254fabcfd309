"""The CelebA dataset, or any folder of photos that has an attribute file in CelebA's format.

Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.annotations import (
    AnnotationFile,
    AttributeTable,
    is_decodable,
    read_attributes,
    read_identities,
    read_originals,
    read_partition,
)
from igan_fast.data.attributes import attribute_indices
from igan_fast.data.celeba_files import DataFiles, find_files
from igan_fast.data.left_out import LeftOut
from igan_fast.data.messages import counted, first_three
from igan_fast.data.photo_files import decode_photo, photos_fingerprint
from igan_fast.data.source import Aligner
from igan_fast.data.splits import check_split, described_sizes, no_validation, paper_split, random_split
from igan_fast.errors import InputError, printable

__all__ = ["CelebA"]

T = TypeVar("T")


class CelebA:
    """A folder of photos with attribute labels, as a ``FaceSource``.

    The layouts of Google Drive (``Anno/``, ``Eval/``, ``Img/``), Kaggle (``archive.zip``, packed or unpacked) and
    torchvision all work. ``CelebA`` searches the folder and three levels of subfolders, and the zip of photos, for:

    - photos: ``img_align_celeba/`` or ``img_align_celeba.zip``; if there is neither, a single zip or any photos;
    - labels: ``list_attr_celeba.txt`` or ``.csv`` (required);
    - the official split: ``list_eval_partition.txt`` or ``.csv`` (optional);
    - identities: ``identity_CelebA.txt`` or ``.csv`` (optional);
    - for CelebA-HQ: ``CelebA-HQ-to-CelebA-mapping.txt``, which relates its photos to the rows of these optional files.

    Args:
        data: the folder, or a zip of photos with the annotation files in it or beside it; or what ``find_files`` found.
        split: ``"official"`` follows ``list_eval_partition``; without that file, a random 90 % are "train", 5 % "val"
            and 5 % "test". ``"paper"`` is a random split of the paper's sizes (Sec. 5.1): 185,000 "train" and 15,000
            "val", or fewer in the same proportion.
        attributes: the label columns, in this order. Default: all.
        strict: raise an error where photos and annotations do not match. Otherwise the unmatched ones are skipped with
            a warning.
        seed: seed of a random split.
        align: finds the face in each photo, for photos that are not aligned as CelebA's; see
            ``igan_fast.faces.training_aligner``. None takes the centre square of each photo.

    Raises:
        InputError: the folder does not exist or holds no labelled photos, a file is damaged, an attribute is unknown,
            or photos and annotations do not match (``strict``).
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
        self._photos = found.photos
        self._left_out = LeftOut(found.photos.path, strict)
        self._align = align
        for problem in found.problems:
            self._left_out.unreadable(problem)
        table_file = found.attributes
        if table_file is None:
            raise InputError(
                f"{found.path}: found {len(self._photos.names):,} photos but no attribute file; expected "
                "list_attr_celeba.txt or list_attr_celeba.csv in this folder (it must hold both)"
            )
        table = read_attributes(table_file, attributes)
        columns = attribute_indices(attributes, table.attributes) if attributes else range(len(table.attributes))

        rows, self._names = self._match(table, table_file)
        listed = [table.files[row] for row in rows]
        self.attributes = tuple(table.attributes[column] for column in columns)
        self.labels: NDArray[np.uint8] = np.ascontiguousarray(table.labels[rows][:, list(columns)])

        originals = read_originals(found.originals) if found.originals else {}
        self.identities: NDArray[np.int64] | None = None
        if found.identities is not None:
            people = _of_photos(read_identities(found.identities), listed, originals)
            if any(person is not None for person in people):
                self.identities = np.array([-1 if person is None else person for person in people], dtype=np.int64)
            else:
                self._left_out.mismatch(
                    f"{found.identities.name}, which lists none of the photos ({first_three(listed)})"
                )
        self.splits: Mapping[str, NDArray[np.int64]]
        self.splits, how = self._split(found.partition, listed, originals, split, seed)
        if not len(self.splits["val"]):
            self._left_out.warn(no_validation(how))
        self._description = self._describe(table_file, how)

    def __len__(self) -> int:
        return len(self._names)

    def describe(self) -> str:
        """One line: the numbers of photos, attributes and identities, the split sizes, and what was skipped."""
        return self._description

    def fingerprint(self) -> str:
        """A digest of the photos' names and sizes, and of their CRCs (in a zip) or file times (in a folder)."""
        return photos_fingerprint(self._photos.digest(self._names), self._align)

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        """Photo ``index``, cropped to its centre square (178×178 of CelebA's 178×218) and resized, or aligned.

        Returns:
            (size, size, 3) uint8, RGB.

        Raises:
            InputError: the photo is broken, or no face is found to align. The message names its file.
        """
        return decode_photo(self._photos, self._names[index], size, self._align)

    def _match(self, table: AttributeTable, file: AnnotationFile) -> tuple[list[int], list[str]]:
        """Match rows to photos. Returns the rows of ``table`` that have a photo, and the name of each row's photo."""
        index = _PhotoIndex(self._photos.names)
        found = [index.find(photo) for photo in table.files]
        rows = [row for row, name in enumerate(found) if name is not None]
        names = [name for name in found if name is not None]
        if table.stated_count not in (None, len(table.files)):
            self._left_out.mismatch(
                f"{file.name} states that it has {table.stated_count:,} rows, but has {len(table.files):,}"
            )
        without_photo = [photo for photo, name in zip(table.files, found, strict=True) if name is None]
        for photo in without_photo:
            if not is_decodable(photo):
                line = table.lines[table.files.index(photo)]
                raise InputError(f"{file.where}: line {line}: is not UTF-8 text, and no photo has this name")
        used = set(names)
        if len(used) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise InputError(f"{file.where}: two rows name the photo {twice!r}")
        without_row = [name for name in self._photos.names if name not in used]
        if not table.files:
            raise InputError(f"{file.where}: has no rows below its header, expected one for each photo")
        if not names:
            raise InputError(
                f"{file.where}: none of its {len(table.files):,} rows has a photo among the "
                f"{len(self._photos.names):,} of {self._photos.path} ({first_three(table.files)})"
            )
        if without_photo:
            self._left_out.mismatch(f"{counted(without_photo, 'row')} without a photo ({first_three(without_photo)})")
        if without_row:
            self._left_out.mismatch(f"{counted(without_row, 'photo')} without a row ({first_three(without_row)})")
        return rows, names

    def _split(
        self, file: AnnotationFile | None, listed: Sequence[str], originals: Mapping[str, str], split: str, seed: int
    ) -> tuple[dict[str, NDArray[np.int64]], str]:
        """The splits, and a phrase that says how they were made."""
        if split == "paper":
            return paper_split(len(listed), seed), f"the paper's split, seed {seed}"
        if file is None:
            return random_split(len(listed), seed), f"no partition file: random 90/5/5 % split, seed {seed}"
        parts = _of_photos(read_partition(file), listed, originals)
        without_part = [name for name, part in zip(listed, parts, strict=True) if part is None]
        if len(without_part) == len(listed):  # the file of another dataset, such as CelebA's beside CelebA-HQ's photos
            self._left_out.mismatch(f"{file.name}, which lists none of the photos ({first_three(listed)})")
            return random_split(len(listed), seed), f"no partition that fits: random 90/5/5 % split, seed {seed}"
        if without_part:
            self._left_out.mismatch(
                f"{counted(without_part, 'photo')} in no split of {file.name} ({first_three(without_part)})"
            )
        part = np.array([-1 if part is None else part for part in parts])
        splits = {name: np.flatnonzero(part == number) for number, name in enumerate(("train", "val", "test"))}
        if not len(splits["test"]):
            del splits["test"]
        return splits, f"official split ({file.name})"

    def _describe(self, file: AnnotationFile, how: str) -> str:
        parts = [f"{len(self):,} photos in {self._photos.path}"]
        parts.append(f"{counted(self.attributes, 'attribute')} ({file.name})")
        if self.identities is not None:
            parts.append(f"{len(np.unique(self.identities[self.identities >= 0])):,} people")
        return printable(f"{', '.join(parts)}; {how}: {described_sizes(self.splits)}; {self._left_out.describe()}")


class _PhotoIndex:
    """Finds photos by the names that annotation files use, which may lack folders or have another suffix."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._tables: dict[tuple[int, bool], dict[str, list[str]]] = {}

    def find(self, file: str) -> str | None:
        """The photo whose path ends in ``file``, else one that differs in its suffix only; None if there is none.

        CelebA's photos also come as PNG files, while the rows of the attribute file say ``.jpg``.

        Raises:
            InputError: several photos match.
        """
        depth = file.count("/") + 1
        found = self._table(depth, False).get(file)
        if found is None:
            found = self._table(depth, True).get(file.rpartition(".")[0] or file)
        if found is None and "\\" in file:  # a path written on Windows
            return self.find(file.replace("\\", "/"))
        if found is not None and len(found) > 1:
            raise InputError(f"{file!r} matches {len(found)} photos: {', '.join(found[:3])}; keep one of them")
        return found[0] if found else None

    def _table(self, depth: int, without_suffix: bool) -> dict[str, list[str]]:
        key = depth, without_suffix
        if key not in self._tables:
            table = self._tables[key] = {}
            for name in self._names:
                end = "/".join(name.rsplit("/", depth)[-depth:])
                table.setdefault(end.rpartition(".")[0] if without_suffix else end, []).append(name)
        return self._tables[key]


def _of_photos(table: Mapping[str, T], listed: Sequence[str], originals: Mapping[str, str]) -> list[T | None]:
    """The value of each listed photo in a partition or identity file; None for a photo that it does not list.

    Names match with any suffix. CelebA-HQ numbers its photos in another order than CelebA, so its names are first
    translated with ``originals``.
    """
    by_stem: dict[str, T | None] = {}
    for name, value in table.items():
        stem = _stem(name)
        by_stem[stem] = None if stem in by_stem else value  # a stem that comes twice is ambiguous

    def find(name: str) -> T | None:
        if (stem := _stem(name)) in originals:
            name = originals[stem]
            stem = _stem(name)
        return table[name] if name in table else by_stem.get(stem)

    return [find(name) for name in listed]


def _stem(name: str) -> str:
    """A photo's name without folders and suffix."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return last.rpartition(".")[0] or last
