"""``draw_face`` and ``with_attribute``: every attribute is visible, and changing one keeps the others."""

from __future__ import annotations

import numpy as np
import pytest

from igan_fast.data.attributes import CELEBA_ATTRIBUTES
from igan_fast.data.drawing.parameters import EXCLUSIONS
from igan_fast.data.drawn_faces import draw_face, face_parameters, with_attribute


@pytest.mark.parametrize("size", [16, 33, 64, 128])
def test_every_size_shows_the_same_face(size):
    image = draw_face(face_parameters(0, 4), size)
    assert image.dtype == np.uint8
    assert image.shape == (size, size, 3)
    assert image.flags.c_contiguous
    large = draw_face(face_parameters(0, 4), 8 * size)  # averaged to the small size
    average = large.reshape(size, 8, size, 8, 3).mean((1, 3))
    assert np.abs(image - average).mean() < 4


def test_edges_are_anti_aliased():
    parameters = with_attribute(face_parameters(0, 3), "Eyeglasses", 1)
    assert len(np.unique(draw_face(parameters, 64).reshape(-1, 3), axis=0)) > 1000


_HAIR = (0.2, 0.02, 0.8, 0.3)
_LOCKS = (0.12, 0.02, 0.88, 0.9)
_MOUTH = (0.36, 0.62, 0.64, 0.82)
_BROWS = (0.28, 0.32, 0.72, 0.45)
_JAW = (0.2, 0.45, 0.8, 0.92)
#: The region of each attribute (left, top, right, bottom, as fractions of the width), and the least fraction of the
#: region's pixels that it changes.
_VISIBLE = {
    "5_o_Clock_Shadow": ((0.25, 0.6, 0.75, 0.9), 0.15),
    "Arched_Eyebrows": (_BROWS, 0.04),
    "Bags_Under_Eyes": ((0.28, 0.46, 0.72, 0.58), 0.05),
    "Bald": (_HAIR, 0.2),
    "Bangs": ((0.28, 0.2, 0.72, 0.42), 0.2),
    "Big_Lips": (_MOUTH, 0.02),
    "Big_Nose": ((0.38, 0.52, 0.62, 0.68), 0.04),
    "Black_Hair": (_HAIR, 0.2),
    "Blond_Hair": (_HAIR, 0.2),
    "Blurry": ((0.2, 0.2, 0.8, 0.9), 0.06),
    "Brown_Hair": (_HAIR, 0.15),
    "Bushy_Eyebrows": (_BROWS, 0.05),
    "Chubby": (_JAW, 0.05),
    "Double_Chin": ((0.3, 0.72, 0.7, 0.95), 0.02),
    "Eyeglasses": ((0.25, 0.38, 0.75, 0.6), 0.2),
    "Goatee": ((0.36, 0.74, 0.64, 0.9), 0.1),
    "Gray_Hair": (_HAIR, 0.2),
    "Heavy_Makeup": ((0.2, 0.36, 0.8, 0.62), 0.04),
    "High_Cheekbones": ((0.25, 0.5, 0.75, 0.72), 0.02),
    "Male": ((0.1, 0.0, 0.9, 1.0), 0.03),
    "Mouth_Slightly_Open": (_MOUTH, 0.1),
    "Mustache": ((0.36, 0.62, 0.64, 0.74), 0.1),
    "Narrow_Eyes": ((0.3, 0.42, 0.7, 0.52), 0.15),
    "No_Beard": (_JAW, 0.06),
    "Oval_Face": (_JAW, 0.02),
    "Pale_Skin": ((0.35, 0.5, 0.65, 0.65), 0.5),
    "Pointy_Nose": ((0.38, 0.45, 0.62, 0.68), 0.03),
    "Receding_Hairline": ((0.28, 0.1, 0.72, 0.4), 0.1),
    "Rosy_Cheeks": ((0.25, 0.5, 0.75, 0.7), 0.05),
    "Sideburns": ((0.2, 0.38, 0.8, 0.65), 0.04),
    "Smiling": (_MOUTH, 0.03),
    "Straight_Hair": (_LOCKS, 0.01),
    "Wavy_Hair": (_LOCKS, 0.02),
    "Wearing_Earrings": ((0.15, 0.52, 0.85, 0.72), 0.05),
    "Wearing_Hat": ((0.1, 0.0, 0.9, 0.36), 0.2),
    "Wearing_Lipstick": (_MOUTH, 0.05),
    "Wearing_Necklace": ((0.3, 0.82, 0.7, 1.0), 0.1),
    "Wearing_Necktie": ((0.3, 0.82, 0.7, 1.0), 0.3),
    "Young": ((0.2, 0.2, 0.8, 0.8), 0.02),
}


