"""The arguments of ``FaceEditor``'s edits and new faces, checked, and the attributes that go along, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from igan_fast.data.attributes import Change, changes_by_index
from igan_fast.errors import InputError
from igan_fast.reference import Companions
from igan_fast.reference.editing import Edit

__all__ = ["MOST_STRENGTH", "Keep", "check_edit", "check_keep", "label_rows", "moves_by_name", "values_by_index"]

#: The largest strength of an edit. Far below it faces fall apart already.
MOST_STRENGTH = 10


#: What an edit keeps: the photo, to which only the change is added; or nothing, as in the paper: it draws all again.
Keep: TypeAlias = Literal["photo", "nothing"]


def check_keep(keep: object) -> None:
    """Check the argument of the same name.

    Raises:
        InputError: it is neither ``"photo"`` nor ``"nothing"``.
    """
    if keep not in ("photo", "nothing"):
        raise InputError(f"keep: found {keep!r}, expected 'photo' or 'nothing'")


def check_edit(strength: object, companions: object) -> None:
    """Check the two arguments of the same names.

    Raises:
        InputError: ``strength`` is no number from 0 to 10, or ``companions`` neither True nor False.
    """
    if not isinstance(strength, int | float | np.integer | np.floating) or not 0 <= strength <= MOST_STRENGTH:
        raise InputError(f"strength: found {strength!r}, expected a number from 0 to {MOST_STRENGTH}")
    if not isinstance(companions, bool):
        raise InputError(f"companions: found {companions!r}, expected True or False")


def values_by_index(attributes: Mapping[str, Change], known: Sequence[str]) -> dict[int, Edit]:
    """The edits of new faces, by position in ``known``.

    Raises:
        InputError: a name is unknown, or a value is neither a number in [0, 1] nor an amount.
    """
    edits = changes_by_index(attributes, known, where="attributes")
    for index, edit in edits.items():
        if edit == "flip":
            raise InputError(
                f"attributes: {known[index]}=flip: a new face has nothing to flip; expected a number from 0 to 1"
            )
    return edits


def moves_by_name(
    companions: Companions | None, edited: Sequence[int], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """For each edited attribute, by name: how far the others move when it moves from 0 to 1, the largest move first.

    Args:
        companions: those of the model; None if it has none.
        edited: the positions of the attributes that are edited together.
        names: the names of all attributes.
    """
    if companions is None:
        return {names[index]: {} for index in edited}
    moves: dict[str, dict[str, float]] = {}
    for index, row in zip(edited, companions.weights(edited).tolist(), strict=True):
        along = [(name, move) for name, move in zip(names, row, strict=True) if move]
        moves[names[index]] = dict(sorted(along, key=lambda item: -abs(item[1])))
    return moves


def label_rows(samples: ArrayLike, count: int) -> NDArray[Any]:
    """Rows of real labels as an array (M, ``count``).

    Raises:
        InputError: they are of another shape, or not in [0, 1].
    """
    try:
        rows = np.asarray(samples)
    except ValueError:  # rows of different lengths
        raise InputError(f"label_samples: found {samples!r}, expected (M, {count})") from None
    if rows.ndim != 2 or rows.shape[1] != count:
        raise InputError(f"label_samples: found the shape {rows.shape}, expected (M, {count})")
    if not np.issubdtype(rows.dtype, np.number) and rows.dtype != np.bool_:
        raise InputError(
            f"label_samples: found values of type {rows.dtype.type.__name__}, expected numbers from 0 to 1"
        )
    wrong = rows[~((rows >= 0) & (rows <= 1))]
    if len(wrong):
        raise InputError(f"label_samples: found {wrong[0]:g}, expected 0 for absent, 1 for present, or values between")
    return rows
