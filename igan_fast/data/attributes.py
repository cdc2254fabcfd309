"""CelebA's 40 attribute names, the look-up of names with suggestions, and edits such as ``Bangs=flip``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from igan_fast.errors import InputError

__all__ = ["CELEBA_ATTRIBUTES", "Change", "UnknownAttribute", "attribute_indices", "changes_by_index", "parse_changes"]

#: An edit of one attribute: a new value in [0, 1], or ``"flip"``: 1 if the attribute is recognised as absent, else 0.
Change: TypeAlias = float | Literal["flip"]

#: The 40 attributes of CelebA (Liu et al., ICCV 2015) in the order of ``list_attr_celeba.txt``.
CELEBA_ATTRIBUTES: tuple[str, ...] = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip


#: An error message lists at most this many known attributes.
MAX_LISTED = 100


class UnknownAttribute(InputError):
    """An attribute name that the dataset or model does not have."""

    def __init__(self, where: str, name: str, known: Sequence[str]) -> None:
        super().__init__(f"{where}: unknown attribute {name!r}{_suggestion(name, known)}")
        self.name = name


def attribute_indices(names: Iterable[str], known: Sequence[str], *, where: str = "attributes") -> list[int]:
    """The positions of ``names`` in ``known``.

    Args:
        where: the argument or file that the names come from, for the error message.

    Raises:
        UnknownAttribute: a name is unknown; the message suggests the closest known names.
        InputError: a name is given twice.
    """
    positions = {name: index for index, name in enumerate(known)}
    found: dict[int, None] = {}  # a set that keeps the order
    for name in names:
        if name not in positions:
            raise UnknownAttribute(where, name, known)
        if positions[name] in found:
            raise InputError(f"{where}: attribute {name!r} is given twice")
        found[positions[name]] = None
    return list(found)


def parse_changes(assignments: Iterable[str], known: Sequence[str], *, where: str = "--set") -> dict[str, Change]:
    """Parse edits from the command line: ``["Smiling=1", "Bangs=flip"]`` → ``{"Smiling": 1.0, "Bangs": "flip"}``.

    Raises:
        InputError: an edit is not of the form ``NAME=VALUE``, its name is unknown or repeated, or its value is neither
            a number in [0, 1] nor ``flip``.
    """
    changes: dict[str, Change] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name or not text:
            raise InputError(f"{where}: found {assignment!r}, expected NAME=VALUE such as Smiling=1 or Bangs=flip")
        if name in changes:
            raise InputError(f"{where}: attribute {name!r} is given twice")
        changes[name] = _parse_value(text, name, where)
    attribute_indices(changes, known, where=where)
    return changes


def changes_by_index(
    changes: Mapping[str, Change], known: Sequence[str], *, where: str = "changes"
) -> dict[int, Change]:
    """The edits keyed by position in ``known``.

    Raises:
        InputError: a name is unknown, or a value is neither a number in [0, 1] nor ``"flip"``.
    """
    checked = [_parse_value(str(value), name, where) for name, value in changes.items()]
    return dict(zip(attribute_indices(changes, known, where=where), checked, strict=True))


def _parse_value(text: str, name: str, where: str) -> Change:
    if text == "flip":
        return "flip"
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 <= value <= 1.0:  # NaN fails this comparison too
        raise InputError(f"{where}: {name}={text}: expected a number from 0 to 1, or 'flip'")
    return value


def _suggestion(name: str, known: Sequence[str]) -> str:
    by_folded = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower().replace(" ", "_").replace("-", "_"), by_folded, n=3, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(by_folded[match] for match in near) + "?"
    listed = ", ".join(known[:MAX_LISTED]) + (", …" if len(known) > MAX_LISTED else "")
    return f"; the {len(known)} known ones are {listed}"
