"""The range of identity distances, as numbers of a figure (Sec. 5.2). ``igan_fast.metrics.IdentityScale`` measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from igan_fast.app.paper.numbers import Score
from igan_fast.metrics import IdentityScale

__all__ = ["IdentityRange", "first_distances", "identity_range", "identity_sentence"]


@dataclass(frozen=True)
class IdentityRange:
    """What the distances of images have to be compared with."""

    photos: int
    """How many photos the distances of the figure are means of: the first of those that are scored."""
    floor: Score
    """Of the photos at the size of the networks from the same photos at full resolution."""
    ceiling: Score
    """Of the photos from those of other people; undefined if all show the same person."""


def first_distances(scale: IdentityScale, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The distances of the first of some images (N, S, S, 3), as many as there are photos in the scale, at most N.

    An embedder may take a second for an image, so a figure may measure fewer images than it scores otherwise.
    """
    return scale.distances(images[: len(scale.floor)])


def identity_range(scale: IdentityScale | None) -> IdentityRange | None:
    """The floor and the ceiling of a scale; None without one."""
    return None if scale is None else IdentityRange(len(scale.floor), Score.of(scale.floor), Score.of(scale.ceiling))


def identity_sentence(found: IdentityRange | None) -> str:
    """What a distance can be, or that there is none."""
    if found is None:
        return "Identity was not measured: there is no embedder."
    return (
        f"Identity is the distance from the person in the photo (lower is better), of {found.photos:,} photos. It lies "
        "between "
        f"{found.floor.text('.2f')}, that of the photo itself at this size, and {found.ceiling.text('.2f')}, that of "
        "other people."
    )
