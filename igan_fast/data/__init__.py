"""Labelled faces: where they come from (CelebA, any folder, or drawn), the store they are kept in, and batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from igan_fast.data.attributes import CELEBA_ATTRIBUTES, Change, attribute_indices, changes_by_index, parse_changes
from igan_fast.data.loader import Batch, BatchLoader, to_float, to_uint8
from igan_fast.data.source import FaceSource
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
) -> FaceSource:
    """The dataset that a user names: ``"drawn"`` for the built-in faces, else a folder of photos, see ``CelebA``.

    Args:
        data: ``"drawn"``, or a folder (``"./drawn"`` where it has that name).
        split: how photos are divided, see ``CelebA``; drawn faces have one division only.
        attributes: the labels wanted, in this order; all of the dataset's by default.
        strict: raise where photos and annotations do not match, instead of leaving out what has no counterpart.
        seed: of the drawn faces, or of a random split of photos.
        drawn_count: how many faces to draw.

    Raises:
        InputError: no such folder, or its contents cannot be used.
    """
    if not str(data):  # an unset variable of a script, which as a path would mean the current folder
        raise InputError("data: is empty; expected a folder, or 'drawn' for the built-in faces")
    if data == "drawn":
        from igan_fast.data.drawn_faces import DrawnFaces

        return DrawnFaces(drawn_count, seed=seed, attributes=attributes)
    from igan_fast.data.celeba import CelebA

    return CelebA(data, split=split, attributes=attributes, strict=strict, seed=seed)
