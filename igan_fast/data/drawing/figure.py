"""Computes the measures and colours of a face from its parameters. All ``paint_…`` functions use them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from igan_fast.data.drawing.canvas import Colour, Points, loop, mirrored, mix
from igan_fast.data.drawing.parameters import FaceParameters, short_haired

__all__ = ["Figure", "pick"]

_SKINS: tuple[Colour, ...] = (
    (244, 206, 180), (240, 198, 166), (232, 188, 152), (222, 172, 134), (206, 152, 112), (180, 124, 86), (150, 98, 66),
    (120, 78, 54),
)  # fmt: skip
_PALE: Colour = (248, 226, 217)
_IRISES: tuple[Colour, ...] = (
    (84, 50, 28), (66, 40, 26), (112, 72, 36), (58, 104, 150), (76, 128, 168), (72, 120, 78), (108, 116, 70),
    (98, 112, 124),
)  # fmt: skip
_HAIRS: dict[str, Colour] = {
    "Black_Hair": (34, 28, 34),
    "Blond_Hair": (236, 199, 112),
    "Brown_Hair": (112, 68, 40),
    "Gray_Hair": (178, 181, 188),
}
_OTHER_HAIRS: tuple[Colour, ...] = (
    (184, 76, 34),
    (204, 100, 48),
    (160, 52, 36),
    (190, 84, 30),
    (172, 60, 44),
    (196, 84, 130),
    (70, 132, 142),
)
_LIPSTICKS: tuple[Colour, ...] = ((198, 26, 52), (214, 52, 88), (160, 24, 64), (222, 66, 66))


def pick(choices: Sequence[Colour], number: float) -> Colour:
    """Map ``number``, uniform in [-1, 1], to one of ``choices`` with equal probability."""
    return choices[min(len(choices) - 1, int((number + 1) / 2 * len(choices)))]


class Figure:
    """The measures (in head coordinates) and colours of one face. ``has(name)`` says whether it has an attribute."""

    def __init__(self, parameters: FaceParameters) -> None:
        self.person, self.image, self.has = parameters.person, parameters.image, parameters.has
        has, person = self.has, self.person
        self.male, self.young = has("Male"), has("Young")
        self.short = short_haired(self.male, person)

        tone = (person.skin + 1) / 2 * (len(_SKINS) - 1)
        low = min(int(tone), len(_SKINS) - 2)
        skin = _PALE if has("Pale_Skin") else mix(_SKINS[low], _SKINS[low + 1], tone - low)
        self.skin = skin if self.young else mix(skin, (170, 154, 138), 0.22)
        self.shadow = mix(self.skin, (96, 32, 28), 0.34)  # slightly darker skin, for the lines of nose and chin
        self.crease = mix(self.skin, (70, 24, 22), 0.62)
        self.iris = pick(_IRISES if person.skin < 0.35 else _IRISES[:3], person.eye_colour)

        colour = next((colour for name, colour in _HAIRS.items() if has(name)), None)
        hair = pick(_OTHER_HAIRS, person.hair_shade) if colour is None else colour
        self.hair = mix(hair, (255, 255, 255) if person.hair_shade > 0 else (0, 0, 0), 0.08 * abs(person.hair_shade))
        if not self.young and not has("Gray_Hair"):
            self.hair = mix(self.hair, (158, 154, 154), 0.22)
        self.hair_dark = mix(self.hair, (20, 8, 16), 0.5)
        self.hair_light = mix(self.hair, (255, 244, 224), 0.36 if has("Black_Hair") else 0.44)
        whiskers = (96, 74, 60) if has("Bald") else mix(self.hair, (50, 28, 20), 0.35)
        self.whiskers = mix(whiskers, (190, 190, 194), 0.0 if self.young else 0.15)
        self.brow = mix(self.hair if not has("Bald") else (90, 64, 48), (52, 32, 26), 0.5)

        natural = mix(self.skin, (196, 70, 74), 0.36 if self.male else 0.46)
        self.lips = pick(_LIPSTICKS, self.image.makeup) if has("Wearing_Lipstick") else natural

        chubby, oval = has("Chubby"), has("Oval_Face")
        self.cheek = (0.231 + 0.006 * person.cheeks) * (1.13 if chubby else 0.95 if oval else 1.01)
        jaw = (0.195 if self.male else 0.175) + 0.007 * person.jaw
        self.jaw = jaw * (1.24 if chubby else 0.845 if oval else 1.04)
        chin = (0.096 if self.male else 0.074) + 0.008 * person.chin
        self.chin = chin * (1.3 if chubby else 0.82 if oval else 1.12)
        self.bottom = 0.368 + 0.008 * person.length + (0.014 if oval else -0.006) + (0.008 if self.male else 0.0)
        self.neck = (0.135 if self.male else 0.098) * (1.15 if chubby else 1.0)
        self.eye_x = 0.111 + 0.005 * person.eye_gap
        self.mouth_y = 0.238 + 0.008 * person.mouth_height
        self.face = loop(
            mirrored(
                [
                    (0, -0.338),
                    (0.118, -0.316),
                    (0.196, -0.226),
                    (self.cheek * 0.985, -0.085),
                    (self.cheek, 0.045),
                    (self.cheek * 0.45 + self.jaw * 0.55 + 0.008, 0.155),
                    (self.jaw, 0.25),
                    (self.chin, self.bottom - 0.024),
                    (0, self.bottom),
                ]
            )[:-1]
        )

    def cheek_line(self, y: float) -> float:
        """The x coordinate of the face's right edge at height ``y``, for ``y`` between the eyes and the chin."""
        return float(np.interp(y, self._side[:, 1], self._side[:, 0]))

    @cached_property
    def _side(self) -> Points:
        right: Points = self.face[self.face[:, 0] > 0]
        return right[np.argsort(right[:, 1])]