def _models():
    """Six faces without attributes that hide others: no blur, hat, glasses, bald head or beard."""
    hiding = ("Blurry", "Wearing_Hat", "Bald", "Eyeglasses")
    found = [face_parameters(0, index) for index in range(60)]
    found = [with_attribute(face, "No_Beard", 1) for face in found if not any(map(face.has, hiding))]
    return found[:6]


def test_all_attributes_except_attractive_are_in_the_table():
    assert {*_VISIBLE, "Attractive"} == set(CELEBA_ATTRIBUTES)


@pytest.mark.parametrize("name", _VISIBLE)
def test_an_attribute_changes_its_region(name):
    (left, top, right, bottom), least = _VISIBLE[name]
    for face in _models():
        without = with_attribute(face, name, 0)
        other = draw_face(without, 64).astype(int)
        changed = np.abs(draw_face(with_attribute(without, name, 1), 64) - other).max(-1) > 24
        inside = np.zeros_like(changed)
        inside[round(64 * top) : round(64 * bottom), round(64 * left) : round(64 * right)] = True
        assert changed[inside].mean() >= least
        assert changed[inside].mean() > changed[~inside].mean()


def test_attributes_change_the_image_in_the_right_direction():
    """Hair colours give hair of that colour, and ``Blurry`` reduces the contrast of adjacent pixels."""

    def crown(face):
        return draw_face(face, 64)[7:11, 28:36].reshape(-1, 3).mean(0)

    for face in _models():
        black, blond, gray = (
            crown(with_attribute(face, name, 1)) for name in ("Black_Hair", "Blond_Hair", "Gray_Hair")
        )
        assert black.mean() < 90 < blond.mean()
        assert blond[0] - blond[2] > 60 > np.ptp(gray)
        sharp, blurred = (draw_face(with_attribute(face, "Blurry", value), 64).astype(int) for value in (0, 1))
        assert np.abs(np.diff(blurred, axis=1)).mean() < 0.8 * np.abs(np.diff(sharp, axis=1)).mean()


# Changing one attribute


def test_with_attribute_changes_excluded_attributes_only():
    for name in set(CELEBA_ATTRIBUTES) - {"Attractive"}:
        for value in (0, 1):
            before = face_parameters(0, 9)
            after = with_attribute(before, name, value)
            assert after.has(name) == bool(value)
            for other in set(CELEBA_ATTRIBUTES) - {"Attractive", name}:
                excluded = value == 1 and frozenset((name, other)) in EXCLUSIONS
                assert after.has(other) == (before.has(other) and not excluded), (name, other)
            assert (after.person, after.image) == (before.person, before.image)


def test_attractive_follows_the_other_attributes():
    face = face_parameters(0, 9)
    for name in ("Male", "Chubby", "Double_Chin", "Bags_Under_Eyes"):
        face = with_attribute(face, name, 0)
    face = with_attribute(with_attribute(face, "Heavy_Makeup", 1), "Oval_Face", 1)
    assert with_attribute(face, "Young", 1).has("Attractive")
    assert not with_attribute(with_attribute(face, "Chubby", 1), "Young", 0).has("Attractive")
