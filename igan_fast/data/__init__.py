"""Datasets of labelled faces: sources (CelebA, folders of photos, parquet files, drawn faces), the store of decoded
images, and the loader of training batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from igan_fast.data.attributes import CELEBA_ATTRIBUTES, Change, attribute_indices, changes_by_index, parse_changes
from igan_fast.data.loader import Batch, BatchLoader, to_float, to_uint8
from igan_fast.data.source import Aligner, FaceSource
from igan_fast.data.store import FaceStore, build_store, cache_folder, spread
from igan_fast.errors import InputError

__all__ = [
    "CELEBA_ATTRIBUTES",
    "Batch",
    "BatchLoader",
    "Change",
    "FaceSource",
    "FaceStore",
    "attribute_indices",
    "build_store",
    "cache_folder",
    "changes_by_index",
    "open_source",
    "parse_changes",
    "spread",
    "to_float",
    "to_uint8",
]


def open_source(
    data: str | Path,
    *,
    split: Literal["official", "paper"] = "official",
    attributes: Sequence[str] = (),
    strict: bool = False,
    seed: int = 0,
    drawn_count: int = 20_000,
    align: Aligner | None = None,
) -> FaceSource:
    """Open a dataset: ``"drawn"`` for the built-in faces, or a path to photos.

    A path is a folder, a zip or a parquet file. ``CelebA`` opens photos with an attribute file, ``ClassFolders`` photos
    in a folder per class, and ``ParquetFaces`` parquet files. Each of them describes its layouts.

    Args:
        data: ``"drawn"``, or a path. A folder that is itself called "drawn" is given as ``"./drawn"``.
        split: how photos are split, see these classes. Drawn faces have one fixed split.
        attributes: the label columns, in this order. Default: all of the dataset's.
        strict: raise an error where photos and annotations do not match. Otherwise the unmatched ones are skipped.
        seed: seed of the drawn faces, or of a random split of photos.
        drawn_count: the number of drawn faces.
        align: finds the face in each photo, see ``CelebA``. Drawn faces need none.

    Raises:
        InputError: the path does not exist, or its contents cannot be used.
        PackageMissing: pyarrow, which reads parquet files, is not installed.
    """
    if not str(data):  # such as an unset shell variable: as a path it would mean the current folder
        raise InputError("data: is empty; expected a folder, or 'drawn' for the built-in faces")
    if data == "drawn":
        from igan_fast.data.drawn_faces import DrawnFaces

        return DrawnFaces(drawn_count, seed=seed, attributes=attributes)
    from igan_fast.data.celeba import CelebA
    from igan_fast.data.celeba_files import find_files
    from igan_fast.data.class_folders import ClassFolders
    from igan_fast.data.parquet import ParquetFaces

    found = find_files(data)
    kind: type[CelebA | ClassFolders | ParquetFaces] = CelebA
    if found.attributes is None or not found.photos.names:
        kind = ParquetFaces if found.parquet else ClassFolders
    return kind(found, split=split, attributes=attributes, strict=strict, seed=seed, align=align)
