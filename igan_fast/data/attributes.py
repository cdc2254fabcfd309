"""CelebA's 40 attribute names, the look-up of names with suggestions, and edits such as ``Bangs=flip``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from igan_fast.errors import InputError
from igan_fast.reference.editing import Amount, Edit

__all__ = [
    "CELEBA_ATTRIBUTES",
    "MOST_AMOUNT",
    "Change",
    "UnknownAttribute",
    "attribute_indices",
    "can_be_typed",
    "changes_by_index",
    "parse_changes",
    "spelled_change",
]

#: An edit of one attribute: a new value in [0, 1]; ``"flip"``: 1 if the attribute is recognised as absent, else 0; or
#: how far it moves from what is recognised, as ``Amount(2)`` or as the text ``"+2"``.
Change: TypeAlias = Edit | str

#: The largest amount, up or down. Far below it faces fall apart.
MOST_AMOUNT = 10

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


def parse_changes(assignments: Iterable[str], known: Sequence[str], *, where: str = "--set") -> dict[str, Edit]:
    """Parse edits from the command line.

    ``["Smiling=1", "Bangs=flip", "Male=-2"]`` → ``{"Smiling": 1.0, "Bangs": "flip", "Male": Amount(-2.0)}``. A sign
    makes a number an amount.

    Raises:
        InputError: an edit is not of the form ``NAME=VALUE``, its name is unknown or repeated, or its value is neither
            a number in [0, 1] nor ``flip`` nor an amount from −10 to +10.
    """
    changes: dict[str, Edit] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name or not text:
            raise InputError(f"{where}: found {assignment!r}, expected NAME=VALUE such as Smiling=1 or Bangs=flip")
        if name in changes:
            raise InputError(f"{where}: attribute {name!r} is given twice")
        changes[name] = _parse_value(text, name, where)
    attribute_indices(changes, known, where=where)
    return changes


def changes_by_index(changes: Mapping[str, Change], known: Sequence[str], *, where: str = "changes") -> dict[int, Edit]:
    """The edits keyed by position in ``known``.

    Raises:
        InputError: ``changes`` is no mapping, a name is unknown, or a value is none that ``Change`` allows.
    """
    if not isinstance(changes, Mapping):
        raise InputError(f"{where}: found {changes!r}, expected values by name, such as {{'Smiling': 1}}")
    checked = [_checked(value, name, where) for name, value in changes.items()]
    return dict(zip(attribute_indices(changes, known, where=where), checked, strict=True))


def can_be_typed(name: str) -> bool:
    """Whether the commands can take an attribute's name: printable, without ``=`` and ``,``, and no ``-`` in front."""
    return name.isprintable() and not {"=", ","} & set(name) and bool(name.strip()) and not name.startswith("-")


def spelled_change(change: Edit) -> str:
    """An edit as it is typed: ``1``, ``flip`` or ``+2``."""
    if isinstance(change, Amount):
        return f"{change.value:+g}"
    return change if isinstance(change, str) else f"{change:g}"


def _checked(change: Change, name: str, where: str) -> Edit:
    if isinstance(change, Amount):
        number = _number(change.value)
        return _amount(number, f"{number:+g}" if math.isfinite(number) else repr(change.value), name, where)
    if isinstance(change, str):
        return _parse_value(change, name, where)
    return _value(change, str(change), name, where)


def _parse_value(text: str, name: str, where: str) -> Edit:
    if text == "flip":
        return "flip"
    plain = text.replace("−", "-")  # the sign that pages and messages show
    if plain.startswith(("+", "-")):
        return _amount(plain, text, name, where)
    return _value(plain, text, name, where)


def _value(found: object, text: str, name: str, where: str) -> float:
    value = _number(found)
    if not 0.0 <= value <= 1.0:  # NaN fails this comparison too
        raise InputError(
            f"{where}: {name}={text}: expected a number from 0 to 1, 'flip', or an amount with its sign such as +2"
        )
    return value


def _amount(found: object, text: str, name: str, where: str) -> Amount:
    value = _number(found)
    if not abs(value) <= MOST_AMOUNT:
        raise InputError(f"{where}: {name}={text}: expected an amount from −{MOST_AMOUNT} to +{MOST_AMOUNT}")
    return Amount(value)


def _number(found: Any) -> float:
    """The number, or NaN for what is none. Python's ``1_0`` is none."""
    try:
        return float("nan") if isinstance(found, str) and "_" in found else float(found)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _suggestion(name: str, known: Sequence[str]) -> str:
    by_folded = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower().replace(" ", "_").replace("-", "_"), by_folded, n=3, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(by_folded[match] for match in near) + "?"
    listed = ", ".join(known[:MAX_LISTED]) + (", …" if len(known) > MAX_LISTED else "")
    return f"; the {len(known)} known ones are {listed}"
