"""CelebA, or any folder of photos with such an attribute file, in whatever layout the user has it.

Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015.
"""

from __future__ import annotations

import hashlib
import warnings
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
from igan_fast.data.celeba_files import find_files
from igan_fast.data.photo_files import decode_photo
from igan_fast.data.shuffle import check_seed, seeded_permutation
from igan_fast.errors import InputError, printable

__all__ = ["CelebA"]

T = TypeVar("T")

#: Sec. 5.1 of the paper: 185,000 photos to train on and 15,000 to test on.
PAPER_SPLIT = (185_000, 15_000)

#: How the picture in the store comes from the photo; another text makes every store anew.
CROP = "centre square, bicubic, 2"


class CelebA:
    """The photos and labels below a folder, as a ``FaceSource``.

    Found in the folder or up to three levels below: photos as ``img_align_celeba/`` or ``img_align_celeba.zip`` (else
    any photos, else any one zip), ``list_attr_celeba.txt`` or ``.csv``, and where they exist ``list_eval_partition``
    and ``identity_CelebA``, in the folder or in that zip. So the layouts of Google Drive (``Anno/``, ``Eval/``,
    ``Img/``), Kaggle (its ``archive.zip`` as it is) and torchvision all work. CelebA-HQ finds its partition and
    identities through ``CelebA-HQ-to-CelebA-mapping.txt``.

    Args:
        data: the folder, or a zip of photos with the annotation files in it or beside it.
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
        found = find_files(path)
        self._photos = found.photos
        self._skipped: list[str] = []
        self._strict = strict
        for problem in found.problems:  # not a mismatch: what nobody can read has no place in a data set
            self._warn(f"left out {problem}")
            self._skipped.append(problem)
        table_file = found.attributes
        if table_file is None:
            raise InputError(
                f"{path}: found {len(self._photos.names):,} photos but no attribute file; expected "
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
                self._skip(f"{found.identities.name}, which lists none of the photos{_examples(listed)}")
        self.splits: Mapping[str, NDArray[np.int64]]
        self.splits, how = self._divide(found.partition, listed, originals, split, seed)
        if not len(self.splits["val"]):
            self._warn(
                f"no photos for validation ({how}); training will measure nothing and keep no best checkpoint, only "
                "the last ones, and 'evaluate' needs another --split"
            )
        self._description = self._describe(table_file, how)

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

    def _match(self, table: AttributeTable, file: AnnotationFile) -> tuple[list[int], list[str]]:
        """The rows of ``table`` that have a photo, and these photos."""
        index = _PhotoIndex(self._photos.names)
        found = [index.find(photo) for photo in table.files]
        rows = [row for row, name in enumerate(found) if name is not None]
        names = [name for name in found if name is not None]
        if table.announced not in (None, len(table.files)):
            self._skip(f"{file.name} announces {table.announced:,} rows, but has {len(table.files):,}")
        without_photo = [photo for photo, name in zip(table.files, found, strict=True) if name is None]
        for photo in without_photo:
            if not is_decodable(photo):
                line = table.lines[table.files.index(photo)]
                raise InputError(f"{file.where}: line {line}: is not UTF-8 text, and no photo has this name")
        used = set(names)
        if len(used) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise InputError(f"{file.where}: two rows stand for the photo {twice!r}")
        without_row = [name for name in self._photos.names if name not in used]
        if not table.files:
            raise InputError(f"{file.where}: has no rows below its header, expected one for each photo")
        if not names:
            raise InputError(
                f"{file.where}: none of its {len(table.files):,} rows has a photo among the "
                f"{len(self._photos.names):,} of {self._photos.path}{_examples(table.files)}"
            )
        if without_photo:
            self._skip(f"{_count(without_photo, 'row')} without a photo{_examples(without_photo)}")
        if without_row:
            self._skip(f"{_count(without_row, 'photo')} without a row{_examples(without_row)}")
        return rows, names

    def _divide(
        self, file: AnnotationFile | None, listed: Sequence[str], originals: Mapping[str, str], split: str, seed: int
    ) -> tuple[dict[str, NDArray[np.int64]], str]:
        """The splits, and in words where they come from."""
        if split == "paper":
            return _paper_split(len(listed), seed), f"the paper's split, seed {seed}"
        if file is None:
            return _random_split(len(listed), seed), f"no partition file: random 90/5/5 % split, seed {seed}"
        parts = _of_photos(read_partition(file), listed, originals)
        without_part = [name for name, part in zip(listed, parts, strict=True) if part is None]
        if len(without_part) == len(listed):  # of another data set, such as CelebA's beside CelebA-HQ
            self._skip(f"{file.name}, which lists none of the photos{_examples(listed)}")
            return _random_split(len(listed), seed), f"no partition that fits: random 90/5/5 % split, seed {seed}"
        if without_part:
            self._skip(f"{_count(without_part, 'photo')} in no split of {file.name}{_examples(without_part)}")
        part = np.array([-1 if part is None else part for part in parts])
        splits = {name: np.flatnonzero(part == number) for number, name in enumerate(("train", "val", "test"))}
        if not len(splits["test"]):
            del splits["test"]
        return splits, f"official split ({file.name})"

    def _skip(self, what: str) -> None:
        """Note a mismatch: a warning, or an error where the caller asked for that."""
        if self._strict:
            raise InputError(f"{self._photos.path}: {what}")
        self._warn(f"{what}; everything else is used")
        self._skipped.append(what)

    def _warn(self, what: str) -> None:
        warnings.warn(printable(f"{self._photos.path}: {what}"), stacklevel=4)

    def _describe(self, file: AnnotationFile, how: str) -> str:
        parts = [f"{len(self):,} photos in {self._photos.path}"]
        parts.append(f"{len(self.attributes)} attributes ({file.name})")
        if self.identities is not None:
            parts.append(f"{len(np.unique(self.identities[self.identities >= 0])):,} people")
        sizes = ", ".join(f"{len(positions):,} {name}" for name, positions in self.splits.items())
        skipped = "skipped: " + ", ".join(self._skipped) if self._skipped else "nothing skipped"
        return printable(f"{', '.join(parts)}; {how}: {sizes}; {skipped}")


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
        if found is None and "\\" in file:  # written on Windows
            return self.find(file.replace("\\", "/"))
        if found is not None and len(found) > 1:
            raise InputError(f"{file!r} stands for {len(found)} photos: {', '.join(found[:3])}; keep one of them")
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
    """What a partition or identity file says about each of the photos: by its name, whatever the suffix.

    CelebA-HQ's photos have numbers of their own, which mean nothing in CelebA's files: ``originals`` translates them.
    """
    by_stem: dict[str, T | None] = {}
    for name, value in table.items():
        stem = _stem(name)
        by_stem[stem] = None if stem in by_stem else value  # of two, neither

    def find(name: str) -> T | None:
        if (stem := _stem(name)) in originals:
            name = originals[stem]
            stem = _stem(name)
        return table[name] if name in table else by_stem.get(stem)

    return [find(name) for name in listed]


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


def _stem(name: str) -> str:
    """A photo's name without its folders and its suffix."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return last.rpartition(".")[0] or last


def _count(items: Sequence[str], noun: str) -> str:
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'}"


def _examples(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
