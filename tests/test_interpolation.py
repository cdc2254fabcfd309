"""What lies between two photos, and between two edits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_faces import KnownFaces
from PIL import Image
from vivid_models import vivid

from igan_fast.data import to_float, to_uint8
from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError
from igan_fast.faces import Similarity
from igan_fast.interpolation import interpolate_edits, interpolate_photos
from igan_fast.reference import Companions, IterativeGAN
from igan_fast.reference.editing import Amount, edited_labels
from igan_fast.reference.residual import on_photos

NAMES = ("Smiling", "Male", "Bangs")
#: Bangs move by 1/2 when Male moves by 1.
COMPANIONS = Companions(torch.tensor([[0.25, 0, 0], [0, 0.25, 0.125], [0, 0.125, 0.25]], dtype=torch.float64))


@pytest.fixture(scope="module")
def model() -> IterativeGAN:
    torch.manual_seed(0)
    model = vivid(IterativeGAN(image_size=32, attributes=3, latent=6, width=4))
    return model.eval()


@pytest.fixture
def editor(model: IterativeGAN) -> FaceEditor:
    return FaceEditor(model, NAMES, companions=COMPANIONS, batch_size=3)


def pixels(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return small.repeat(8, axis=0).repeat(8, axis=1)


def as_arrays(pictures: object) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)  # type: ignore[attr-defined]


@torch.no_grad()
def test_photos(editor: FaceEditor, model: IterativeGAN) -> None:
    codes = [model.encode(to_float(torch.from_numpy(pixels(seed)[None]))) for seed in (0, 1)]
    found = as_arrays(interpolate_photos(editor, pixels(0), pixels(1), steps=8))
    assert len(found) == 8
    for k, picture in enumerate(found):
        z, c = (a * (1 - k / 7) + b * (k / 7) for a, b in ((a, b) for a, b in zip(codes[0], codes[1], strict=True)))
        c = codes[0][1].sigmoid() * (1 - k / 7) + codes[1][1].sigmoid() * (k / 7)
        expected = to_uint8(model.generate(z, c))[0].numpy()
        assert np.abs(picture - expected).max() <= 1
    for k, seed in ((0, 0), (-1, 1)):
        assert np.abs(found[k] - np.asarray(editor.rebuild(pixels(seed)))).max() <= 1
    assert np.abs(found[0] - found[-1]).max() > 10


@pytest.mark.parametrize("keep", ["photo", "nothing"])
@torch.no_grad()
def test_edits(editor: FaceEditor, model: IterativeGAN, keep: str) -> None:
    start, end = {"Smiling": "-2"}, {"Smiling": 1, "Male": Amount(0.5)}
    found = as_arrays(interpolate_edits(editor, pixels(0), start, end, steps=5, keep=keep, strength=1.5))  # type: ignore[arg-type]
    x = to_float(torch.from_numpy(pixels(0)[None]))
    z, logits = model.encode(x)
    c = logits.sigmoid()
    first = edited_labels(c, {0: Amount(-2)}, companions=COMPANIONS)
    last = edited_labels(c, {0: 1.0, 1: Amount(0.5)}, strength=1.5, companions=COMPANIONS)
    for k, picture in enumerate(found):
        edited = model.generate(z, first * (1 - k / 4) + last * (k / 4))
        expected = on_photos(x, model.generate(z, c), edited) if keep == "photo" else edited
        assert np.abs(picture - to_uint8(expected)[0].numpy()).max() <= 1
    for k, edit in ((0, start), (-1, end)):
        whole = editor.transform(pixels(0), edit, keep=keep, strength=1.5)  # type: ignore[arg-type]
        assert np.abs(found[k] - np.asarray(whole)).max() <= 1


def test_in_a_large_photo_the_face_alone_changes(
    model: IterativeGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "igan_fast.faces.search.default_detector", lambda: KnownFaces(Similarity(0.5, 20 + 30j), Similarity(1, 120))
    )
    photo = np.asarray(Image.fromarray(pixels(0)).resize((320, 240)))
    editor = FaceEditor(model, NAMES, face=1)
    found = as_arrays(interpolate_edits(editor, photo, {}, {"Smiling": "+2"}, steps=3))
    np.testing.assert_array_equal(found[0], photo)
    changed = (found[2] != photo).any(axis=-1)
    assert changed[30:119, 20:109].any()
    assert not changed[:, 110:].any()
    assert len(list(interpolate_photos(editor, photo, photo, steps=2))) == 2


@pytest.mark.parametrize("steps", [1, 0, -3, 1001])
def test_steps_out_of_range(editor: FaceEditor, steps: int) -> None:
    with pytest.raises(InputError, match=f"steps: found {steps:,}, expected from 2 to 1,000"):
        interpolate_photos(editor, pixels(0), pixels(1), steps=steps)
    with pytest.raises(InputError, match=f"steps: found {steps:,}"):
        interpolate_edits(editor, pixels(0), {}, {}, steps=steps)


def test_what_cannot_be_is_said_at_once(editor: FaceEditor) -> None:
    with pytest.raises(InputError, match="did you mean Smiling"):
        interpolate_edits(editor, pixels(0), {}, {"Smilling": 1})
    with pytest.raises(InputError, match="keep: found 'all'"):
        interpolate_edits(editor, pixels(0), {}, {}, keep="all")  # type: ignore[arg-type]
    every = FaceEditor(editor.model, NAMES, face="all")
    with pytest.raises(InputError, match="face: found 'all', expected 'largest' or the number of one face"):
        interpolate_photos(every, pixels(0), pixels(1))
