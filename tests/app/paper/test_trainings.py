"""What is checked before the trainings of the experiment, and what is said of each one, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from igan_fast.app.paper import experiment
from igan_fast.app.paper.experiment import run_paper
from igan_fast.app.paper.plan import PaperOptions, PlannedRun
from igan_fast.baselines.config import BaselineConfig
from igan_fast.errors import InputError
from igan_fast.train.diverged import TrainingDiverged
from igan_fast.train.run import locked


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threads": 0}, "--threads: found 0, expected from 1"),
        ({"image_size": 50}, "--image-size: found 50, expected a multiple of 16"),
        ({"width": 0}, "--width: found 0, expected at least 1"),
        ({"seed": -1}, "--seed: found -1"),
        ({"split": "paper"}, "--split paper: the built-in faces have one division only"),
    ],
)
def test_wrong_options_leave_no_folder(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run_paper(PaperOptions(out=tmp_path / "out", device="cpu", **changed))
    assert not (tmp_path / "out").exists()


def test_other_options_are_refused_before_the_images_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "open_data", lambda config: pytest.fail("decoded"))
    saved = PaperOptions(out=tmp_path).saved()
    (tmp_path / "plan.json").write_text(json.dumps({"options": saved, "seconds_per_iteration": {}}))
    with pytest.raises(InputError, match=r"--seed: found 1, but .* was made with 0"):
        run_paper(PaperOptions(out=tmp_path, device="cpu", seed=1))


def test_a_folder_in_use_is_named_by_its_option(tmp_path: Path) -> None:
    message = f"^--out {tmp_path}: another process is training there"
    with locked(tmp_path), pytest.raises(InputError, match=message):
        run_paper(PaperOptions(out=tmp_path, device="cpu", quick=True))


def test_data_without_photos_for_validation_is_refused_before_any_training(tmp_path: Path) -> None:
    """Two photos are too few for a split."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photos / f"{name}.png")
    (photos / "list_attr_celeba.csv").write_text("image_id,Bald,Male\na.png,1,-1\nb.png,-1,1\n")
    options = PaperOptions(out=tmp_path / "out", cache=tmp_path / "cache", data=str(photos), device="cpu", quick=True)
    with (
        pytest.warns(UserWarning, match="no photos for validation"),
        pytest.raises(InputError, match=r"--data .*photos: found no photos for validation, expected some"),
    ):
        run_paper(options)
    assert not (tmp_path / "out" / "plan.json").exists()


def trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, minutes: float = 8.0, quick: bool = False, fails: bool = False
) -> tuple[Any, list[str]]:
    """The training of CGAN in a fake run, whose log says that its iterations took so many minutes."""
    run = folder / "cgan"
    run.mkdir()
    lines = [
        {"kind": "start", "iteration": 0},
        {"kind": "losses", "iteration": 10, "seconds": minutes * 20},
        {"kind": "losses", "iteration": 20, "seconds": minutes * 40},
        {"kind": "checkpoint", "iteration": 20},
    ]
    if minutes:
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def fake(config: Any) -> Any:
        if fails:
            raise TrainingDiverged(3, {"g_adversarial": float("nan")})
        return SimpleNamespace(interrupted=False)

    monkeypatch.setattr(experiment, "train", fake)
    checkpoint = SimpleNamespace(folder=run / "checkpoints" / "step-00000020", iteration=20)
    monkeypatch.setattr(experiment, "newest_checkpoint", lambda folder, report: checkpoint)
    config = BaselineConfig(method="cgan", iterations=20, run=run)
    said: list[str] = []
    options = PaperOptions(out=folder, minutes=8.0, quick=quick)
    return experiment._trained(PlannedRun("cgan", config, "CGAN", "cgan"), options, said.append), said


@pytest.mark.parametrize("minutes", [7.21, 8.0, 8.79])
def test_a_training_that_fills_its_minutes_needs_no_word(
    minutes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = trained(tmp_path, monkeypatch, minutes=minutes)
    assert said == ["cgan: training to iteration 20"]
    assert (found.minutes, found.iteration, found.failed) == (pytest.approx(minutes), 20, "")


@pytest.mark.parametrize("minutes", [5.8, 7.19, 8.81, 20.1])
def test_a_training_of_other_minutes_is_named(minutes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, said = trained(tmp_path, monkeypatch, minutes=minutes)
    assert said[1].startswith(f"cgan: took {minutes:.3g} minutes, not 8: ")
    assert len(said) == 2


@pytest.mark.parametrize("more", [{"quick": True}, {"fails": True}, {"minutes": 0.0}])
def test_the_minutes_of_quick_failed_and_unlogged_trainings_say_nothing(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = trained(tmp_path, monkeypatch, **{"minutes": 1.0, **more})
    assert not any("took" in line for line in said)
    assert found.minutes == (pytest.approx(1) if more.get("minutes", 1) else None)
    assert (found.checkpoint is None) == bool(more.get("fails"))
