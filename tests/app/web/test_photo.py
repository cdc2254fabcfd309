"""A photo on the page: its result is what ``FaceEditor`` makes of the same edits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from known_faces import KnownFaces
from PIL import Image, ImageCms

from igan_fast.app.web.photo import VIEW_SIDE, OpenPhoto, open_photo
from igan_fast.app.web.settings import Settings
from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError
from igan_fast.faces import Similarity
from igan_fast.reference import IterativeGAN

START = Settings(({}, {}))


@pytest.fixture
def opened(editor: FaceEditor, two_faces: None, photo: Path) -> OpenPhoto:
    return open_photo(editor, photo)


def edited_by_editor(editor: FaceEditor, photo: Path, face: object, changes: dict, **how: object) -> np.ndarray:
    one = FaceEditor(editor.model, editor.attributes, companions=editor.companions, face=face)  # type: ignore[arg-type]
    return np.asarray(one.transform(photo, changes, **how))


@pytest.mark.parametrize("keep", ["photo", "nothing"])
@pytest.mark.parametrize("companions", [True, False])
def test_the_result_is_that_of_the_editor(
    editor: FaceEditor, opened: OpenPhoto, photo: Path, keep: str, companions: bool
) -> None:
    same = ({"Male": 2.0, "Smiling": -0.5}, {"Male": 2.0, "Smiling": -0.5})
    settings = Settings(same, keep=keep, companions=companions)  # type: ignore[arg-type]
    expected = edited_by_editor(
        editor, photo, "all", {"Male": "+2", "Smiling": "-0.5"}, keep=keep, companions=companions
    )
    found = np.asarray(opened.result(settings))
    assert np.abs(found.astype(int) - expected).max() <= 1  # one face at a time, or both
    assert np.abs(expected.astype(int) - np.asarray(Image.open(photo))).max() > 20
    np.testing.assert_array_equal(opened.preview(settings), found)  # a photo smaller than a view


def test_each_face_has_its_own_edit(editor: FaceEditor, opened: OpenPhoto, photo: Path) -> None:
    found = np.asarray(opened.result(START.with_amounts(1, {"Male": 1.0})))
    expected = edited_by_editor(editor, photo, 2, {"Male": "+1"})
    assert np.abs(found.astype(int) - expected).max() <= 1
    both = opened.result(START.with_amounts(1, {"Male": 1.0}).with_amounts(0, {"Bangs": -2.0}))
    assert np.abs(np.asarray(both).astype(int)[:, :100] - expected[:, :100]).max() > 5


def test_without_a_change_the_photo_stays(opened: OpenPhoto, photo: Path) -> None:
    np.testing.assert_array_equal(opened.result(START), Image.open(photo))
    np.testing.assert_array_equal(opened.preview(START), Image.open(photo))
    moved = replace(START.with_amounts(0, {"Male": 1}), strength=0.0)
    np.testing.assert_array_equal(opened.result(moved), Image.open(photo))


def test_faces_are_shown_from_left_to_right(opened: OpenPhoto) -> None:
    assert len(opened.faces) == opened.found == 2
    assert opened.largest == 1
    assert opened.is_small(0)  # 89 of 320 pixels; the other has 161
    assert not opened.is_small(1)


def test_what_is_recognised_is_that_of_the_editor(editor: FaceEditor, opened: OpenPhoto, photo: Path) -> None:
    rows = FaceEditor(editor.model, editor.attributes, face="all").recognise(photo)
    for face, row in enumerate(rows):
        assert opened.recognised(face) == pytest.approx(row, abs=1e-5)


def test_a_view_from_near_is_a_part_of_the_result(opened: OpenPhoto, photo: Path) -> None:
    settings = START.with_amounts(0, {"Male": 2.0})
    # The face's square is from (20, 30) to (109, 119); a fifth of its side, 17.8 pixels, is around it.
    box = (2, 12, 127, 137)
    np.testing.assert_array_equal(opened.before(0), Image.open(photo).crop(box))
    near = np.asarray(opened.preview(settings, 0)).astype(int)
    assert np.abs(near - np.asarray(opened.result(settings).crop(box))).max() <= 1


def test_a_large_photo_is_reduced_for_the_screen(
    editor: FaceEditor, two_faces: None, photo: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    image = Image.open(photo)
    Image.new("RGB", (4000, 1000)).save(large)
    wide = Image.open(large).convert("RGB")
    wide.paste(image)
    wide.save(large)
    opened = open_photo(editor, large)
    settings = START.with_amounts(1, {"Male": 2.0})
    assert max(opened.preview(settings).size) <= VIEW_SIDE
    assert opened.result(settings).size == (4000, 1000)
    shrunk = opened.result(settings).resize(opened.before().size, Image.Resampling.BOX)
    change = np.asarray(opened.preview(settings)).astype(int) - np.asarray(opened.before())
    expected = np.asarray(shrunk).astype(int) - np.asarray(opened.before())
    inside = np.abs(change).max(axis=-1) > 10
    assert inside.any()
    assert np.abs(change - expected)[inside].mean() < 0.35 * np.abs(change)[inside].mean()


def test_a_photo_of_the_models_size_becomes_what_the_model_draws(editor: FaceEditor, tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    opened = open_photo(editor, path)
    settings = Settings(({"Male": 1.5},), keep="nothing")
    expected = editor.transform(path, {"Male": "+1.5"}, keep="nothing")
    np.testing.assert_array_equal(opened.result(settings), expected)


def test_the_centre_square_is_taken_where_nothing_is_searched(editor: FaceEditor, photo: Path) -> None:
    opened = open_photo(editor, photo, search=False)
    assert len(opened.faces) == 1
    settings = Settings(({"Male": 1.5},))
    off = FaceEditor(editor.model, editor.attributes, companions=editor.companions, align="off")
    np.testing.assert_array_equal(opened.result(settings), off.transform(photo, {"Male": "+1.5"}))


def test_in_drawn_faces_nothing_is_searched_unless_asked(model: IterativeGAN, two_faces: None, photo: Path) -> None:
    drawn = FaceEditor(model, ("A", "B", "C", "D"), drawn=True)
    assert not drawn.searches_faces
    assert len(open_photo(drawn, photo, search=drawn.searches_faces).faces) == 1
    assert len(open_photo(drawn, photo, search=True).faces) == 2


def test_a_view_of_the_models_size_is_no_crop(editor: FaceEditor, tmp_path: Path) -> None:
    """One small face in a photo of 32×32 pixels, and a view of 32×32 pixels of one face in a larger photo."""
    path = tmp_path / "small.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        for side, photo in ((22.2, path), (20, path)):
            patch.setattr(
                "igan_fast.faces.search.default_detector",
                lambda side=side: KnownFaces(Similarity(side / 178, 20 + 20j)),
            )
            always = FaceEditor(editor.model, editor.attributes, align="always")
            opened = open_photo(always, photo)
            settings = Settings(({"Male": 2.0},))
            whole = np.asarray(opened.result(settings)).astype(int)
            left = int(20 - 0.2 * side)
            near = opened.preview(settings, 0)
            box = (left, left, left + near.width, left + near.height)
            assert np.abs(np.asarray(near) - whole[box[1] : box[3], box[0] : box[2]]).max() <= 1
        tiny = tmp_path / "tiny.png"
        Image.open(path).crop((0, 0, 32, 32)).save(tiny)
        patch.setattr("igan_fast.faces.search.default_detector", lambda: KnownFaces(Similarity(18 / 178, 5 + 5j)))
        drawn = FaceEditor(editor.model, editor.attributes, drawn=True)
        found = open_photo(drawn, tiny, search=True).result(settings)
        always = FaceEditor(editor.model, editor.attributes, align="always")
        np.testing.assert_array_equal(found, always.transform(tiny, {"Male": "+2"}))


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "L", "RGBA", "P", "1", "I;16"])
@pytest.mark.parametrize("amount", [0.0, 2.0])
def test_photos_of_every_colour_mode_come_out(
    editor: FaceEditor, photo: Path, tmp_path: Path, mode: str, amount: float
) -> None:
    pytest.importorskip("gradio")
    from igan_fast.app.web.files import as_jpeg, as_png

    path = tmp_path / "photo.tif"
    if mode == "I;16":
        Image.fromarray(np.arange(3600, dtype=np.uint16).reshape(60, 60) * 16).save(path)
    elif mode == "LAB":
        ImageCms.profileToProfile(
            Image.open(photo), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        ).save(path)
    else:
        Image.open(photo).convert(mode).save(path)
    opened = open_photo(editor, path, search=False)
    settings = Settings(({"Male": amount} if amount else {},))
    with Image.open(as_png(opened.result(settings), path)) as found:
        off = FaceEditor(editor.model, editor.attributes, companions=editor.companions, align="off")
        expected = off.transform(path, {"Male": "+2"} if amount else {})
        assert found.size == expected.size
        assert np.abs(np.asarray(found.convert("RGB")).astype(int) - np.asarray(expected.convert("RGB"))).max() <= 1
    with Image.open(as_jpeg(opened.preview(settings))) as found:
        assert found.size == opened.before().size


def test_views_and_results_keep_the_colour_profile(
    editor: FaceEditor, two_faces: None, photo: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gradio")
    from igan_fast.app.web.files import as_jpeg, as_png

    path = tmp_path / "wide.png"
    Image.open(photo).save(path, icc_profile=b"wide")
    opened = open_photo(editor, path)
    for settings in (START, START.with_amounts(1, {"Male": 1.0})):
        files = [as_png(opened.result(settings), path)]
        files += [
            as_jpeg(image) for near in (None, 0) for image in (opened.before(near), opened.preview(settings, near))
        ]
        for file in files:
            with Image.open(file) as found:
                assert found.info["icc_profile"] == b"wide"
    assert opened.faces[0].info["icc_profile"] == b"wide"


def test_only_the_last_face_looked_at_is_kept(opened: OpenPhoto, photo: Path) -> None:
    first = opened.before(0)
    assert opened.before(0) is first
    opened.before(1)
    assert opened.before(0) is not first


def test_an_edit_encodes_no_face_again(opened: OpenPhoto, model: IterativeGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    opened.preview(START.with_amounts(0, {"Male": 1}).with_amounts(1, {"Male": 1}))

    def encode(x: torch.Tensor) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(model, "encode", encode)
    opened.preview(START.with_amounts(0, {"Male": 2}).with_amounts(1, {"Bangs": 1}))


def test_a_photo_whose_file_is_gone_says_so(editor: FaceEditor, two_faces: None, photo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(photo.read_bytes())
    opened = open_photo(editor, copy)
    copy.unlink()
    settings = START.with_amounts(0, {"Male": 1})
    assert opened.preview(settings).size == (320, 240)
    for look in (lambda: opened.result(settings), lambda: opened.preview(settings, 0)):
        with pytest.raises(InputError, match=r"copy\.png: was deleted from this server"):
            look()
