"""The command ``igan-fast interpolate``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_faces import KnownFaces
from PIL import Image, ImageCms
from vivid_models import vivid

from igan_fast import IterativeGAN
from igan_fast.app.cli import main
from igan_fast.editor import FaceEditor
from igan_fast.faces import Similarity
from igan_fast.interpolation import interpolate_edits, interpolate_photos
from igan_fast.train.save import save_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose photos are drawn, so no faces are searched."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = vivid(IterativeGAN(image_size=32, attributes=2, latent=8, width=4))
    described = {"arguments": model.arguments(), "attributes": ["Smiling", "Male"]}
    save_checkpoint(folder, 1, {"model": model.state_dict()}, {"model": described, "config": {"data": "drawn"}})
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for seed, size in ((0, (60, 40)), (1, (50, 50))):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each photo there are a small face on the left and a large one on the right."""
    detector = KnownFaces(Similarity(0.5, 20 + 30j), Similarity(1, 120 + 30j))
    monkeypatch.setattr("igan_fast.faces.search.default_detector", lambda: detector)


def run_cli(*words: object) -> int:
    return main(["interpolate", *map(str, words)])


def test_a_strip_of_two_photos(run: Path, photos: list[Path], tmp_path: Path) -> None:
    assert run_cli(*photos, "-n", 5, "--model", run, "--out", tmp_path / "strip.png") == 0
    expected = np.hstack(list(interpolate_photos(FaceEditor.load(run), *photos, steps=5)))
    np.testing.assert_array_equal(Image.open(tmp_path / "strip.png"), expected)


def test_frames_of_an_edit(run: Path, photos: list[Path], tmp_path: Path) -> None:
    words = ("--from", "Smiling=-2", "--set", "Smiling=+2", "Male=1", "--steps", 3)
    assert run_cli(photos[0], *words, "--model", run, "--out", tmp_path / "frames") == 0
    edits = interpolate_edits(FaceEditor.load(run), photos[0], {"Smiling": "-2"}, {"Smiling": "+2", "Male": 1}, steps=3)
    for k, expected in enumerate(edits):
        np.testing.assert_array_equal(Image.open(tmp_path / "frames" / f"frame-{k:04d}.png"), expected)


def test_an_animation_runs_forth_and_back(run: Path, photos: list[Path], tmp_path: Path) -> None:
    assert run_cli(photos[0], "--set", "Smiling=+9", "-n4", "--model", run, "--out", tmp_path / "a.gif") == 0
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 6
        assert animation.size == (40, 60)
        assert animation.info["loop"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("1", "--set: found nothing and one photo; expected an edit such as Smiling=+2, or two photos"),
        ("2 --set Smiling=1", "--set: found an edit and two photos"),
        ("3", "PHOTO: found 3, expected one photo with --set, or two photos"),
        ("1 --set Smilling=1", "--set: unknown attribute 'Smilling'; did you mean Smiling?"),
        ("1 --from Smilling=1", "--from: unknown attribute 'Smilling'; did you mean Smiling?"),
        ("2 --steps 1", "--steps: found 1, expected from 2 to 1,000"),
        ("2 --face all", "--face: found 'all', expected 'largest' or the number of one face"),
        ("1 --set Smiling=1 --strength 11", "--strength: found 11.0, expected a number from 0 to 10"),
        ("2 --strength 1", "--strength: found it with two photos, between which nothing is edited"),
        ("2 --keep nothing", "--keep: found it with two photos"),
        ("2 --no-companions", "--companions: found it with two photos"),
        ("2 --out a.mp4", "--out a.mp4: expected a name that ends in .png or .gif, or a folder"),
        ("2 --out a.jpg", "--out a.jpg: expected a name that ends in .png or .gif, or a folder"),
    ],
)
def test_what_cannot_be(
    run: Path, photos: list[Path], tmp_path: Path, words: str, message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    count, *options = words.split()
    given = [*photos, photos[0]][: int(count)]
    out = () if "--out" in options else ("--out", "out.png")
    assert run_cli(*given, *options, *out, "--model", run) == 2
    assert capsys.readouterr().err.startswith(f"igan-fast: error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_frames_of_a_longer_animation_are_not_mixed_with_those_of_a_shorter_one(
    run: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*photos, "--model", run, "--out", tmp_path / "frames")
    assert run_cli(*words, "--steps", 4) == 0
    assert run_cli(*words, "--steps", 3, "--force") == 2
    assert f"--out {tmp_path / 'frames'}: holds frame-0003.png of another animation" in capsys.readouterr().err
    assert run_cli(*words, "--steps", 5, "--force") == 0
    assert len(list((tmp_path / "frames").iterdir())) == 5


def test_colours_keep_their_profile_or_become_srgb(
    run: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    photo = tmp_path / "wide.png"
    Image.open(photos[0]).save(photo, icc_profile=wide)
    words = (photo, "--set", "Smiling=+2", "-n3", "--model", run)
    assert run_cli(*words, "--out", tmp_path / "strip.png") == 0
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.info["icc_profile"] == wide
    seen = []

    def convert(image: Image.Image, own: object, srgb: object) -> Image.Image:
        seen.append(own.tobytes())  # type: ignore[attr-defined]
        return image

    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    assert run_cli(*words, "--out", tmp_path / "a.gif") == 0
    assert seen == [wide] * 3
    monkeypatch.undo()
    Image.open(photos[0]).save(photo, icc_profile=b"broken")
    assert run_cli(*words, "--out", tmp_path / "b.gif") == 0


def test_a_photo_is_not_written_over(run: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = photos[0].read_bytes()
    assert run_cli(*photos, "--model", run, "--out", photos[0], "--force") == 2
    assert photos[0].read_bytes() == before


@pytest.mark.usefixtures("two_faces")
def test_which_of_several_faces_is_taken_is_said(
    run: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    party = tmp_path / "party.png"
    Image.open(photos[0]).resize((320, 240)).save(party)
    words = (party, "--align", "always", "--set", "Smiling=+9", "-n2", "--model", run)
    assert run_cli(*words, "--out", tmp_path / "largest") == 0
    assert (
        capsys.readouterr().err
        == f"igan-fast: {party}: takes face 2 of 2, from left to right; --face N takes another\n"
    )
    assert run_cli(*words, "--face", 1, "--out", tmp_path / "first") == 0
    assert "takes face 1 of 2" in capsys.readouterr().err
    before, largest, first = (
        np.asarray(Image.open(path))
        for path in (party, tmp_path / "largest/frame-0001.png", tmp_path / "first/frame-0001.png")
    )
    np.testing.assert_array_equal(largest[:, :119], before[:, :119])
    np.testing.assert_array_equal(first[:, 119:], before[:, 119:])
    assert (largest != before).any()
    assert (first != before).any()


def test_a_photo_that_was_reduced_is_told(
    run: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "large.jpg"
    Image.open(photos[0]).resize((400, 300)).save(large)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
    words = (large, "--set", "Smiling=1", "-n2", "--model", run)
    told = f"{large}: has more pixels than fit in memory safely; the result has 200×150, 1/2 of its width and height\n"
    assert run_cli(*words, "--out", tmp_path / "frames") == 0
    assert capsys.readouterr().out.endswith(told)
    assert Image.open(tmp_path / "frames/frame-0001.png").size == (200, 150)
    assert run_cli(*words, "--keep", "nothing", "--out", tmp_path / "drawn") == 0
    assert run_cli(*words, "--out", tmp_path / "a.gif") == 0
    assert "memory" not in capsys.readouterr().out
