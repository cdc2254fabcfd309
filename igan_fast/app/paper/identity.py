"""Whether an image shows the person in its photo: distances of a face recognition network's embeddings (Sec. 5.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from igan_fast.app.paper.numbers import Score
from igan_fast.errors import InputError

__all__ = ["Embedder", "Identities", "IdentityScale", "identity_sentence"]

#: A function from images (N, S, S, 3) uint8, of any size S, to embeddings (N, E). Those of one person are close.
Embedder: TypeAlias = Callable[[NDArray[np.uint8]], Any]


@dataclass(frozen=True)
class IdentityScale:
    """What the distances of images have to be compared with."""

    floor: Score
    """Of the photos at the size of the networks from the same photos at full size: what the size alone costs. It is 0
    where these are not at hand."""
    ceiling: Score
    """Of the photos from those of other people."""

    @property
    def sentence(self) -> str:
        """What a distance can be."""
        return (
            "Identity is the distance from the person in the photo (lower is better). It lies between "
            f"{self.floor.text('.2f')}, that of the photo itself at this size, and {self.ceiling.text('.2f')}, that of "
            "other people."
        )


def identity_sentence(scale: IdentityScale | None) -> str:
    """What a distance can be, or that there is none."""
    return "Identity was not measured: there is no embedder." if scale is None else scale.sentence


class Identities:
    """Measures how far images are from the people in their photos, as Euclidean distances of embeddings.

    Args:
        embedder: computes the embeddings.
        photos: (N, S, S, 3) uint8, at the size of the networks.
        originals: (N, T, T, 3) uint8, the same photos at full size, from which all distances are measured; ``photos``
            by default, and the floor is then 0.
        people: (N,), the number of the person in each photo, negative if unknown. Photos of unknown people are taken as
            of different people.

    Raises:
        InputError: the embedder returns no finite numbers (N, E).
    """

    def __init__(
        self,
        embedder: Embedder,
        photos: NDArray[np.uint8],
        *,
        originals: NDArray[np.uint8] | None = None,
        people: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        self._embedder = embedder
        found = self._embedded(photos)
        self._references = found if originals is None else self._embedded(originals)
        others = _other_people(np.full(len(photos), -1) if people is None else people)
        apart = _distances(self._references, found[others])
        self.scale = IdentityScale(
            floor=Score.of(_distances(self._references, found)), ceiling=Score.of(np.where(others < 0, np.nan, apart))
        )

    def distances(self, images: NDArray[np.uint8], first: int = 0) -> NDArray[np.float64]:
        """Return how far each image is from its photo.

        Args:
            images: (M, S, S, 3) uint8, made from M of the photos in the same order.
            first: the index of the first of these photos.
        """
        return _distances(self._embedded(images), self._references[first : first + len(images)])

    def _embedded(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        found = np.asarray(self._embedder(images))
        if found.ndim != 2 or len(found) != len(images) or not np.isfinite(found).all():
            raise InputError(f"embedder: found the shape {found.shape}, expected finite numbers ({len(images)}, E)")
        return found.astype(np.float64)


def _distances(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.linalg.norm(first - second, axis=1)
    return distances


def _other_people(people: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return for each photo the index of the next one that shows another person, −1 if there is none."""
    count = len(people)
    chosen = np.full(count, -1, np.int64)
    for index, person in enumerate(people):
        after = (index + np.arange(1, count)) % count
        fits = after if person < 0 else after[people[after] != person]
        if len(fits):
            chosen[index] = fits[0]
    return chosen
