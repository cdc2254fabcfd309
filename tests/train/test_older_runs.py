"""Runs that an older version started, without the options that were added since: they load and go on as they were."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit_state

from igan_fast import FaceEditor
from igan_fast.checkpoint import load_model
from igan_fast.errors import InputError
from igan_fast.train import TrainConfig, train

#: What the additions are in a run of an older version.
OFF: dict[str, Any] = {
    "align": "off", "init": None,
    "film": False, "edited_share": 0.0, "label_weight_fake": 40.0, "flip_weight": 1.0, "r1": 0.0,
    "latent_lr_scale": 0.0, "lambdas": (5.0, 2.0, 20.0),
}  # fmt: skip
ADDED = (
    "align", "init", "film", "edited_share", "label_weight_fake", "flip_weight", "r1", "r1_every", "latent_lr_scale",
)  # fmt: skip


def without_additions(values: dict[str, Any]) -> None:
    for name in ADDED:
        del values[name]


@pytest.fixture
def older(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """A run of three iterations, as an older version would have left it."""
    run = tmp_path / "older"
    train(TrainConfig(**tiny | OFF | {"run": run, "iterations": 3}))
    config = json.loads((run / "config.json").read_text())
    without_additions(config)
    (run / "config.json").write_text(json.dumps(config))

    def edit(state: dict[str, Any]) -> None:
        without_additions(state["config"])
        del state["model"]["arguments"]["film"]

    checkpoint = run / "checkpoints" / "step-00000003"
    edit_state(checkpoint, edit)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["format"] = 1
    del manifest["files"]["labels.safetensors"]
    (checkpoint / "labels.safetensors").unlink()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    return run


def test_it_goes_on_exactly_and_says_without_what(
    older: Path, tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole"
    train(TrainConfig(**tiny | OFF | {"run": whole, "iterations": 5}))
    capsys.readouterr()
    train(dataclasses.replace(TrainConfig.load(older), iterations=5, resume=True))
    told = capsys.readouterr().out
    assert "an older version started this run: it goes on without --film, --edited-share" in told
    assert "--latent-lr-scale, --label-weight-fake\n" in told
    ours, theirs = (load_model(run, weights="model").model.state_dict() for run in (older, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    train(dataclasses.replace(TrainConfig.load(older), iterations=6, resume=True))  # the new checkpoint has them all
    assert "an older version" not in capsys.readouterr().out


def test_its_config_has_the_values_that_it_ran_with(older: Path) -> None:
    config = TrainConfig.load(older)
    assert {name: getattr(config, name) for name in (*ADDED, "lambdas")} == {**OFF, "r1_every": 16}
    assert not config.step_config().goes_beyond
    assert config.label_weight_fake == config.label_weight_d == 40.0


def test_an_addition_cannot_be_switched_on_later(older: Path) -> None:
    config = dataclasses.replace(TrainConfig.load(older), iterations=5, resume=True, r1=0.1)
    with pytest.raises(InputError, match=r"--r1 is 0\.1, but this run was started with 0\.0"):
        train(config)


def test_it_is_used_as_before(older: Path) -> None:
    loaded = load_model(older)
    assert loaded.model.arguments()["film"] is False
    assert loaded.companions is not None  # from its rows of labels
    editor = FaceEditor.load(older, device="cpu")
    assert len(editor.generate(2)) == 2
