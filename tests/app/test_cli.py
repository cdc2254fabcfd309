"""The command line: files in, files out; and for bad input one message, exit status 2 and nothing written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import igan_fast
from igan_fast import FaceEditor, IterativeGAN
from igan_fast.app import cli, commands, redraw, results
from igan_fast.checkpoint.labels import counted_labels
from igan_fast.data import CELEBA_ATTRIBUTES
from igan_fast.faces import AlignedPhoto, FaceSearch
from igan_fast.train.config import TrainConfig
from igan_fast.train.save import save_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint of an untrained model. Its photos are drawn, so no faces are searched."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, latent=8, width=4)
    described = {"arguments": model.arguments(), "attributes": list(CELEBA_ATTRIBUTES)}
    save_checkpoint(folder, 1, {"model": model.state_dict()}, {"model": described, "config": {"data": "drawn"}})
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint keeps training labels: make-up is rare with Male, beards are only there."""
    folder = tmp_path_factory.mktemp("labelled")
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, latent=8, width=4)
    labels = torch.zeros(8, 40, dtype=torch.uint8)
    for name, column in (
        ("Male", [1, 1, 1, 1, 0, 0, 0, 0]),
        ("Heavy_Makeup", [1, 0, 0, 0, 1, 1, 1, 1]),
        ("Goatee", [0, 0, 1, 1, 0, 0, 0, 0]),
        ("Bangs", [0, 1, 0, 1, 0, 1, 0, 1]),
    ):
        labels[:, CELEBA_ATTRIBUTES.index(name)] = torch.tensor(column, dtype=torch.uint8)
    described = {"arguments": model.arguments(), "attributes": list(CELEBA_ATTRIBUTES)}
    state = {"model": described, "config": {"data": "drawn"}}
    save_checkpoint(folder, 1, {"model": model.state_dict(), "labels": counted_labels(labels)}, state)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photos of different kinds."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, mode, size in (("a.jpg", "RGB", (50, 40)), ("b.png", "RGBA", (33, 60)), ("c.png", "L", (32, 32))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode).save(folder / name)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that must fail as bad input fails."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("igan-fast: error: ")
    assert "Traceback" not in error
    return error


def run_cli(*arguments: object) -> None:
    assert cli.main([str(argument) for argument in arguments]) == 0


