"""``--align`` and ``--face`` on the command line, with a detector that is told where the faces are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from known_faces import KnownFaces
from PIL import Image

from igan_fast import FaceEditor, IterativeGAN
from igan_fast.app import cli, redraw
from igan_fast.errors import PackageMissing
from igan_fast.faces import Similarity, mask_weights
from igan_fast.train.save import save_checkpoint

LEFT, BIG = Similarity(0.5, 20 + 30j), Similarity(0.9 + 0.1j, 140 + 40j)


@pytest.fixture(autouse=True)
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igan_fast.faces.search.default_detector", lambda: KnownFaces(BIG, LEFT))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, attributes=2, latent=6, width=4)
    described = {"arguments": model.arguments(), "attributes": ["Smiling", "Male"]}
    save_checkpoint(folder, 1, {"model": model.state_dict()}, {"model": described, "config": {"data": "/photos"}})
    return folder


@pytest.fixture
def party(tmp_path: Path) -> Path:
    """A photo in a wide colour space, and a JPEG."""
    small = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    path = tmp_path / "party.jpg"
    Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC).save(path, icc_profile=b"wide")
    return path


def run_cli(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_the_edited_photo_has_its_own_size_and_profile(
    run: Path, party: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.png"
    assert run_cli("transform", party, "--set", "Smiling=1", "--model", run, "--out", out) == 0
    said = capsys.readouterr()
    assert said.err == f"igan-fast: {party}: takes face 2 of 2, from left to right; --face all takes each\n"
    assert said.out.endswith(f"wrote {out}\n")
    with Image.open(out) as found, Image.open(party) as photo:
        assert found.size == (400, 300)
        assert found.info["icc_profile"] == b"wide"
        outside = mask_weights(BIG, (0, 0, 400, 300)) == 0
        np.testing.assert_array_equal(np.asarray(found)[outside], np.asarray(photo)[outside])
        expected = FaceEditor.load(run).transform(party, {"Smiling": 1})
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_each_choice(run: Path, party: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {}
    for choice, error in (
        (["--face", "1"], "takes face 1 of 2, from left to right; --face all takes each"),
        (["--face", "all"], "takes all 2 faces"),
        (["--align", "always"], "takes face 2 of 2"),
    ):
        out = tmp_path / f"{choice[1]}.png"
        assert run_cli("rebuild", party, "--model", run, "--out", out, *choice) == 0
        assert error in capsys.readouterr().err
        results[choice[1]] = np.asarray(Image.open(out)).tobytes()
    assert len(set(results.values())) == 3
    assert run_cli("rebuild", party, "--model", run, "--out", tmp_path / "off.png", "--align", "off") == 0
    assert Image.open(tmp_path / "off.png").size == (32, 32)
    assert capsys.readouterr().err == ""


def test_recognition_of_each_face(run: Path, party: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    editor = FaceEditor.load(run, face="all")
    left, big = editor.recognise(party)
    for choice, expected in ((["--face", "all"], [left, big]), ([], big), (["--face", "1"], left)):
        file = tmp_path / f"{len(choice)}{choice[-1:]}.json"
        assert run_cli("recognise", party, "--model", run, "--json", file, *choice) == 0
        assert json.loads(file.read_text()) == {str(party): expected}
    capsys.readouterr()
    assert run_cli("recognise", party, "--model", run, "--face", "all") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [f"{party}, face 1", f"{party}, face 2"]
    assert len(lines) == 2 + 2 * 2


def test_the_sheet_shows_each_face(run: Path, party: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, ...]] = []
    captions: list[str] = []

    def grid(rows: list[list[np.ndarray]], titles: list[str], names: list[str]) -> Image.Image:
        shown.extend((len(row), *np.asarray(row[0]).shape) for row in rows)
        captions.extend(names)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(redraw, "grid", grid)
    Image.new("RGB", (32, 32)).save(tmp_path / "crop.png")
    options = ["--set", "Male=1", "--model", run, "--out", tmp_path / "out", "--grid", tmp_path / "g.png"]
    assert run_cli("transform", party, tmp_path / "crop.png", *options, "--face", "all") == 0
    assert shown == [(3, 32, 32, 3)] * 3
    assert captions == ["party 1", "party 2", "crop"]
    assert Image.open(tmp_path / "out/party-edited.png").size == (400, 300)
    assert Image.open(tmp_path / "out/crop-edited.png").size == (32, 32)


def test_photos_without_a_face_are_named_and_the_others_done(
    run: Path, party: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("igan_fast.faces.search.default_detector", KnownFaces)
    Image.new("RGB", (32, 32)).save(tmp_path / "crop.png")
    line = f"{party}: no face was found; --align off (in Python align='off') takes the photo's centre square"
    assert run_cli("rebuild", party, "--model", run, "--out", tmp_path / "one.png") == 2
    assert capsys.readouterr().err == f"igan-fast: error: {line}\n"
    assert not (tmp_path / "one.png").exists()
    assert run_cli("rebuild", party, tmp_path / "crop.png", "--model", run, "--out", tmp_path / "out") == 1
    assert line in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["crop-rebuilt.png"]


def test_wrong_choices_are_one_line(run: Path, party: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for choice, message in (
        (["--face", "3"], f"{party}: 2 faces were found, so there is no face 3"),
        (["--face", "0"], "--face: found 0, expected 'largest', 'all' or the number of a face from 1"),
        (["--face", "left"], "--face: found 'left', expected"),
        (["--face", "²"], "--face: found '²', expected"),
        (["--face", "all", "--align", "off"], "--face: found 'all' with align 'off', which searches no faces"),
        (["--align", "on"], "--align: found 'on', expected auto, always or off"),
    ):
        assert run_cli("recognise", party, "--model", run, *choice) == 2
        assert capsys.readouterr().err.startswith(f"igan-fast: error: {message}")


def test_without_the_packages(
    run: Path, party: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise PackageMissing("faces: the detector cannot be loaded (why); pip install mtcnn-runtime onnxruntime")

    monkeypatch.setattr("igan_fast.faces.search.default_detector", missing)
    Image.new("RGB", (90, 70)).save(tmp_path / "other.png")
    photos = [party, tmp_path / "other.png"]
    assert run_cli("rebuild", *photos, "--model", run, "--out", tmp_path / "out") == 0
    (line,) = capsys.readouterr().err.splitlines()  # once, not for each photo
    assert line.startswith("igan-fast: warning: faces: the detector cannot be loaded (why); pip install mtcnn-runtime")
    assert Image.open(tmp_path / "out/party-rebuilt.png").size == (32, 32)
    arguments = ["rebuild", photos[0], "--model", run, "--out", tmp_path / "new", "--align", "always"]
    assert run_cli(*arguments) == 2
    assert capsys.readouterr().err.startswith("igan-fast: error: faces: the detector cannot be loaded (why); pip")


def test_a_photo_that_was_reduced_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    path = tmp_path / "giant.jpg"
    Image.new("RGB", (1600, 1200), "grey").save(path)
    assert run_cli("rebuild", path, "--model", run, "--out", tmp_path / "new.png") == 0
    told = "giant.jpg: has more pixels than fit in memory safely; the result has 800×600, 1/2 of its width and height"
    assert told in capsys.readouterr().out
    assert Image.open(tmp_path / "new.png").size == (800, 600)


def test_a_face_is_followed_through_frames(
    run: Path, party: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in (9, 10):
        (folder / f"{k}.jpg").write_bytes(party.read_bytes())
    words = ("transform", folder, "--set", "Smiling=+2", "--model", run)
    assert run_cli(*words, "--follow", 2, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().err == ""
    assert run_cli("transform", party, "--set", "Smiling=+2", "--model", run, "--out", tmp_path / "one.png") == 0
    for k in (9, 10):  # the frames are equal, so the face stays where it is in each
        found, one = (Image.open(path) for path in (tmp_path / "out" / f"{k}-edited.png", tmp_path / "one.png"))
        assert np.abs(np.asarray(found).astype(int) - np.asarray(one)).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--follow", "-1"), "--follow: found -1, expected a number of frames from 0 to 1000"),
        (("--follow", "nan"), "--follow: found nan, expected a number of frames from 0 to 1000"),
        (("--follow", "1", "--align", "off"), "--follow: found it with --align off, which searches no faces"),
        (("--follow", "1", "--face", "all"), "--face: found 'all' with --follow, expected 'largest' or the number"),
        (("--follow", "1", "--face", "3"), "--face: found 3, expected from 1 to 2, the faces of the first frame"),
    ],
)
def test_a_face_that_cannot_be_followed(
    run: Path, party: Path, tmp_path: Path, options: tuple[str, ...], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ("transform", party, "--set", "Smiling=1", "--model", run, "--out", tmp_path / "out")
    assert run_cli(*words, *options) == 2
    assert capsys.readouterr().err.startswith(f"igan-fast: error: {message}")
    assert not (tmp_path / "out").exists()
