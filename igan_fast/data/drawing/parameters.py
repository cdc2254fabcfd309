"""What is drawn: the 40 labels of a face and the numbers that make two faces with the same labels differ.

The labels alone say what an attribute looks like; `Shape` (one per identity) and `Moment` (one per picture) only vary a
face within them. So one label can be changed and the same face drawn again (`with_attribute`).

Who there is, and how often, stands in `igan_fast.data.drawing.population`. Rules that hold for every face:

* At most one hair colour. None of the four means another one (copper, dyed), a bald head, or short hair under a hat.
* `Bald` excludes hair colours, `Bangs`, `Receding_Hairline`, `Straight_Hair`, `Wavy_Hair` and `Wearing_Hat`.
* `Bangs`, `Receding_Hairline` and `Wearing_Hat` exclude each other; so do `Straight_Hair` and `Wavy_Hair`.
* `No_Beard` is 1 exactly where the face has no stubble, goatee, moustache, sideburns or jaw beard. A face with
  `No_Beard` 0 and none of the four named kinds wears a short beard along the jaw.
* `Attractive` has no look of its own: it is 1 where the points of `_APPEAL` for the face's other labels come to more
  than zero. They follow what the people who labelled CelebA tended to say; they are a rule to learn, not a judgement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from igan_fast.data.attributes import CELEBA_ATTRIBUTES, attribute_indices
from igan_fast.errors import InputError

__all__ = [
    "EXCLUSIONS",
    "HAIR_COLOURS",
    "FaceParameters",
    "Moment",
    "Shape",
    "labels_of",
    "short_haired",
    "with_attribute",
]

HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
_BEARDS = ("5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns")

#: Attributes that exclude each other: at most one of each pair is 1.
EXCLUSIONS: frozenset[frozenset[str]] = frozenset(
    frozenset(pair)
    for pair in [
        *((a, b) for a in HAIR_COLOURS for b in HAIR_COLOURS if a != b),
        *(("Bald", b) for b in (*HAIR_COLOURS, "Bangs", "Receding_Hairline", "Straight_Hair", "Wavy_Hair")),
        *(("Wearing_Hat", b) for b in ("Bald", "Bangs", "Receding_Hairline")),
        *(("No_Beard", b) for b in _BEARDS),
        ("Bangs", "Receding_Hairline"),
        ("Straight_Hair", "Wavy_Hair"),
    ]
)

_APPEAL_BASE = -1.25
_APPEAL = {
    "Young": 1.3,
    "Heavy_Makeup": 0.6,
    "Arched_Eyebrows": 0.3,
    "High_Cheekbones": 0.3,
    "Oval_Face": 0.4,
    "Pointy_Nose": 0.2,
    "Wavy_Hair": 0.2,
    "Male": -0.2,
    "Bags_Under_Eyes": -0.3,
    "Bald": -0.6,
    "Big_Nose": -0.4,
    "Chubby": -1.0,
    "Double_Chin": -0.8,
    "Eyeglasses": -0.5,
    "Narrow_Eyes": -0.2,
    "Receding_Hairline": -0.3,
    "Wearing_Hat": -0.2,
}


class Shape(NamedTuple):
    """What an identity keeps over its pictures. Each number is uniform in [-1, 1]."""

    cheeks: float
    jaw: float
    chin: float
    length: float
    eye_gap: float
    eye_size: float
    eye_slant: float
    eye_colour: float
    brow_height: float
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_height: float
    lips: float
    skin: float  # from light to deep
    hair_shade: float
    hair_length: float
    hair_style: float
    parting: float


class Moment(NamedTuple):
    """What changes from picture to picture. Each number is uniform in [-1, 1]."""

    x: float
    y: float
    zoom: float
    roll: float
    yaw: float
    pitch: float
    light_side: float
    warmth: float
    brightness: float
    gaze: float
    expression: float
    mouth: float
    brows: float
    scene: float
    scene_colour: float
    scene_x: float
    scene_y: float
    outfit: float
    outfit_colour: float
    accessory: float
    accessory_colour: float
    makeup: float


@dataclass(frozen=True)
class FaceParameters:
    """All that a picture is drawn from. ``labels`` holds the 40 CelebA attributes, 0 or 1, in CelebA's order."""

    identity: int
    labels: tuple[int, ...]
    shape: Shape
    moment: Moment

    def has(self, attribute: str) -> bool:
        """Whether the face has ``attribute`` (a CelebA name)."""
        return bool(self.labels[_POSITION[attribute]])


_POSITION = {name: position for position, name in enumerate(CELEBA_ATTRIBUTES)}


def short_haired(male: bool, shape: Shape) -> bool:
    """Whether the hair ends above the ears, so that a hat hides it."""
    return shape.hair_length < (0.86 if male else -0.72)


def with_attribute(parameters: FaceParameters, attribute: str, value: int) -> FaceParameters:
    """The same face with one attribute set to 0 or 1, for users and tests that want to see just that change.

    What the attribute excludes is cleared (`EXCLUSIONS`), and ``Attractive`` is worked out anew; nothing else moves.

    Raises:
        InputError: an unknown attribute, a value other than 0 and 1, or ``Attractive``, which follows from the others.
    """
    attribute_indices([attribute], CELEBA_ATTRIBUTES, where="attribute")
    if value not in (0, 1):
        raise InputError(f"value: found {value!r} for {attribute}, expected 0 or 1")
    if attribute == "Attractive":
        raise InputError("attribute: 'Attractive' follows from the other attributes; set one of those")
    present = {name for name in CELEBA_ATTRIBUTES if parameters.has(name)} - {attribute}
    if value:
        present = {name for name in present if frozenset((name, attribute)) not in EXCLUSIONS} | {attribute}
    return replace(parameters, labels=labels_of(present))


def labels_of(present: set[str]) -> tuple[int, ...]:
    """The 40 labels of a face that has the attributes ``present``; ``Attractive`` follows from the others."""
    present = present - {"Attractive"}
    if _APPEAL_BASE + sum(_APPEAL.get(name, 0.0) for name in sorted(present)) > 0:
        present.add("Attractive")
    return tuple(int(name in present) for name in CELEBA_ATTRIBUTES)
