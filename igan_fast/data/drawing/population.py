"""Who there is: people and pictures rolled by dice, each the same for the same (seed, index) in every process.

Rates and dependences follow CelebA's, rare attributes raised to a few per cent so that a small dataset has some.
"""

from __future__ import annotations

from igan_fast.data.drawing.parameters import HAIR_COLOURS, FaceParameters, Moment, Shape, labels_of, short_haired
from igan_fast.data.shuffle import random_bits
from igan_fast.errors import InputError

__all__ = ["face_parameters", "identity_of"]

#: Pictures of one identity, and how many identities take turns before the first one comes again.
PICTURES_PER_IDENTITY = 5
_TURNS = 200


def identity_of(index: int) -> int:
    """The identity on picture ``index``: 200 people take turns five times, then the next 200 do."""
    block, place = divmod(index, _TURNS * PICTURES_PER_IDENTITY)
    return block * _TURNS + place % _TURNS


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
    return FaceParameters(identity, labels_of(_occasion(picture, traits, shape)), shape, moment)


class _Dice:
    """A stream of uniform numbers of its own for each (seed, kind, index): Philox, the counter-based generator."""

    def __init__(self, *key: int) -> None:
        # The upper 53 bits as a double in [0, 1), as NumPy's generators make them.
        self._rolls = iter([(bits >> 11) * 2.0**-53 for bits in random_bits(64, *key).tolist()])

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
            present -= {*HAIR_COLOURS, "Straight_Hair", "Wavy_Hair"}
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
