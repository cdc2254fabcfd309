"""``FaceEditor`` on whole photos: the face is found, edited and pasted back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_faces import KnownFaces
from PIL import Image

from igan_fast import IterativeGAN
from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError
from igan_fast.faces import Similarity, aligned, find_faces, mask_weights
from igan_fast.train.save import save_checkpoint

NAMES = ("Smiling", "Male")
LEFT, BIG = Similarity(0.5, 20 + 30j), Similarity(0.9 + 0.1j, 140 + 40j)


@pytest.fixture(autouse=True)
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igan_fast.faces.search.default_detector", lambda: KnownFaces(BIG, LEFT))


@pytest.fixture(scope="module")
def model() -> IterativeGAN:
    torch.manual_seed(0)
    return IterativeGAN(image_size=32, attributes=2, latent=6, width=4)


@pytest.fixture
def editor(model: IterativeGAN) -> FaceEditor:
    return FaceEditor(model, NAMES)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    small = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    path = tmp_path / "party.png"
    Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC).save(path)
    return path


def crops(photo: Path) -> list[np.ndarray]:
    return [aligned(photo, face, 32) for face in find_faces(photo)]


def test_the_largest_face_is_edited_in_its_place(editor: FaceEditor, photo: Path) -> None:
    edited = editor.transform(photo, {"Smiling": 1}, keep="nothing")
    before, after = np.asarray(Image.open(photo)).astype(int), np.asarray(edited).astype(int)
    assert after.shape == before.shape
    weights = mask_weights(BIG, (0, 0, 400, 300))
    np.testing.assert_array_equal(after[weights == 0], before[weights == 0])
    expected = np.asarray(editor.transform(crops(photo)[1], {"Smiling": 1}, keep="nothing"))
    seen = aligned(edited, find_faces(photo)[1], 32).astype(int)
    assert np.abs(seen - expected)[10:-10, 10:-10].mean() < 3
    assert np.abs(seen - aligned(photo, find_faces(photo)[1], 32))[10:-10, 10:-10].mean() > 20


@pytest.fixture
def vivid(model: IterativeGAN, monkeypatch: pytest.MonkeyPatch) -> FaceEditor:
    """An editor whose model draws a smooth spot, bright or dark as Smiling says."""
    ramp = torch.linspace(-1, 1, 32)
    spot = torch.exp(-2 * (ramp[:, None] ** 2 + ramp**2)).expand(3, 32, 32)

    def generate(z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return (2 * c[:, NAMES.index("Smiling"), None, None, None] - 1) * 0.6 * spot

    monkeypatch.setattr(model, "generate", generate)
    return FaceEditor(model, NAMES)


def smoothed(image: np.ndarray) -> np.ndarray:
    return np.stack([uniform(image[..., k]) for k in range(3)], axis=-1)


def uniform(channel: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(channel, 2, mode="edge"), (5, 5))
    mean: np.ndarray = windows.mean(axis=(2, 3))
    return mean


def test_by_default_the_photo_keeps_its_details(vivid: FaceEditor, photo: Path, tmp_path: Path) -> None:
    """Only the change of the crop is added, enlarged: it is smooth, whatever the photo has in single pixels."""
    smooth = np.asarray(Image.open(photo)).astype(int)
    noise = np.random.default_rng(1).integers(-20, 21, smooth.shape)
    before = np.clip(smooth // 2 + 64 + noise, 0, 255).astype(np.uint8)
    Image.fromarray(before).save(tmp_path / "sharp.png")
    after = np.asarray(vivid.transform(tmp_path / "sharp.png", {"Smiling": "flip"}, strength=1)).astype(float)
    assert after.shape == before.shape
    inside = mask_weights(BIG, (0, 0, 400, 300)) == 1
    inside &= ((after > 0) & (after < 255)).all(axis=-1)  # nothing is clipped there
    change = after - before
    rough = np.abs(change - smoothed(change))[inside].mean()
    assert rough < 0.2 * np.abs(before - smoothed(before.astype(float)))[inside].mean()
    assert np.abs(change)[inside].mean() > 3 * rough
    untouched = np.asarray(vivid.transform(tmp_path / "sharp.png", {}))
    np.testing.assert_array_equal(untouched, before)


@pytest.mark.parametrize("size", [(178, 218), (300, 200), (32, 32)])
def test_a_photo_that_is_taken_as_it_is_keeps_its_size(vivid: FaceEditor, size: tuple[int, int]) -> None:
    small = np.random.default_rng(2).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    photo = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    vivid.align = "off"
    edited, before = (np.asarray(image).astype(int) for image in (vivid.transform(photo, {"Smiling": "flip"}), photo))
    assert edited.shape == before.shape
    assert np.abs(edited - before).max() > 10
    side, left, top = min(size), *((length - min(size)) // 2 for length in size)
    outside = np.ones(before.shape[:2], bool)
    outside[top : top + side, left : left + side] = False
    np.testing.assert_array_equal(edited[outside], before[outside])
    assert vivid.transform(photo, {"Smiling": "flip"}, keep="nothing").size == (32, 32)


def test_each_face_or_one_by_its_number(editor: FaceEditor, photo: Path) -> None:
    before = np.asarray(Image.open(photo))
    outside = [mask_weights(place, (0, 0, 400, 300)) == 0 for place in (LEFT, BIG)]
    for face, changed in (("all", (True, True)), (1, (True, False)), (2, (False, True)), ("largest", (False, True))):
        editor.face = face
        different = (np.asarray(editor.rebuild(photo)) != before).any(axis=-1)
        only = [different[~outside[0] & outside[1]].any(), different[outside[0] & ~outside[1]].any()]
        assert tuple(only) == changed
    editor.face = 3
    with pytest.raises(InputError, match=r"party.png: 2 faces were found, so there is no face 3"):
        editor.rebuild(photo)


def test_what_is_recognised_is_that_of_the_face(editor: FaceEditor, photo: Path) -> None:
    left, big = editor.recognise(crops(photo))
    assert editor.recognise(photo) == pytest.approx(big, abs=1e-5)
    editor.face = 1
    assert editor.recognise([photo, crops(photo)[1]])[1] == pytest.approx(big, abs=1e-5)
    assert editor.recognise(photo) == pytest.approx(left, abs=1e-5)
    editor.face = "all"
    rows = editor.recognise([photo, crops(photo)[1]])
    assert [len(each) for each in rows] == [2, 1]
    assert rows[0][0] == pytest.approx(left, abs=1e-5)
    assert rows[0][1] == rows[1][0] == pytest.approx(big, abs=1e-5)
    assert len(editor.recognise(photo)) == 2


def test_switched_off_the_centre_square_is_taken(model: IterativeGAN, photo: Path) -> None:
    editor = FaceEditor(model, NAMES, align="off")
    assert editor.rebuild(photo).size == (32, 32)
    with pytest.raises(InputError, match="align: found 'maybe'"):
        FaceEditor(model, NAMES, align="maybe")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="face: found 'left'"):
        FaceEditor(model, NAMES, face="left")


def test_a_model_of_drawn_faces_searches_only_when_told(model: IterativeGAN, photo: Path, tmp_path: Path) -> None:
    described = {"arguments": model.arguments(), "attributes": list(NAMES)}
    for data, sizes in (("drawn", [(32, 32), (400, 300)]), ("/photos", [(400, 300), (400, 300)])):
        run = tmp_path / data.strip("/")
        save_checkpoint(run, 1, {"model": model.state_dict()}, {"model": described, "config": {"data": data}})
        found = [FaceEditor.load(run, align=align).rebuild(photo).size for align in ("auto", "always")]
        assert found == sizes
    assert FaceEditor.load(run, face="all").face == "all"
