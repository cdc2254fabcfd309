"""The command line: files in, files out; and for bad input one message, exit status 2 and nothing written."""

from __future__ import annotations

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

from igan_fast import FaceEditor, IterativeGAN, cli, commands
from igan_fast.data import CELEBA_ATTRIBUTES
from igan_fast.train.checkpoint import save_checkpoint
from igan_fast.train.config import TrainConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint of an untrained model."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, latent=8, width=4)
    state = {"model": {"arguments": model.arguments(), "attributes": list(CELEBA_ATTRIBUTES)}}
    save_checkpoint(folder, 1, {"model": model.state_dict()}, state)
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
def test_bad_photos(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    photo = bad_photos(tmp_path / "bad")[kind]
    out = tmp_path / "out"
    message = refused(capsys, "rebuild", photos / "a.jpg", photo, "--model", run, "--out", out)
    assert photo.name in message
    assert not out.exists()


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
    state = {"model": {"arguments": model.arguments(), "attributes": list(CELEBA_ATTRIBUTES)}}
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
    message = refused(capsys, "rebuild", photos / "b.png", other / "b.jpg", "--model", run, "--out", tmp_path / "out")
    assert "two photos would both be written" in message


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


@pytest.mark.parametrize(
    "arguments", [["train", "--colour", "3"], ["paint"], ["train", "--width", "wide"], ["generate"]]
)
def test_unknown_options_exit_with_2_and_no_traceback(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_exit_status_is_the_process_s_own() -> None:
    done = subprocess.run([sys.executable, "-m", "igan_fast", "paint"], capture_output=True, check=False, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


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
    for command in ("train", "recognise", "generate", "rebuild", "transform", "evaluate"):
        with pytest.raises(SystemExit) as exit_:
            cli.main([command, "--help"])
        assert exit_.value.code == 0
        assert "--" in capsys.readouterr().out


def test_messages_spell_options_as_they_are_typed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for message, *arguments in (
        ("--n: found 0", "generate", "-n", "0", "--model", run, "--out", tmp_path / "out"),
        ("--limit: found -3", "evaluate", "--limit", "-3", "--model", run),
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
    evaluation: list[Any] = ["evaluate", "--model", run, "--no-judge"]
    generate: list[Any] = ["generate", "-n", 2, "--model", run]
    for message, *arguments in (
        ("is a file, expected a folder", *generate, "--out", file),
        ("is a file, expected a folder", *generate, "--out", file / "a/b.png"),
        ("expected a name in .png", *generate, "--out", tmp_path / "faces.jpg"),
        ("is a file, expected a folder", *edit, "--out", tmp_path / "out", "--grid", file / "grid.png"),
        ("expected a name in .png", *edit, "--out", tmp_path / "out", "--grid", tmp_path / "grid.jpg"),
        ("two results", *edit, "--out", tmp_path / "out", "--grid", tmp_path / "out/a-edited.png"),
        ("is a file, expected a folder", "recognise", photos, "--model", run, "--json", file / "x.json"),
        ("Matplotlib cannot write .xyz", *evaluation, "--json", tmp_path / "e.json", "--plot", tmp_path / "e.xyz"),
        ("two results", *evaluation, "--json", tmp_path / "e.png", "--plot", tmp_path / "e.png"),
        ("is a file, expected a folder", "train", "--run", file / "run"),
    ):
        assert message in refused(capsys, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"]
    assert file.read_text() == "mine"


def test_output_that_the_terminal_cannot_show_or_take(run: Path, photos: Path) -> None:
    (photos / "a.jpg").rename(photos / "ü.jpg")
    command = [sys.executable, "-m", "igan_fast", "recognise", photos / "ü.jpg", "--model", run]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=ascii_only, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\xfc.jpg" in done.stdout
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