@pytest.mark.every_build
def test_recognise_prints_a_table_and_writes_json(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cli("recognise", photos, "--model", run)
    out = capsys.readouterr().out
    assert str(photos / "b.png") in out
    assert out.count("Smiling") == 3
    run_cli("recognise", photos / "a.jpg", photos / "c.png", "--model", run, "--json", tmp_path / "p.json")
    written = json.loads((tmp_path / "p.json").read_text())
    expected = FaceEditor.load(run).recognise([photos / "a.jpg", photos / "c.png"])
    assert list(written) == [str(photos / "a.jpg"), str(photos / "c.png")]
    assert list(written.values()) == [pytest.approx(row) for row in expected]


@pytest.mark.every_build
def test_generate_a_sheet_or_a_folder(run: Path, tmp_path: Path) -> None:
    run_cli("generate", "-n", 5, "--set", "Smiling=1", "Male=0", "--model", run, "--out", tmp_path / "faces.png")
    with Image.open(tmp_path / "faces.png") as sheet:
        assert sheet.size[0] > 3 * 32
    run_cli("generate", "-n", 3, "--seed", 4, "--model", run, "--out", tmp_path / "faces")
    files = sorted((tmp_path / "faces").iterdir())
    assert [file.name for file in files] == ["face-0000.png", "face-0001.png", "face-0002.png"]
    expected = FaceEditor.load(run).generate(3, seed=4)
    for file, picture in zip(files, expected, strict=True):
        with Image.open(file) as found:
            np.testing.assert_array_equal(np.asarray(found), np.asarray(picture))


@pytest.mark.every_build
def test_rebuild_and_transform_write_a_file_a_photo_and_a_grid(run: Path, photos: Path, tmp_path: Path) -> None:
    run_cli("rebuild", photos, "--model", run, "--out", tmp_path / "out")
    run_cli(
        "transform", photos, "--set", "Eyeglasses=1", "Bangs=flip", "--model", run, "--out", tmp_path / "out",
        "--grid", tmp_path / "grid.png",
    )  # fmt: skip
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == [f"{stem}-{word}.png" for stem in "abc" for word in ("edited", "rebuilt")]
    editor = FaceEditor.load(run)
    expected = editor.transform(photos / "b.png", {"Eyeglasses": 1.0, "Bangs": "flip"})
    with Image.open(tmp_path / "out/b-edited.png") as found:
        np.testing.assert_allclose(np.asarray(found, np.int16), np.asarray(expected, np.int16), atol=1)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size[1] >= 3 * 64


def test_strength_and_companions(labelled: Path, photos: Path, tmp_path: Path) -> None:
    editor = FaceEditor.load(labelled)
    changes = {"Male": "flip", "Goatee": 1.0}
    for k, (options, how) in enumerate(
        (
            ([], {}),
            (["--strength", 3], {"strength": 3}),
            (["--no-companions"], {"companions": False}),
            (["--strength=1", "--no-companions"], {"strength": 1, "companions": False}),
            (["--keep", "nothing"], {"keep": "nothing"}),
        )
    ):
        out = tmp_path / str(k)
        run_cli("transform", photos, "--set", "Male=flip", "Goatee=1", *options, "--model", labelled, "--out", out)
        for_faces = {name: value for name, value in how.items() if name != "keep"}
        generating = options if "keep" not in how else []
        run_cli("generate", "-n", 3, "--set", "Male=1", *generating, "--model", labelled, "--out", out)
        expected = {
            f"{stem}-edited": editor.transform(next(photos.glob(f"{stem}.*")), changes, **how) for stem in "abc"
        }
        faces = editor.generate(3, {"Male": 1}, **for_faces)  # type: ignore[arg-type]
        expected |= {f"face-{index:04d}": face for index, face in enumerate(faces)}
        assert {file.stem for file in out.iterdir()} == expected.keys()
        for stem, picture in expected.items():
            with Image.open(out / f"{stem}.png") as found:
                np.testing.assert_allclose(np.asarray(found, np.int16), np.asarray(picture, np.int16), atol=1)


def test_what_goes_along_is_told(
    run: Path, labelled: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "out", "--force"]

    def told(command: str, model: Path, *options: object) -> list[str]:
        capsys.readouterr()
        given = [photos / "a.jpg"] if command != "generate" else ["-n", 1]
        run_cli(command, *given, "--model", model, *out, *options)
        printed, error = capsys.readouterr()
        assert error == ""
        *lines, last = printed.splitlines()
        assert last.startswith("wrote ")
        return lines

    end = "; --no-companions leaves them"
    # Male is 4 of 8, make-up 5 with 1 in common: (1/8 − 5/16) / (1/4) = −3/4; goatee 2 of 8: (2/8 − 1/8) / (1/4) = 1/2.
    up = f"Male from 0 to 1 takes along Heavy_Makeup (−0.75), Goatee (+0.50){end}"
    down = f"Male from 1 to 0 takes along Heavy_Makeup (+0.75), Goatee (−0.50){end}"
    for command in ("transform", "generate"):
        assert told(command, labelled, "--set", "Male=1") == [up]
        assert told(command, labelled, "--set", "Male=0", "Bangs=1") == [down]  # nothing goes along with bangs
        assert told(command, labelled, "--set", "Male=0.2") == [down.replace("from 1 to 0", "moved by 1 down")]
        assert told(command, labelled, "--set", "Male=0.7") == [up.replace("from 0 to 1", "moved by 1 up")]
        assert told(command, labelled, "--set", "Male=-2") == [down.replace("from 1 to 0", "moved by 1 down")]
        assert told(command, labelled, "--set", "Male=+0.5") == [up.replace("from 0 to 1", "moved by 1 up")]
        assert told(command, labelled, "--set", "Male=1", "--no-companions") == []
        assert told(command, labelled, "--set", "Bangs=1") == []
        (none,) = told(command, run, "--set", "Male=1", "Bangs=1")
        assert none == "no attribute goes along with another: the checkpoint keeps no training labels"
        assert told(command, run, "--set", "Male=1", "--no-companions") == []
    both = "from 0 to 1 takes along Heavy_Makeup (−0.75), Goatee (+0.50), and from 1 to 0 the other way"
    assert told("transform", labelled, "--set", "Male=flip") == [f"Male {both}{end}"]
    assert (
        told("generate", labelled) == told("generate", run) == told("rebuild", run) == told("rebuild", labelled) == []
    )
    # Two together share: of four men without a goatee and with one, half and none wear make-up; all women do.
    assert told("transform", labelled, "--set", "Male=1", "Goatee=1") == [
        f"Male from 0 to 1 takes along Heavy_Makeup (−0.50){end}",
        f"Goatee from 0 to 1 takes along Heavy_Makeup (−0.50){end}",
    ]


def test_moves_of_nothing_are_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    class Editor:
        companions = object()

        def companions_of(self, names: object) -> dict[str, dict[str, float]]:
            return {"Male": {"Bald": 0.0051, "Bangs": -0.0049}, "Young": {"Bald": 0.001}, "a\nb": {"c\td": 0.5}}

    redraw.tell_companions(Editor(), {"Male": 1, "Young": 1, "a\nb": "flip"})  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [
        "Male from 0 to 1 takes along Bald (+0.01); --no-companions leaves them",
        r"a\nb from 0 to 1 takes along c\td (+0.50), and from 1 to 0 the other way; --no-companions leaves them",
    ]


def test_the_row_of_edits_in_a_grid_says_what_is_drawn(
    labelled: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[list[str]] = []
    draw = redraw.grid
    monkeypatch.setattr(redraw, "grid", lambda rows, row, column: titles.append(row) or draw(rows, row, column))
    files = ["--model", labelled, "--out", tmp_path / "out", "--grid", tmp_path / "grid.png", "--force"]
    for options in (
        ["--set", "Male=1", "Bangs=flip"],
        ["--set", "Bangs=0.25", "--keep", "nothing"],
        ["--set", "Male=0", "--strength", 1],
        ["--set", "Male=0", "--strength", 1, "--no-companions"],
    ):
        run_cli("transform", photos, *options, *files)
    run_cli("rebuild", photos, *files)
    assert titles == [
        ["photo", "rebuilt", "Male=1 Bangs=flip\nstrength 2, with companions"],
        ["photo", "rebuilt", "Bangs=0.25\nstrength 2"],
        ["photo", "rebuilt", "Male=0\nwith companions"],
        ["photo", "rebuilt", "Male=0"],
        ["photo", "rebuilt"],
    ]


@pytest.mark.parametrize("strength", ["-0.5", "10.5", "nan", "inf"])
def test_a_strength_out_of_its_range(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], strength: str
) -> None:
    out = tmp_path / "out"
    for command in (["transform", photos, "--set", "Male=1"], ["generate"]):
        message = refused(capsys, *command, "--strength", strength, "--model", run, "--out", out)
        assert message == f"igan-fast: error: --strength: found {float(strength)}, expected a number from 0 to 10\n"
    assert "--strength: found 'much', expected a number" in refused(
        capsys, "transform", photos, "--set", "Male=1", "--strength", "much", "--model", run, "--out", out
    )
    assert not out.exists()


@pytest.mark.parametrize("command", ["recognise", "generate", "rebuild", "transform"])
def test_existing_files_are_not_written_over_without_force(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    target = tmp_path / "x.json" if command == "recognise" else tmp_path / "out"
    arguments: list[Any] = {
        "recognise": [photos, "--json", target],
        "generate": ["-n", 2, "--out", target],
        "rebuild": [photos, "--out", target],
        "transform": [photos, "--set", "Bald=1", "--out", target],
    }[command]
    run_cli(command, *arguments, "--model", run)
    files = [target] if target.is_file() else sorted(target.iterdir())
    before = [file.read_bytes() for file in files]
    files[-1].write_bytes(b"mine")
    assert "--force" in refused(capsys, command, *arguments, "--model", run)
    assert files[-1].read_bytes() == b"mine"
    run_cli(command, *arguments, "--model", run, "--force")
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("Smilling=1", "unknown attribute 'Smilling'; did you mean Smiling"),
        ("Smiling", "expected NAME=VALUE"),
        ("Smiling=2", "expected a number from 0 to 1"),
        ("Smiling=nan", "expected a number from 0 to 1"),
        ("Smiling=yes", "expected a number from 0 to 1"),
    ],
)
def test_bad_assignments(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], assignment: str, message: str
) -> None:
    out = tmp_path / "out"
    assert message in refused(capsys, "transform", photos, "--set", assignment, "--model", run, "--out", out)
    assert message in refused(capsys, "generate", "--set", assignment, "--model", run, "--out", out)
    assert not out.exists()


