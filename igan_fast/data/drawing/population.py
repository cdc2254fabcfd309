"""Samples the parameters of people and images. They depend on (seed, index) alone, so every process gets the same.

The rates of the attributes and their correlations follow CelebA. Rare attributes are raised to a few per cent, so that
a small dataset has some examples.
"""

from __future__ import annotations

from igan_fast.data.drawing.parameters import (
    HAIR_COLOURS,
    FaceParameters,
    ImageFactors,
    PersonFactors,
    labels_of,
    short_haired,
)
from igan_fast.data.shuffle import random_bits
from igan_fast.errors import InputError

__all__ = ["face_parameters", "identity_of"]

#: A block of 1,000 images shows 200 people, in the same order five times.
IMAGES_PER_IDENTITY = 5
_PEOPLE_PER_BLOCK = 200


def identity_of(index: int) -> int:
    """The identity on image ``index``: 0 to 199, five times, then 200 to 399, five times, and so on."""
    block, place = divmod(index, _PEOPLE_PER_BLOCK * IMAGES_PER_IDENTITY)
    return block * _PEOPLE_PER_BLOCK + place % _PEOPLE_PER_BLOCK


def face_parameters(seed: int, index: int) -> FaceParameters:
    """The parameters of image ``index`` in dataset ``seed``. They do not depend on the process or the order of calls.

    Raises:
        InputError: ``seed`` or ``index`` is negative.
    """
    for name, value in (("seed", seed), ("index", index)):
        if value < 0:
            raise InputError(f"{name}: found {value}, expected 0 or more")
    identity = identity_of(index)
    person_stream = _RandomStream(seed, 0, identity)
    person = PersonFactors(*person_stream.symmetric(len(PersonFactors._fields)))
    shared = _identity_attributes(person_stream, person)
    image_stream = _RandomStream(seed, 1, index)
    image = ImageFactors(*image_stream.symmetric(len(ImageFactors._fields)))
    return FaceParameters(identity, labels_of(_image_attributes(image_stream, shared, person)), person, image)


class _RandomStream:
    """A stream of 64 random numbers that depends on ``key`` alone, from the Philox generator."""

    def __init__(self, *key: int) -> None:
        # The upper 53 bits as a double in [0, 1), as in NumPy's Generator.random.
        self._values = iter([(bits >> 11) * 2.0**-53 for bits in random_bits(64, *key).tolist()])

    def symmetric(self, count: int) -> list[float]:
        """``count`` numbers, uniform in [-1, 1)."""
        return [2.0 * next(self._values) - 1.0 for _ in range(count)]

    def uniform(self) -> float:
        """A number, uniform in [0, 1)."""
        return float(next(self._values))

    def bernoulli(self, probability: float) -> bool:
        """True with this probability. It always takes exactly one number of the stream."""
        return self.uniform() < probability


def _identity_attributes(stream: _RandomStream, person: PersonFactors) -> set[str]:
    """Sample the attributes that all images of an identity share."""
    male = stream.bernoulli(0.42)
    young = stream.bernoulli(0.65 if male else 0.86)
    chubby = stream.bernoulli((0.05 if young else 0.24) if male else 0.03)
    big_nose = stream.bernoulli((0.33 if young else 0.55) if male else 0.1)
    pale = person.skin < -0.2 and stream.bernoulli(0.06 if male else 0.13)
    probabilities = {
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
    shared = {name for name, probability in probabilities.items() if stream.bernoulli(probability)}
    shared |= {name for name, present in (("Male", male), ("Young", young)) if present}
    return shared | _hair(stream, person, male, young)


def _hair(stream: _RandomStream, person: PersonFactors, male: bool, young: bool) -> set[str]:
    if stream.bernoulli((0.025 if young else 0.11) if male else 0.0):
        return {"Bald"}
    hair: set[str] = set()
    value = stream.uniform()
    if value < (0.0 if young else (0.34 if male else 0.22)):
        hair.add("Gray_Hair")
    else:
        value = stream.uniform()
        deep = person.skin > 0.45
        black = 0.62 if deep else (0.3 if male else 0.18)
        blond = (0.02 if deep else 0.07) if male else (0.06 if deep else 0.34)
        brown = 0.22 if deep else (0.36 if male else 0.31)
        for name, share in (("Black_Hair", black), ("Blond_Hair", blond), ("Brown_Hair", brown)):
            if 0 <= value < share:
                hair.add(name)
            value -= share
    texture = stream.uniform()
    straight, wavy = (0.27, 0.15) if male else (0.21, 0.46)
    if texture < straight:
        hair.add("Straight_Hair")
    elif texture < straight + wavy:
        hair.add("Wavy_Hair")
    if stream.bernoulli((0.05 if young else 0.27) if male else 0.05):
        hair.add("Receding_Hairline")
    elif stream.bernoulli(0.09 if male else 0.24):
        hair.add("Bangs")
    return hair


def _image_attributes(stream: _RandomStream, shared: set[str], person: PersonFactors) -> set[str]:
    """The identity's attributes plus sampled ones of this image: expression, beard, make-up, clothes."""
    male, young = "Male" in shared, "Young" in shared
    smiling = stream.bernoulli(0.4 if male else 0.54)
    makeup = not male and stream.bernoulli(0.68 if young else 0.5)
    necktie = stream.bernoulli((0.13 if young else 0.3) if male else 0.004)
    probabilities = {
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
    present = shared | {name for name, probability in probabilities.items() if stream.bernoulli(probability)}
    hat = stream.bernoulli(0.085 if male else 0.035)
    if hat and "Bald" not in present:
        present = (present | {"Wearing_Hat"}) - {"Bangs", "Receding_Hairline"}
        if short_haired(male, person):
            present -= {*HAIR_COLOURS, "Straight_Hair", "Wavy_Hair"}
    return present | _beard(stream, male)


def _beard(stream: _RandomStream, male: bool) -> set[str]:
    if not stream.bernoulli(0.4 if male else 0.0):
        return {"No_Beard"}
    goatee = stream.bernoulli(0.38)
    probabilities = {
        "Goatee": float(goatee),
        "5_o_Clock_Shadow": 0.4 if goatee else 0.72,
        "Mustache": 0.5 if goatee else 0.12,
        "Sideburns": 0.55 if goatee else 0.16,
    }
    return {name for name, probability in probabilities.items() if stream.bernoulli(probability)}
