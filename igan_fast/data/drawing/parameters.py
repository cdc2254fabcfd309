"""Who is drawn: the 40 labels of a face and the numbers that make two faces with the same labels differ.

The labels alone say what an attribute looks like; `Shape` (one per identity) and `Moment` (one per picture) only vary a
face within them. So one label can be changed and the same face drawn again (`with_attribute`).

Rates and dependences follow CelebA's, rare attributes raised to a few per cent so that a small dataset has some. Rules
that hold for every face:

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

import numpy as np

from igan_fast.data.attributes import CELEBA_ATTRIBUTES, attribute_indices
from igan_fast.errors import InputError

__all__ = ["EXCLUSIONS", "FaceParameters", "Moment", "Shape", "face_parameters", "identity_of", "with_attribute"]

#: Pictures of one identity, and how many identities take turns before the first one comes again.
PICTURES_PER_IDENTITY = 5
_TURNS = 200

_HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
_BEARDS = ("5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns")

#: Attributes that exclude each other: at most one of each pair is 1.
EXCLUSIONS: frozenset[frozenset[str]] = frozenset(
    frozenset(pair)
    for pair in [
        *((a, b) for a in _HAIR_COLOURS for b in _HAIR_COLOURS if a != b),
        *(("Bald", b) for b in (*_HAIR_COLOURS, "Bangs", "Receding_Hairline", "Straight_Hair", "Wavy_Hair")),
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


def identity_of(index: int) -> int:
    """The identity on picture ``index``: 200 people take turns five times, then the next 200 do."""
    block, place = divmod(index, _TURNS * PICTURES_PER_IDENTITY)
    return block * _TURNS + place % _TURNS


def short_haired(male: bool, shape: Shape) -> bool:
    """Whether the hair ends above the ears, so that a hat hides it."""
    return shape.hair_length < (0.86 if male else -0.72)


def face_parameters(seed: int, index: int) -> FaceParameters:
    """The face on picture ``index`` of the dataset ``seed``: the same in every process, in any order of calls.

    Raises:
        InputError: ``seed`` or ``index`` is negative.
    """
    for name, value in (("seed", seed), ("index", index)):
        if value < 0:
            raise InputError(f"{name}: found {value}, expected 0 or more")
    identity = identity_of(index)
    person = _Dice(seed, 0, identity)
    shape = Shape(*person.numbers(len(Shape._fields)))
    traits = _traits(person, shape)
    picture = _Dice(seed, 1, index)
    moment = Moment(*picture.numbers(len(Moment._fields)))
    return FaceParameters(identity, _labels(_occasion(picture, traits, shape)), shape, moment)


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
    return replace(parameters, labels=_labels(present))


def _labels(present: set[str]) -> tuple[int, ...]:
    present = present - {"Attractive"}
    if _APPEAL_BASE + sum(_APPEAL.get(name, 0.0) for name in sorted(present)) > 0:
        present.add("Attractive")
    return tuple(int(name in present) for name in CELEBA_ATTRIBUTES)


class _Dice:
    """A stream of uniform numbers of its own for each (seed, kind, index): Philox, the counter-based generator."""

    def __init__(self, *key: int) -> None:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        self._rolls = iter(generator.random(64).tolist())

    def numbers(self, count: int) -> list[float]:
        return [2.0 * next(self._rolls) - 1.0 for _ in range(count)]

    def roll(self) -> float:
        return float(next(self._rolls))

    def chance(self, probability: float) -> bool:
        """True with this probability; one number is used up whatever the probability."""
        return self.roll() < probability


def _traits(dice: _Dice, shape: Shape) -> set[str]:
    """The attributes that an identity has on every picture."""
    male = dice.chance(0.42)
    young = dice.chance(0.65 if male else 0.86)
    chubby = dice.chance((0.05 if young else 0.24) if male else 0.03)
    big_nose = dice.chance((0.33 if young else 0.55) if male else 0.1)
    pale = shape.skin < -0.2 and dice.chance(0.06 if male else 0.13)
    chances = {
        "Chubby": float(chubby),
        "Big_Nose": float(big_nose),
        "Pale_Skin": float(pale),
        "Double_Chin": (0.45 if male else 0.35) if chubby else 0.025,
        "Pointy_Nose": (0.2 if male else 0.38) * (0.25 if big_nose else 1.0),
        "Big_Lips": 0.16 if male else 0.29,
        "Oval_Face": (0.23 if male else 0.34) * (0.3 if chubby else 1.0),
        "Narrow_Eyes": 0.11,
        "Arched_Eyebrows": 0.05 if male else 0.41,
        "Bushy_Eyebrows": (0.28 if young else 0.2) if male else 0.07,
        "Bags_Under_Eyes": (0.25 if male else 0.08) if young else (0.46 if male else 0.2),
    }
    traits = {name for name, probability in chances.items() if dice.chance(probability)}
    traits |= {name for name, present in (("Male", male), ("Young", young)) if present}
    return traits | _hair(dice, shape, male, young)


def _hair(dice: _Dice, shape: Shape, male: bool, young: bool) -> set[str]:
    if dice.chance((0.025 if young else 0.11) if male else 0.0):
        return {"Bald"}
    hair: set[str] = set()
    roll = dice.roll()
    if roll < (0.0 if young else (0.34 if male else 0.22)):
        hair.add("Gray_Hair")
    else:
        roll = dice.roll()
        deep = shape.skin > 0.45
        black = 0.62 if deep else (0.3 if male else 0.18)
        blond = (0.02 if deep else 0.07) if male else (0.06 if deep else 0.34)
        brown = 0.22 if deep else (0.36 if male else 0.31)
        for name, share in (("Black_Hair", black), ("Blond_Hair", blond), ("Brown_Hair", brown)):
            if 0 <= roll < share:
                hair.add(name)
            roll -= share
    texture = dice.roll()
    straight, wavy = (0.27, 0.15) if male else (0.21, 0.46)
    if texture < straight:
        hair.add("Straight_Hair")
    elif texture < straight + wavy:
        hair.add("Wavy_Hair")
    if dice.chance((0.05 if young else 0.27) if male else 0.05):
        hair.add("Receding_Hairline")
    elif dice.chance(0.09 if male else 0.24):
        hair.add("Bangs")
    return hair


def _occasion(dice: _Dice, traits: set[str], shape: Shape) -> set[str]:
    """The identity's traits with what this picture adds: expression, beard, make-up, clothes."""
    male, young = "Male" in traits, "Young" in traits
    smiling = dice.chance(0.4 if male else 0.54)
    makeup = not male and dice.chance(0.68 if young else 0.5)
    necktie = dice.chance((0.13 if young else 0.3) if male else 0.004)
    chances = {
        "Smiling": float(smiling),
        "Heavy_Makeup": float(makeup),
        "Wearing_Necktie": float(necktie),
        "Mouth_Slightly_Open": 0.74 if smiling else 0.24,
        "High_Cheekbones": (0.7 if male else 0.84) if smiling else (0.06 if male else 0.2),
        "Wearing_Lipstick": 0.98 if makeup else (0.005 if male else 0.42),
        "Rosy_Cheeks": 0.0 if male else (0.15 if makeup else 0.05),
        "Wearing_Earrings": 0.015 if male else (0.29 if young else 0.46),
        "Wearing_Necklace": 0.0 if necktie else (0.03 if male else 0.21),
        "Eyeglasses": ((0.07 if young else 0.22) if male else (0.025 if young else 0.07)),
        "Blurry": 0.05,
    }
    present = traits | {name for name, probability in chances.items() if dice.chance(probability)}
    hat = dice.chance(0.085 if male else 0.035)
    if hat and "Bald" not in present:
        present = (present | {"Wearing_Hat"}) - {"Bangs", "Receding_Hairline"}
        if short_haired(male, shape):
            present -= {*_HAIR_COLOURS, "Straight_Hair", "Wavy_Hair"}
    return present | _beard(dice, male)


def _beard(dice: _Dice, male: bool) -> set[str]:
    if not dice.chance(0.4 if male else 0.0):
        return {"No_Beard"}
    goatee = dice.chance(0.38)
    chances = {
        "Goatee": float(goatee),
        "5_o_Clock_Shadow": 0.4 if goatee else 0.72,
        "Mustache": 0.5 if goatee else 0.12,
        "Sideburns": 0.55 if goatee else 0.16,
    }
    return {name for name, probability in chances.items() if dice.chance(probability)}
