"""Runs a model on the faces of many photos, batch by batch, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.photos import Photo
from igan_fast.faces.search import AlignedPhoto, FaceSearch

__all__ = ["HELD_PIXELS", "by_photo", "each_photo"]

R = TypeVar("R")
T = TypeVar("T")

#: Photos are held in memory until they have this many pixels together, at most.
HELD_PIXELS = 64_000_000


def each_photo(
    search: FaceSearch,
    photos: Sequence[Photo],
    batch_size: int,
    run: Callable[[NDArray[np.uint8]], list[R]],
    finish: Callable[[AlignedPhoto, list[R]], T],
) -> list[T]:
    """Open photos, call ``run`` on batches of their faces, and return ``finish`` of each photo and its results.

    Args:
        search: opens the photos.
        photos: see ``igan_fast.data.photos.Photo``.
        batch_size: the largest number of faces in a batch, and of photos that are open at a time.
        run: gets crops (B, S, S, 3) uint8, and returns a result for each.
        finish: gets a photo, and the results of its crops.

    Raises:
        InputError: as ``FaceSearch.open``; the message says which of the photos it is.
    """
    finished: list[T] = []
    for opened in _opened(search, photos, batch_size):
        crops = np.concatenate([photo.crops for photo in opened])
        results: list[R] = []
        for start in range(0, len(crops), batch_size):
            results += run(crops[start : start + batch_size])
        finished += map(finish, opened, by_photo(opened, results))
    return finished


def by_photo(photos: Sequence[AlignedPhoto], results: Sequence[R]) -> list[list[R]]:
    """Cut the results of all crops into those of each photo."""
    ends = np.cumsum([len(photo.crops) for photo in photos]).tolist()
    return [list(results[end - len(photo.crops) : end]) for photo, end in zip(photos, ends, strict=True)]


def _opened(search: FaceSearch, photos: Sequence[Photo], most: int) -> Iterator[list[AlignedPhoto]]:
    name = "photo" if len(photos) == 1 else "photo {} of {}"
    held: list[AlignedPhoto] = []
    for number, photo in enumerate(photos, start=1):
        held.append(search.open(photo, name=name.format(number, len(photos))))
        if len(held) == most or sum(each.pixels for each in held) >= HELD_PIXELS:
            yield held
            held = []
    if held:
        yield held
