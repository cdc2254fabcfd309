"""A run that starts from another one: its options, that it resumes alone, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import edit_tensors, run_files
from warm_starts import CHANGES, assert_equal, at_start, baseline_config, beginning, options

from igan_fast import IterativeGAN
from igan_fast.app import cli
from igan_fast.baselines.config import BaselineConfig
from igan_fast.checkpoint import find_checkpoint, load_checkpoint, load_model
from igan_fast.checkpoint.description import ModelDescription
from igan_fast.errors import InputError
from igan_fast.train import TrainConfig, train, warm_start
from igan_fast.train.warm_start import Initial


def test_the_options_of_the_networks_are_all_named() -> None:
    arguments = IterativeGAN(32, 3, 5, 2).arguments().keys() - {"attributes"}
    assert TrainConfig.NETWORK_OPTIONS.keys() == arguments
    assert BaselineConfig.NETWORK_OPTIONS.keys() == {"image_size", "width"}
    assert (TrainConfig().image_size, TrainConfig().width, TrainConfig().latent) == (128, 64, 100)


def test_the_sizes_are_those_of_the_run_and_the_rest_is_new(
    tiny: dict[str, Any], old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = beginning(tiny, tmp_path / "new", old, attributes=CHANGES["all"], preset="paper", lr=None)
    assert (config.image_size, config.width, config.latent) == (32, 2, 5)
    assert (config.signed_labels, config.film) == (True, True), "as the networks have it, not the preset"
    assert (config.lr, config.r1) == (2e-5, 0.0)
    result = train(config)
    told = capsys.readouterr().out
    line = next(line for line in told.splitlines() if line.startswith("starts from"))
    assert line == (
        f"starts from {find_checkpoint(old).folder} (--image-size 32 --latent 5 --width 2 --signed-labels True "
        "--film True): 2 of 3 attributes known; drawn anew: Young; left out: Smiling, Eyeglasses"
    )
    start = json.loads((result.run / "log.jsonl").read_text().splitlines()[0])
    assert start["starts_from"] == str(find_checkpoint(old).folder)
    counts = load_checkpoint(result.checkpoint).tensors["labels"]
    assert counts["together"].shape == (3, 3)
    assert load_model(result.run).attributes == CHANGES["all"]


def test_it_resumes_exactly_where_the_old_run_is_gone(tiny: dict[str, Any], old: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(old, gone)
    parts = beginning(tiny, tmp_path / "parts", gone, attributes=CHANGES["all"])
    train(parts)
    shutil.rmtree(gone)
    for config in (
        dataclasses.replace(TrainConfig.load(tmp_path / "parts"), resume=True, iterations=5),
        beginning(tiny, tmp_path / "parts", gone, attributes=CHANGES["all"], resume=True, iterations=6),
    ):
        resumed = train(config)
    whole = train(beginning(tiny, tmp_path / "whole", old, attributes=CHANGES["all"], iterations=6))
    expected, found = load_checkpoint(whole.checkpoint), load_checkpoint(resumed.checkpoint)
    for group, tensors in expected.tensors.items():
        assert_equal(found.tensors[group], tensors)
    assert json.loads((tmp_path / "parts" / "config.json").read_text())["init"] == str(gone)
    with pytest.raises(InputError, match=f"--init is {old}, but this run was started with {gone}"):
        train(beginning(tiny, tmp_path / "parts", old, attributes=CHANGES["all"], resume=True, iterations=7))


def test_resume_starts_from_the_run_where_there_is_nothing_to_resume(
    tiny: dict[str, Any], old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = at_start(beginning(tiny, tmp_path / "new", old, resume=True), monkeypatch)
    assert_equal(method.model.state_dict(), load_model(old, weights="model").model.state_dict())


def test_a_relative_path_is_kept_whole(
    tiny: dict[str, Any], old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old.parent)
    assert beginning(tiny, tmp_path / "new", Path("run")).init == old
    assert beginning(tiny, tmp_path / "new", "run").to_json()["init"] == str(old)  # type: ignore[arg-type]


def test_without_an_average_it_starts_from_the_model(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(TrainConfig(**options(tiny, tmp_path / "old", ema_decay=0.0)))
    method = at_start(beginning(tiny, tmp_path / "new", tmp_path / "old"), monkeypatch)
    assert_equal(method.ema.model.state_dict(), load_model(tmp_path / "old").model.state_dict())
    assert at_start(beginning(tiny, tmp_path / "2", tmp_path / "old", ema_decay=0.0), monkeypatch).ema is None


def test_a_checkpoint_folder_is_taken_as_it_is(
    tiny: dict[str, Any], old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "any name"
    shutil.copytree(find_checkpoint(old).folder, moved)
    method = at_start(beginning(tiny, tmp_path / "new", moved), monkeypatch)
    assert_equal(method.model.state_dict(), load_model(old, weights="model").model.state_dict())


def test_the_command_line_takes_the_sizes_of_the_run(
    tiny: dict[str, Any], old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def words(*more: str) -> list[str]:
        given = ["--data", "drawn", "--drawn-count", "40", "--batch-size", "4", "--iterations", "1", "--device", "cpu"]
        return ["train", *given, "--cache", str(tiny["cache"]), "--run", str(tmp_path / "new"), *more]

    assert cli.main(words("--init", str(old), "--width", "4")) == 2
    error = capsys.readouterr().err
    assert error.startswith("igan-fast: error: --init ")
    assert "--width 2, but the new run is given 4" in error
    assert cli.main(words("--init", str(tmp_path / "typo"))) == 2
    assert f"--init {tmp_path / 'typo'}: no such folder" in capsys.readouterr().err
    assert cli.main(words("--init", str(old), "--attributes", "Male", "Young")) == 0
    assert "1 of 2 attributes known; drawn anew: Young; left out: Smiling, Eyeglasses, Bangs" in capsys.readouterr().out
    saved = TrainConfig.load(tmp_path / "new")
    assert (saved.image_size, saved.width, saved.latent, saved.init) == (32, 2, 5, old)


def test_long_lists_of_names_are_cut() -> None:
    known, wanted = tuple(f"old{i}" for i in range(30)), tuple(f"new{i}" for i in range(9))
    arguments = IterativeGAN(32, 30, 5, 2).arguments()
    line = Initial(ModelDescription(arguments, known, []), {}, Path("x")).told(wanted)
    assert "0 of 9 attributes known; drawn anew: new0, new1, " in line
    assert line.endswith("old7 and 22 more")
    assert warm_start._LISTED == 8


def refused(config: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igan_fast.train.loop.open_data", lambda config: pytest.fail("the data were opened"))
    with pytest.raises(InputError, match=message) as caught:
        train(config())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 4}, "--init .*: its networks have --width 2, but the new run is given 4; leave --width out"),
        ({"image_size": 48}, "--image-size 32, but the new run is given 48"),
        ({"latent": 9}, "--latent 5, but the new run is given 9"),
        ({"film": False}, "--film True, but the new run is given False"),
        ({"signed_labels": False}, "--signed-labels True, but the new run is given False"),
    ],
)
def test_other_networks_are_refused(
    tiny: dict[str, Any], old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any],
    message: str,
) -> None:  # fmt: skip
    before = run_files(old)
    refused(lambda: beginning(tiny, tmp_path / "new", old, **change), message, monkeypatch)
    assert not (tmp_path / "new").exists()
    assert run_files(old) == before


def test_other_methods_are_refused(
    tiny: dict[str, Any], old: Path, dcgan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    message = "--init .*: holds the networks of the baseline dcgan, expected an Iterative GAN"
    refused(lambda: beginning(tiny, new, dcgan), message, monkeypatch)
    message = "--init .*: holds an Iterative GAN, expected the networks of a baseline"
    refused(lambda: baseline_config(tiny, new, "cgan", init=old), message, monkeypatch)
    message = "--init .*: holds the networks of dcgan, expected those of cgan"
    refused(lambda: baseline_config(tiny, new, "cgan", init=dcgan), message, monkeypatch)


def test_a_cyclegan_of_another_attribute_is_refused(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(baseline_config(tiny, tmp_path / "old", "cyclegan"))
    message = "--init .*: its networks edit Smiling, expected Male: all weights of a CycleGAN belong to its attribute"
    refused(
        lambda: baseline_config(tiny, tmp_path / "new", "cyclegan", init=tmp_path / "old", attributes=("Male",)),
        message,
        monkeypatch,
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run), "--init .*: no such folder; expected a run or a checkpoint folder"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "found no manifest.json and no checkpoints folder"),
        (lambda run: (shutil.rmtree(run / "checkpoints"), (run / "model.json").write_text("{}")),
         "--init .*: found networks that igan-fast export wrote; expected a run or a checkpoint folder"),
        (lambda run: edit_tensors(step(run), "model", lambda t: t["classifier.labels.bias"].fill_(float("nan"))),
         "--init .*model.safetensors: classifier.labels.bias holds nan, expected finite numbers"),
        (lambda run: edit_tensors(step(run), "ema", lambda t: t["generator.norm.running_var"].fill_(-1)),
         "--init .*ema.safetensors: generator.norm.running_var holds -1"),
        (lambda run: edit_tensors(step(run), "ema", lambda t: t.pop("classifier.labels.bias")),
         "--init .*ema.safetensors: classifier.labels.bias is missing"),
        (lambda run: (step(run) / "model.safetensors").write_bytes(b"half"), "--init .*model.safetensors: damaged"),
        (lambda run: (step(run) / "state.json").write_bytes(b"{}"), "--init .*state.json: damaged"),
    ],
    ids=["gone", "no run", "export", "nan", "variance", "missing tensor", "damaged weights", "damaged state"],
)  # fmt: skip
def test_what_cannot_be_started_from_is_one_line(
    tiny: dict[str, Any], old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], Any],
    message: str,
) -> None:  # fmt: skip
    copied = Path(shutil.copytree(old, tmp_path / "copied"))
    spoil(copied)
    refused(lambda: beginning(tiny, tmp_path / "new", copied), message, monkeypatch)
    assert not (tmp_path / "new").exists()


def step(run: Path) -> Path:
    return run / "checkpoints" / "step-00000003"


def test_optimisers_that_are_damaged_do_not_matter(
    tiny: dict[str, Any], old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = Path(shutil.copytree(old, tmp_path / "copied"))
    (step(copied) / "optimizer_g.safetensors").unlink()
    at_start(beginning(tiny, tmp_path / "new", copied), monkeypatch)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_does_not_start_from_itself(tiny: dict[str, Any], old: Path, resume: bool) -> None:
    before = run_files(old)
    with pytest.raises(InputError, match=r"--init .*: is also the folder of --run; leave out --init and give --resume"):
        train(beginning(tiny, old.parent / "x" / ".." / "run", old, resume=resume))
    assert run_files(old) == before
