"""The range of identity distances, as numbers of a figure (Sec. 5.2). ``igan_fast.metrics.IdentityScale`` measures."""

from __future__ import annotations

from dataclasses import dataclass

from igan_fast.app.paper.numbers import Score
from igan_fast.metrics import IdentityScale

__all__ = ["IdentityRange", "identity_range", "identity_sentence"]


@dataclass(frozen=True)
class IdentityRange:
    """What the distances of images have to be compared with."""

    floor: Score
    """Of the photos at the size of the networks from the same photos at full resolution."""
    ceiling: Score
    """Of the photos from those of other people; undefined if all show the same person."""


def identity_range(scale: IdentityScale | None) -> IdentityRange | None:
    """The floor and the ceiling of a scale; None without one."""
    return None if scale is None else IdentityRange(Score.of(scale.floor), Score.of(scale.ceiling))


def identity_sentence(found: IdentityRange | None) -> str:
    """What a distance can be, or that there is none."""
    if found is None:
        return "Identity was not measured: there is no embedder."
    return (
        "Identity is the distance from the person in the photo (lower is better). It lies between "
        f"{found.floor.text('.2f')}, that of the photo itself at this size, and {found.ceiling.text('.2f')}, that of "
        "other people."
    )