def test_assignments_that_make_no_sense(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flip = refused(capsys, "generate", "--set", "Bald=flip", "--model", run, "--out", out)
    assert "there is no photo to flip it in" in flip
    twice = refused(capsys, "transform", photos, "--set", "Bald=1", "Bald=0", "--model", run, "--out", out)
    assert "given twice" in twice
    assert not out.exists()


def bad_photos(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    (folder / "text.jpg").write_text("no photo")
    Image.effect_noise((64, 64), 50).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:400])
    (folder / "empty").mkdir()
    # A PNG header that promises 60,000 × 60,000 pixels.
    bomb = bytearray((folder / "pixel.png").read_bytes())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    (folder / "bomb.png").write_bytes(bomb)
    return {name: folder / file for name, file in
            {"one pixel": "pixel.png", "text": "text.jpg", "truncated": "cut.jpg", "missing": "none.jpg",
             "empty folder": "empty", "bomb": "bomb.png"}.items()}  # fmt: skip


@pytest.mark.parametrize("kind", ["one pixel", "text", "truncated", "missing", "empty folder", "bomb"])
def test_a_bad_photo_alone_is_bad_input(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    photo = bad_photos(tmp_path / "bad")[kind]
    out = tmp_path / "out"
    message = refused(capsys, "rebuild", photo, "--model", run, "--out", out)
    assert photo.name in message
    assert len(message.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("kind", ["missing", "empty folder"])
def test_a_photo_that_is_not_there_is_said_before_any_work(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    photo = bad_photos(tmp_path / "bad")[kind]
    assert photo.name in refused(capsys, "rebuild", photos / "a.jpg", photo, "--model", run, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["one pixel", "text", "truncated", "bomb"])
def test_a_bad_photo_does_not_lose_the_others(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    bad = bad_photos(tmp_path / "bad")[kind].rename(photos / "b2.png")
    transform = ["transform", photos, "--set", "Bald=1", "--out", tmp_path / "ed", "--grid", tmp_path / "grid.png"]
    for command in (
        ["rebuild", photos, "--out", tmp_path / "out"],
        transform,
        ["recognise", photos, "--json", tmp_path / "p.json"],
        ["recognise", photos],
    ):
        capsys.readouterr()
        assert cli.main([*map(str, command), "--model", str(run)]) == 1
        out, error = capsys.readouterr()
        assert ("wrote " in out) == (len(command) > 2)
        first, last = error.splitlines()
        assert first.startswith(f"igan-fast: error: {bad}")
        assert last == "igan-fast: error: 1 of 4 photos could not be used; the others are done"
    assert str(photos / "c.png") in out
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [f"{stem}-rebuilt.png" for stem in "abc"]
    assert sorted(file.name for file in (tmp_path / "ed").iterdir()) == [f"{stem}-edited.png" for stem in "abc"]
    written = json.loads((tmp_path / "p.json").read_text())
    assert list(written) == [str(photos / name) for name in ("a.jpg", "b.png", "c.png")]
    with Image.open(tmp_path / "grid.png") as grid:
        assert 3 * 64 < grid.size[0] < 4 * 64 + 200


def test_nothing_but_bad_photos(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = bad_photos(tmp_path / "bad")
    capsys.readouterr()
    arguments = ["recognise", kinds["text"], kinds["bomb"], "--model", run, "--json", tmp_path / "p.json"]
    assert cli.main([str(argument) for argument in arguments]) == 2
    named = capsys.readouterr().err.splitlines()
    assert [name in line for name, line in zip(("text.jpg", "bomb.png", "none of the 2 photos"), named, strict=True)]
    assert not (tmp_path / "p.json").exists()


class Interrupted:
    """``FaceSearch.open`` that Ctrl-C ends at the photo of a certain name."""

    def __init__(self, name: str) -> None:
        self.name, self.open = name, FaceSearch.open

    def __call__(self, photo: Path, **how: str) -> AlignedPhoto:
        if isinstance(photo, Path) and photo.name == self.name:
            raise KeyboardInterrupt
        return self.open(FaceSearch(32, "off"), photo, **how)


def test_an_interruption_keeps_what_was_done(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PHOTOS_AT_A_TIME", 1)
    monkeypatch.setattr(FaceSearch, "open", Interrupted("c.png"))
    edit = ["transform", photos, "--set", "Bald=1", "--out", tmp_path / "ed", "--grid", tmp_path / "grid.png"]
    for command in (
        ["rebuild", photos, "--out", tmp_path / "out"],
        edit,
        ["recognise", photos, "--json", tmp_path / "p.json"],
        ["recognise", photos],
        ["recognise", photos, "--json", "-"],
    ):
        capsys.readouterr()
        assert cli.main([*map(str, command), "--model", str(run)]) == 130
        out, error = capsys.readouterr()
        assert error == "igan-fast: interrupted\n"
    assert list(json.loads(out)) == [str(photos / "a.jpg"), str(photos / "b.png")]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a-rebuilt.png", "b-rebuilt.png"]
    assert sorted(file.name for file in (tmp_path / "ed").iterdir()) == ["a-edited.png", "b-edited.png"]
    assert (tmp_path / "grid.png").exists()
    assert list(json.loads((tmp_path / "p.json").read_text())) == [str(photos / "a.jpg"), str(photos / "b.png")]


def test_results_are_there_before_the_next_photos_are_read(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    plain = FaceSearch.open

    def load(search: FaceSearch, photo: Path, **how: str) -> AlignedPhoto:
        out = tmp_path / "out"
        if isinstance(photo, Path):
            seen.append(sorted(file.name for file in out.iterdir()) if out.exists() else [])
        return plain(search, photo, **how)

    monkeypatch.setattr(results, "PHOTOS_AT_A_TIME", 2)
    monkeypatch.setattr(FaceSearch, "open", load)
    run_cli("rebuild", photos, "--model", run, "--out", tmp_path / "out")
    assert seen == [[], [], ["a-rebuilt.png", "b-rebuilt.png"]]


def test_one_photo_may_have_a_file_of_its_own(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, size in ((["rebuild"], (32, 32)), (["transform", "--set", "Bald=1"], (33, 60))):
        file = tmp_path / "new" / f"{command[0]}.PNG"
        run_cli(*command, photos / "b.png", "--model", run, "--out", file)
        with Image.open(file) as picture:
            assert (picture.format, picture.size) == ("PNG", size)
        message = refused(capsys, *command, photos, "--model", run, "--out", tmp_path / "all.png")
        assert "is one file for 3 photos; expected a folder" in message
        assert "expected a name that ends in .png" in refused(
            capsys, *command, photos / "a.jpg", "--model", run, "--out", tmp_path / "one.jpg"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "photos"]


def test_what_was_given_is_never_written_over(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "a-rebuilt.png").write_bytes((photos / "b.png").read_bytes())
    (tmp_path / "link.png").symlink_to(photos / "c.png")
    (tmp_path / "hard.png").hardlink_to(photos / "c.png")
    one = ["rebuild", photos / "c.png", "--model", run, "--force", "--out"]
    checkpoint = next((run / "checkpoints").iterdir())
    before = {file: file.read_bytes() for file in [*photos.iterdir(), checkpoint / "state.json"]}
    for arguments in (
        [*one, photos / "c.png"],
        [*one, tmp_path / "link.png"],
        [*one, tmp_path / "hard.png"],
        [*one, tmp_path / "out", "--grid", photos / "c.png"],
        ["rebuild", photos, "--model", run, "--force", "--out", photos],
        ["recognise", photos, "--model", run, "--force", "--json", photos / "a.jpg"],
        ["recognise", photos, "--model", run, "--force", "--json", checkpoint / "state.json"],
        ["recognise", photos, "--model", checkpoint, "--force", "--json", checkpoint / "state.json"],
        ["evaluate", "--data", photos, "--model", run, "--force", "--plot", photos / "b.png"],
    ):
        assert "is read by this command, and is never written over" in refused(capsys, *arguments)
    assert {file: file.read_bytes() for file in before} == before
    assert not (tmp_path / "out").exists()


def test_bad_models(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (tmp_path / "nowhere", photos):
        assert str(model) in refused(capsys, "recognise", photos, "--model", model)
    damaged = tmp_path / "damaged"
    folder = save_checkpoint(
        damaged, 1, {"model": {"x": torch.zeros(2)}}, {"model": {"arguments": {}, "attributes": []}}
    )
    assert str(folder) in refused(capsys, "recognise", photos, "--model", damaged)


def test_a_damaged_checkpoint_that_another_stands_in_for_is_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = IterativeGAN(image_size=32, latent=8, width=4)
    described = {"arguments": model.arguments(), "attributes": list(CELEBA_ATTRIBUTES)}
    state = {"model": described, "config": {"data": "drawn"}}
    for iteration in (1, 2):
        newest = save_checkpoint(tmp_path / "run", iteration, {"model": model.state_dict()}, state)
    (newest / "model.safetensors").write_bytes(b"cut")
    run_cli("recognise", photos, "--model", tmp_path / "run")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"igan-fast: warning: {newest}")


def test_two_photos_of_one_name(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (photos / "a.jpg").rename(other / "b.jpg")
    (photos / "b.jpg").write_bytes((other / "b.jpg").read_bytes())
    for first, second in ((photos / "b.png", other / "b.jpg"), (photos / "b.jpg", photos / "b.png")):
        message = refused(capsys, "rebuild", first, second, "--model", run, "--out", tmp_path / "out")
        assert f"{first} and {second} would both be written to {tmp_path / 'out/b-rebuilt.png'}" in message
    assert not (tmp_path / "out").exists()


def test_evaluate_refuses_data_of_other_attributes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    (data / "img_align_celeba").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(data / "img_align_celeba/000001.jpg")
    (data / "list_attr_celeba.txt").write_text("1\nTall\n000001.jpg 1\n")
    assert "has no attribute" in refused(capsys, "evaluate", "--data", data, "--model", run)


def test_train_refuses_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    for options, message in (
        (["--image-size", "50"], "--image-size: found 50"),
        (["--epochs", "1", "--iterations", "2"], "contradict"),
        (["--data", str(tmp_path / "none")], "none"),
        (["--attributes", "Bold"], "did you mean Bald"),
        (["--resume", "--preset", "paper", "--lr", "0"], "--lr: found 0"),
    ):
        assert message in refused(capsys, "train", "--run", run, *options)
    assert not run.exists()


@pytest.mark.every_build
def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "igan_fast", "paint"], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("igan-fast: error: paint: no such command; expected train, recognise, generate, ")


def test_commands_that_are_misspelt_or_missing(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["recognis"], "recognis: no such command; did you mean recognise?"),
        (["trian", "--seed", "1"], "trian: no such command; did you mean train?"),
        (["--verison"], "--verison: no such command; did you mean --version?"),
        (
            [],
            "no command is given; expected train, recognise, generate, rebuild, transform, interpolate, web, export, "
            "evaluate, baseline, paper or doctor",
        ),
    ):
        assert refused(capsys, *arguments).startswith(f"igan-fast: error: {message}")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    run_cli("--version")
    assert capsys.readouterr().out == f"igan-fast {igan_fast.__version__}\n"


def test_the_american_spelling_is_the_same_command(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_cli("recognise", photos / "a.jpg", "--model", run)
    expected = capsys.readouterr().out
    run_cli("recognize", photos / "a.jpg", "--model", run)
    assert capsys.readouterr().out == expected


def test_train_options_take_their_defaults_from_the_preset_or_the_continued_run(tmp_path: Path) -> None:
    def parsed(*arguments: str) -> TrainConfig:
        command = cli._parse(["train", *arguments])
        assert isinstance(command, commands.Train)
        return command.config

    assert parsed("--preset", "paper") == TrainConfig(preset="paper")
    assert parsed("--preset=paper", "--lr", "0.5").lr == 0.5
    saved = TrainConfig(width=7, epochs=3.0, run=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(saved.to_json()))
    continued = parsed("--run", str(tmp_path), "--resume")
    assert (continued.width, continued.epochs, continued.resume) == (7, 3.0, True)
    longer = parsed("--run", str(tmp_path), "--resume", "--iterations", "9")
    assert (longer.width, longer.epochs, longer.iterations) == (7, None, 9)
    assert parsed("--run", str(tmp_path)).width == TrainConfig().width


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (*cli.COMMANDS, *cli.ALIASES):
        with pytest.raises(SystemExit) as exit_:
            cli.main([command, "--help"])
        assert exit_.value.code == 0
        assert "--" in capsys.readouterr().out


def test_messages_spell_options_as_they_are_typed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for message, *arguments in (
        (
            "--n: found 0, expected from 1 to 1,000,000 faces",
            "generate",
            "-n",
            "0",
            "--model",
            run,
            "--out",
            tmp_path / "out",
        ),
        ("--limit: found -3", "evaluate", "--limit", "-3", "--model", run),
        ("--judges: found '3', expected 0, 1 or 2", "evaluate", "--judges", 3, "--model", run),
        ("--judges: found '-1', expected 0, 1 or 2", "evaluate", "--judges=-1", "--model", run),
        ("--strength: found -1.0, expected a number from 0 to 10", "evaluate", "--strength=-1", "--model", run),
        ("--strength: found nan", "evaluate", "--strength", "nan", "--model", run),
        ("--data: ", "train", "--data", tmp_path / "none", "--run", tmp_path / "run"),
        ("--data: is empty", "train", "--data", "", "--run", tmp_path / "run"),
    ):
        assert refused(capsys, *arguments).startswith(f"igan-fast: error: {message}")


def test_where_a_result_cannot_lie_is_said_before_any_work(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    edit: list[Any] = ["transform", photos, "--set", "Bald=1", "--model", run]
    evaluation: list[Any] = ["evaluate", "--model", run, "--judges", 0]
    generate: list[Any] = ["generate", "-n", 2, "--model", run]
    for message, *arguments in (
        ("is a file, expected a folder", *generate, "--out", file),
        ("is a file, expected a folder", *generate, "--out", file / "a/b.png"),
        ("expected a name that ends in .png", *generate, "--out", tmp_path / "faces.jpg"),
        ("is a file, expected a folder", *edit, "--out", tmp_path / "out", "--grid", file / "grid.png"),
        ("expected a name that ends in .png", *edit, "--out", tmp_path / "out", "--grid", tmp_path / "grid.jpg"),
        ("two results", *edit, "--out", tmp_path / "out", "--grid", tmp_path / "out/a-edited.png"),
        ("is a file, expected a folder", "recognise", photos, "--model", run, "--json", file / "x.json"),
        ("Matplotlib cannot write .xyz", *evaluation, "--json", tmp_path / "e.json", "--plot", tmp_path / "e.xyz"),
        ("two results", *evaluation, "--json", tmp_path / "e.png", "--plot", tmp_path / "e.png"),
        ("is a file, expected a folder", "train", "--run", file / "run"),
    ):
        assert message in refused(capsys, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"]
    assert file.read_text() == "mine"


def buffered() -> dict[str, str]:
    """An environment in which Python keeps its output back until it must write, as it usually does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_output_that_the_terminal_cannot_show_or_take(run: Path, photos: Path) -> None:
    (photos / "a.jpg").rename(photos / "ü.jpg")
    command = [sys.executable, "-m", "igan_fast", "recognise", photos / "ü.jpg", "--model", run]
    ascii_only = buffered() | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=ascii_only, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\xfc.jpg" in done.stdout
    with subprocess.Popen(command, env=buffered(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_full_disk_behind_the_output_is_one_line(run: Path, photos: Path) -> None:
    command = [sys.executable, "-m", "igan_fast", "recognise", photos / "a.jpg", "--model", run]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, env=buffered(), stdout=full, stderr=subprocess.PIPE, check=False, text=True)
    assert (done.returncode, done.stderr) == (2, "igan-fast: error: No space left on device\n")


def test_streams_that_were_closed_before_we_began(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    run_cli("recognise", photos, "--model", run, "--json", tmp_path / "p.json")
    assert cli.main(["paint"]) == 2
    assert sys.stdout is sys.stderr is None
    assert len(json.loads((tmp_path / "p.json").read_text())) == 3


def test_a_reader_that_has_gone_ends_the_work(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the first photos, not after ten thousand."""
    read: list[Path] = []
    monkeypatch.setattr(results, "PHOTOS_AT_A_TIME", 1)
    plain = FaceSearch.open

    def load(search: FaceSearch, photo: Path, **how: str) -> AlignedPhoto:
        read.extend([photo] if isinstance(photo, Path) else [])
        return plain(search, photo, **how)

    monkeypatch.setattr(FaceSearch, "open", load)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as gone:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", gone)
        assert cli.main(["recognise", str(photos), "--model", str(run)]) == 141
    assert [photo.name for photo in read] == ["a.jpg"]
    assert capsys.readouterr().err == ""


def latin_1(tmp_path: Path, name: bytes) -> Path:
    """A path that is no UTF-8, as an old disk has it."""
    return Path(os.fsdecode(bytes(tmp_path) + b"/" + name))


def test_names_that_are_no_text_in_every_command(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an output that has only ASCII, and is strict about it."""
    folder = latin_1(tmp_path, b"f\xfcr")
    data = folder / "data"
    (data / "img_align_celeba").mkdir(parents=True)
    names = [f"{k:06d}.jpg" for k in range(40)]
    for k, name in enumerate(names):
        Image.new("RGB", (32, 32), (6 * k, 90, 90)).save(data / "img_align_celeba" / name)
    rows = [f"{name} {1 if k % 2 else -1}" for k, name in enumerate(names)]
    (data / "list_attr_celeba.txt").write_text("\n".join(["40", "Smiling", *rows]))
    photo = latin_1(tmp_path, b"f\xfcr/caf\xe9.jpg")
    (photos / "c.png").rename(photo)
    model, cache = folder / "run", folder / "cache"
    monkeypatch.setenv("IGAN_FAST_CACHE", str(cache))
    small = ["--image-size", "32", "--width", "4", "--batch-size", "4", "--iterations", "2", "--threads", "1"]
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    run_cli("train", "--data", data, "--run", model, *small)
    run_cli("train", "--run", model, "--resume", "--iterations", 3)
    run_cli("recognise", photo, "--model", model)
    run_cli("recognise", photo, "--model", model, "--json", folder / "p.json")
    run_cli("rebuild", photo, "--model", model, "--out", folder, "--grid", folder / "grid.png")
    run_cli("transform", photo, "--set", "Smiling=1", "--model", model, "--out", folder / "one.png")
    run_cli("generate", "-n", 1, "--model", model, "--out", folder / "faces")
    judged = ["evaluate", "--data", data, "--model", model, "--judges", 0]
    run_cli(*judged, "--json", folder / "e.json", "--plot", folder / "e.png")
    run_cli("doctor", "--json", folder / "d.json")
    assert {path.name for path in folder.iterdir()} >= {"grid.png", "one.png", "e.json", "e.png", "d.json", "faces"}
    assert (bytes(folder) + b"/caf\xe9-rebuilt.png") in [bytes(path) for path in folder.iterdir()]
    (key,) = json.loads((folder / "p.json").read_text())
    assert os.fsencode(key) == bytes(photo)
    assert os.fsencode(json.loads((folder / "e.json").read_text())["checkpoint"]).startswith(bytes(model))
    out.flush()


def test_memory_that_is_not_there_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def numpy_s(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9 PiB")

    def pytorch_s(*_: object, **__: object) -> None:
        torch.empty(2**55, dtype=torch.uint8)

    for fail in (numpy_s, pytorch_s):
        monkeypatch.setattr(FaceEditor, "generate_batches", fail)
        message = refused(capsys, "generate", "--model", run, "--out", tmp_path / "out")
        assert message.startswith("igan-fast: error: there is not enough memory for this: ")
        assert len(message.splitlines()) == 1


def test_numbers_beyond_all_bounds(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, options in (
        ("generate", ("-n", "--seed")),
        ("evaluate", ("--limit",)),
        ("train", ("--threads", "--seed", "--drawn-count", "--width", "--latent", "--batch-size", "--image-size")),
    ):
        others: dict[str, list[Any]] = {"generate": ["--out", tmp_path / "out"], "evaluate": [], "train": []}
        model = [] if command == "train" else ["--model", run]
        for option in options:
            for number in (10**30, -(10**30), "9" * 6000, -1):
                message = refused(capsys, command, option, number, *model, *others[command])
                assert message.startswith(f"igan-fast: error: --{option.strip('-')}: found ")
                assert len(message.splitlines()) == 1
                assert len(message) < 200
    for number in ("-n=1000000000000", "--n=1000001"):
        assert "expected from 1 to 1,000,000 faces" in refused(
            capsys, "generate", number, "--model", run, "--out", tmp_path / "out"
        )
    message = refused(capsys, "generate", "-n", 1_000_000, "--model", run, "--out", tmp_path / "faces.png")
    assert "too many for one sheet" in message
    assert not list(tmp_path.iterdir())
