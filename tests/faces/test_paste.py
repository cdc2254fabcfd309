"""Pasting back: nothing changes outside of the mask, and what is pasted is at its place."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from igan_fast.data.whole_photo import open_whole
from igan_fast.faces import Face, Similarity, aligned, mask_weights, paste_faces
from igan_fast.faces import paste as paste_module

TURNED = Similarity(0.9 * np.exp(0.3j), 60 + 30j)
SIZES = {"small": Similarity(0.2, 30 + 20j), "turned": TURNED, "large": Similarity(2.4 + 0.3j, -80 - 50j)}


def noise(height: int, width: int, channels: int = 3, top: int = 256, dtype: object = np.uint8) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, top, (height, width, channels), dtype=dtype)  # type: ignore[call-overload]
    return values[..., 0] if channels == 1 else values  # type: ignore[no-any-return]


def smooth(height: int, width: int) -> np.ndarray:
    small = Image.fromarray(np.random.default_rng(2).integers(60, 200, (height // 20, width // 20, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def whole(height: int, width: int) -> tuple[int, int, int, int]:
    return 0, 0, width, height


def test_the_mask_by_hand() -> None:
    weights = mask_weights(Similarity(1, 10 + 20j), (0, 0, 200, 220))
    assert weights.shape == (220, 200)
    assert weights[20 + 89, 10 + 89] == 1
    assert weights[20 + 89, 10 + 89 + 61] == 1  # 0.7 of the way is 62.3 pixels
    assert 0 < weights[20 + 89, 10 + 89 + 74] < 1
    assert weights[20 + 89, 10 + 89 + 86] == 0  # 0.96 of it is 85.4
    assert weights[20 + 5, 10 + 5] == 0
    assert (weights[:20] == 0).all()
    np.testing.assert_allclose(weights[20:198, 10:188], weights[20:198, 10:188].T)
    middle = weights[20 + 89, 10 + 89 : 10 + 178]
    assert (np.diff(middle) <= 0).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "I;16", "I"])
@pytest.mark.parametrize("place", SIZES)
def test_nothing_changes_outside_of_the_mask(mode: str, place: str) -> None:
    if mode == "I;16":
        photo = Image.fromarray(noise(230, 260, 1, 65536, np.uint16))
    elif mode == "I":
        photo = Image.fromarray(noise(230, 260, 1, 65536, np.int32))
    else:
        photo = Image.fromarray(noise(230, 260, len(Image.new(mode, (1, 1)).getbands())), mode)
    assert photo.mode == mode
    before = np.array(photo)
    for kept in (None, [noise(48, 48)]):
        result = paste_faces(open_whole(photo), [SIZES[place]], [255 - noise(48, 48)], kept)
        assert result.mode == mode
        assert result.size == photo.size
        after = np.array(result)
        outside = mask_weights(SIZES[place], whole(230, 260)) == 0
        np.testing.assert_array_equal(after[outside], before[outside])
        assert (after[~outside] != before[~outside]).any()
        if mode in ("RGBA", "LA"):
            np.testing.assert_array_equal(after[..., -1], before[..., -1])
    np.testing.assert_array_equal(np.array(photo), before)  # the photo itself stays as it is


def test_where_the_mask_is_full_the_edited_face_is_there() -> None:
    for colour in ([200, 30, 90], [0, 0, 0], [255, 255, 255]):
        edited = np.full((32, 32, 3), colour, np.uint8)
        result = np.array(paste_faces(open_whole(noise(230, 260)), [TURNED], [edited]))
        full = mask_weights(TURNED, whole(230, 260)) == 1
        assert full.sum() > 5000
        assert (result[full] == colour).all()
        grey = paste_faces(open_whole(Image.fromarray(noise(230, 260)).convert("L")), [TURNED], [edited])
        shade = Image.new("RGB", (1, 1), tuple(colour)).convert("L").getpixel((0, 0))
        assert np.abs(np.array(grey)[full].astype(int) - shade).max() <= 1
        deep = Image.fromarray(noise(230, 260, 1, 65536, np.uint16))
        wide = paste_faces(open_whole(deep), [TURNED], [edited])
        assert np.abs(np.array(wide)[full] / 257 - np.array(grey)[full]).max() <= 1


@pytest.mark.parametrize("place", SIZES)
def test_a_face_that_is_not_edited_comes_back_to_its_place(place: str) -> None:
    """Cut out and pasted back, a smooth photo hardly changes: so both are at the same place."""
    photo, face = smooth(440, 500), Face(1, SIZES[place], 1.0)
    result = np.array(paste_faces(open_whole(photo), [face.placement], [aligned(photo, face, 256)])).astype(int)
    error = np.abs(result - photo)
    assert error.max() <= 6
    shifted = Similarity(face.placement.factor, face.placement.shift + 2)
    moved = np.array(paste_faces(open_whole(photo), [shifted], [aligned(photo, face, 256)])).astype(int)
    assert np.abs(moved - photo).max() > 2 * error.max()  # two pixels off would be seen


def test_where_the_edited_face_lies_by_hand() -> None:
    """The left half of the face is black, the right one white: in the photo the border is where the nose is."""
    edited = np.zeros((64, 64, 3), np.uint8)
    edited[:, 32:] = 255
    result = np.array(
        paste_faces(open_whole(np.full((300, 300, 3), 128, np.uint8)), [Similarity(1, 40 + 50j)], [edited])
    )
    row = result[50 + 89, 40 + 89 - 20 : 40 + 89 + 20, 0].astype(int)
    assert (row[:15] == 0).all()
    assert (row[25:] == 255).all()
    np.testing.assert_allclose(row[19:21].mean(), 127.5, atol=1)
    turned = np.array(
        paste_faces(open_whole(np.full((300, 300, 3), 128, np.uint8)), [Similarity(1j, 240 + 50j)], [edited])
    )
    column = turned[50 + 89 - 20 : 50 + 89 + 20, 240 - 89, 0].astype(int)
    assert (column[:15] == 0).all()
    assert (column[25:] == 255).all()


def test_with_details_kept_only_the_difference_is_added() -> None:
    photo, before = noise(230, 260), noise(40, 40)
    same = paste_faces(open_whole(photo), [TURNED], [before], [before])
    np.testing.assert_array_equal(np.array(same), photo)  # all of its details
    photo = np.clip(photo, 40, 200)
    brighter = paste_faces(
        open_whole(photo), [TURNED], [np.full((40, 40, 3), 130, np.uint8)], [np.full((40, 40, 3), 100, np.uint8)]
    )
    weights = mask_weights(TURNED, whole(230, 260))[..., None]
    np.testing.assert_array_equal(np.array(brighter), np.rint(photo + 30 * weights).astype(np.uint8))


def test_values_do_not_wrap_around() -> None:
    photo = np.full((230, 260, 3), 250, np.uint8)
    light, dark = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    full = mask_weights(TURNED, whole(230, 260)) == 1
    assert (np.array(paste_faces(open_whole(photo), [TURNED], [light], [dark]))[full] == 255).all()
    assert (np.array(paste_faces(open_whole(photo), [TURNED], [dark], [light]))[full] == 0).all()


def test_faces_side_by_side_do_not_cover_each_other() -> None:
    """Their squares overlap by a third; in the middle of each face only its own colour is seen."""
    places = [Similarity(1, 20 + 20j), Similarity(1, 140 + 20j)]
    colours = ([250, 0, 0], [0, 0, 250])
    edited = [np.full((16, 16, 3), colour, np.uint8) for colour in colours]
    for order in ([0, 1], [1, 0]):
        photo = open_whole(np.full((220, 340, 3), 128, np.uint8))
        result = np.array(paste_faces(photo, [places[k] for k in order], [edited[k] for k in order])).astype(int)
        for place, colour in zip(places, colours, strict=True):
            x, y = place([89, 89]).astype(int)
            assert np.abs(result[y - 30 : y + 30, x - 15 : x + 15] - colour).max() <= 3
        outside = sum(mask_weights(place, whole(220, 340)) for place in places) == 0
        assert (result[outside] == 128).all()
        seam = result[109, 20 + 89 : 140 + 89]
        assert np.abs(np.diff(seam, axis=0)).max() < 40  # no hard edge between the two


def test_a_face_at_the_edge_of_the_photo() -> None:
    photo = noise(100, 120)
    for shift in (-120 - 90j, 80 + 60j, -400, 500j):
        place = Similarity(1, shift)
        result = np.array(paste_faces(open_whole(photo), [place], [noise(16, 16)]))
        outside = mask_weights(place, whole(100, 120)) == 0
        np.testing.assert_array_equal(result[outside], photo[outside])
    np.testing.assert_array_equal(np.array(paste_faces(open_whole(photo), [], [])), photo)


def test_the_result_does_not_depend_on_the_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = open_whole(noise(230, 260))
    expected = np.array(paste_faces(photo, [TURNED], [noise(48, 48)]))
    monkeypatch.setattr(paste_module, "_STRIP_PIXELS", 700)
    found = np.array(paste_faces(photo, [TURNED], [noise(48, 48)])).astype(int)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    ("mode", "becomes", "profile"),
    [
        ("RGB", "RGB", True),
        ("L", "L", True),
        ("RGBA", "RGBA", True),
        ("P", "RGB", True),
        ("1", "L", True),
        ("CMYK", "RGB", False),
    ],
)
def test_colour_modes_and_profiles(mode: str, becomes: str, profile: bool) -> None:
    photo = Image.fromarray(noise(230, 260)).convert(mode)
    photo.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    result = paste_faces(open_whole(photo), [TURNED], [noise(32, 32)])
    assert result.mode == becomes
    assert result.info.get("icc_profile") == (photo.info["icc_profile"] if profile else None)
    outside = mask_weights(TURNED, whole(230, 260)) == 0
    np.testing.assert_array_equal(np.array(result)[outside], np.array(photo.convert(becomes))[outside])


def test_a_transparent_palette_stays_transparent() -> None:
    photo = Image.fromarray(noise(230, 260)).convert("P")
    photo.info["transparency"] = 3
    result = paste_faces(open_whole(photo), [TURNED], [noise(32, 32)])
    assert result.mode == "RGBA"
    np.testing.assert_array_equal(np.array(result)[..., 3], np.array(photo.convert("RGBA"))[..., 3])
