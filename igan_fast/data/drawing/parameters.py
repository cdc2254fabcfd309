"""The parameters of a drawn face: its 40 labels, and factors that make faces with the same labels differ.

The labels determine how each attribute looks. `PersonFactors` (one per identity) and `ImageFactors` (one per image)
vary everything else. So `with_attribute` can change one label and keep the rest of the face.

`igan_fast.data.drawing.population` samples the parameters. Rules between the labels of every face:

* A face has at most one hair colour. If it has none of the four, its hair has another colour (copper, dyed), or it is
  bald, or a hat hides its short hair.
* `Bald` excludes hair colours, `Bangs`, `Receding_Hairline`, `Straight_Hair`, `Wavy_Hair` and `Wearing_Hat`.
* `Bangs`, `Receding_Hairline` and `Wearing_Hat` exclude each other; so do `Straight_Hair` and `Wavy_Hair`.
* `No_Beard` is 1 if and only if the face has no stubble, goatee, moustache, sideburns or jaw beard. If `No_Beard` is 0
  and the face has none of the first four, it has a short beard along the jaw.
* `Attractive` is not drawn. It is a linear rule: 1 if the bias plus the weights of the face's other labels
  (`_ATTRACTIVE_WEIGHTS`) is above zero. The weights follow the correlations in CelebA's labels. They give models a rule
  to learn and express no judgement.
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
    "ImageFactors",
    "PersonFactors",
    "labels_of",
    "short_haired",
    "with_attribute",
]

HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
_BEARDS = ("5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns")

#: Pairs of attributes that exclude each other.
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

_ATTRACTIVE_BIAS = -1.25
_ATTRACTIVE_WEIGHTS = {
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


class PersonFactors(NamedTuple):
    """The factors that all images of one identity share. Each is uniform in [-1, 1]."""

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
    skin: float  # from light to dark
    hair_shade: float
    hair_length: float
    hair_style: float
    parting: float


class ImageFactors(NamedTuple):
    """The factors that differ from image to image. Each is uniform in [-1, 1]."""

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
    """All parameters of a drawn image. ``labels`` holds the 40 attributes, 0 or 1, in CelebA's order."""

    identity: int
    labels: tuple[int, ...]
    person: PersonFactors
    image: ImageFactors

    def has(self, attribute: str) -> bool:
        """Whether the face has ``attribute`` (a CelebA name)."""
        return bool(self.labels[_POSITION[attribute]])


_POSITION = {name: position for position, name in enumerate(CELEBA_ATTRIBUTES)}


def short_haired(male: bool, person: PersonFactors) -> bool:
    """Whether the hair is short enough for a hat to hide it."""
    return person.hair_length < (0.86 if male else -0.72)


def with_attribute(parameters: FaceParameters, attribute: str, value: int) -> FaceParameters:
    """The same face with one attribute set to 0 or 1.

    Setting an attribute to 1 sets those that it excludes to 0 (`EXCLUSIONS`). ``Attractive`` is computed again. No
    other parameter changes.

    Raises:
        InputError: the attribute is unknown or ``Attractive``, which follows from the others, or the value is neither 0
            nor 1.
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
    """The 40 labels of a face that has the attributes ``present``. ``Attractive`` is computed from the others."""
    present = present - {"Attractive"}
    if _ATTRACTIVE_BIAS + sum(_ATTRACTIVE_WEIGHTS.get(name, 0.0) for name in sorted(present)) > 0:
        present.add("Attractive")
    return tuple(int(name in present) for name in CELEBA_ATTRIBUTES)
