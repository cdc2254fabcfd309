"""The order of the sliders: CelebA's attributes in groups, and the search among them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["grouped", "matching", "shown_name"]

#: The groups of CelebA's attributes. Those of the first are open on the page, the others folded.
_GROUPS: dict[str, tuple[str, ...]] = {
    "Often used": ("Smiling", "Eyeglasses", "Male", "Young", "Bangs", "Blond_Hair"),
    "Hair": (
        "Bald", "Black_Hair", "Brown_Hair", "Gray_Hair", "Receding_Hairline", "Straight_Hair", "Wavy_Hair",
    ),
    "Beard": ("No_Beard", "5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns"),
    "Eyes": ("Arched_Eyebrows", "Bushy_Eyebrows", "Bags_Under_Eyes", "Narrow_Eyes"),
    "Mouth and nose": ("Mouth_Slightly_Open", "Big_Lips", "Big_Nose", "Pointy_Nose"),
    "Face": (
        "Attractive", "Chubby", "Double_Chin", "High_Cheekbones", "Oval_Face", "Pale_Skin", "Rosy_Cheeks",
    ),
    "What is worn": (
        "Heavy_Makeup", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie",
    ),
    "Picture": ("Blurry",),
}  # fmt: skip

#: Without names that a group knows, so many attributes are in front.
_IN_FRONT = 6


def grouped(attributes: Sequence[str]) -> dict[str, list[str]]:
    """Return a model's attributes by group, each attribute once. The first group is not empty.

    Attributes that CelebA does not have come last, as "Others".
    """
    groups = {title: [name for name in names if name in attributes] for title, names in _GROUPS.items()}
    known = {name for names in groups.values() for name in names}
    groups["Others"] = [name for name in attributes if name not in known]
    found = {title: names for title, names in groups.items() if names}
    first, *others = found
    if first in ("Often used", "Others") and (others or len(found[first]) <= _IN_FRONT):
        return found
    front = list(attributes[:_IN_FRONT])
    rest = {title: [name for name in names if name not in front] for title, names in found.items()}
    return {"First": front} | {title: names for title, names in rest.items() if names}


def matching(attributes: Sequence[str], search: str) -> set[str]:
    """Return the attributes that a search finds: those whose name holds each of its words. No word finds all."""
    words = search.lower().replace("_", " ").split()
    return {name for name in attributes if all(word in shown_name(name).lower() for word in words)}


def shown_name(attribute: str) -> str:
    """An attribute as people read it: ``Blond Hair``."""
    return attribute.replace("_", " ")
