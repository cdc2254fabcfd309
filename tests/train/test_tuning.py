"""``--tune``: what it asks for, and a run that keeps its choices and goes on with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit_state
from measuring import FirstIs, give_choices, offer_exact

from igan_fast.app.cli import main
from igan_fast.checkpoint import load_model
from igan_fast.errors import InputError
from igan_fast.ops import tuning
from igan_fast.ops.convolution import asked_for, asking_for, choice, triton
from igan_fast.train import TrainConfig, train
from igan_fast.train.tuning import mode_of


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    offer_exact(monkeypatch)


@pytest.mark.parametrize(
    ("tune", "variable", "mode"),
    [
        (None, "auto", "auto"),
        (None, "measure", "measure"),
        (None, "blocks", "blocks"),
        ("off", "auto", "auto"),
        ("off", "triton", "triton"),
        ("off", "blocks", "blocks"),
        ("measure", "auto", "measure"),
        ("measure", "measure", "measure"),
    ],
)
def test_what_the_option_and_the_variable_ask_for(tune: Any, variable: str, mode: str) -> None:
    with asking_for(variable):
        config = TrainConfig(tune=tune)
        config.validate()
        assert mode_of(config) == mode
        assert config.tune == tune  # the variable is none of the run's options


@pytest.mark.parametrize(("tune", "variable"), [("off", "measure"), ("measure", "triton"), ("measure", "blocks")])
def test_contradictions_are_refused(tune: Any, variable: str) -> None:
    message = f"^--tune {tune} and the variable IGAN_FAST_CONVOLUTION={variable} contradict: leave one of them out$"
    with asking_for(variable), pytest.raises(InputError, match=message):
        TrainConfig(tune=tune).validate()


def test_a_contradiction_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with asking_for("measure"):
        assert main(["train", "--tune", "off"]) == 2
    begin, variable = "igan-fast: error: --tune off and the variable", "IGAN_FAST_CONVOLUTION=measure"
    assert capsys.readouterr().err == f"{begin} {variable} contradict: leave one of them out\n"


def test_other_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^--tune: found on, expected one of off, measure$"):
        TrainConfig(tune="on").validate()  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^--tune measure and --impl reference contradict"):
        TrainConfig(tune="measure", impl="reference").validate()
    TrainConfig(tune="off", impl="reference").validate()
    monkeypatch.setattr(triton, "_CHOICE", "cudnn")
    with pytest.raises(InputError, match="IGAN_FAST_CONVOLUTION is 'cudnn'; expected one of"):
        TrainConfig().validate()


def state_of(run: Path, iteration: int) -> dict[str, Any]:
    path = run / "checkpoints" / f"step-{iteration:08d}" / "state.json"
    found: dict[str, Any] = json.loads(path.read_text())["state"]
    return found


def go_on(run: Path, **changes: Any) -> None:
    train(dataclasses.replace(TrainConfig.load(run), iterations=4, resume=True, **changes))


@pytest.fixture
def options(tiny: dict[str, Any]) -> dict[str, Any]:
    return tiny | {"tune": "measure", "checkpoint_every": 2, "iterations": 2}


def test_a_run_keeps_its_choices_and_goes_on_with_them_on_another_machine(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timer = FirstIs(faster=True)
    give_choices(monkeypatch, timer)
    train(TrainConfig(**options | {"run": tmp_path / "whole", "iterations": 4}))
    train(TrainConfig(**options | {"run": tmp_path / "run"}))
    assert "convolutions chosen by measurement" in capsys.readouterr().out
    ((device, choices),) = state_of(tmp_path / "run", 2)["tuning"].items()
    assert device == "H100"
    assert set(choices.values()) == {"triton"}
    assert timer.turns == 2 * len(choices)  # the second run found all of them on disk, and keeps them too
    assert asked_for() == "auto"  # and then nothing of it is left in this process
    assert tuning.taken() == {}
    assert choice._kept.cache_info().currsize == 0

    monkeypatch.setenv("IGAN_FAST_CACHE", str(tmp_path / "of another machine"))
    slower = FirstIs(faster=False)
    give_choices(monkeypatch, slower)
    go_on(tmp_path / "run")
    assert slower.turns == 0
    assert "anew" not in capsys.readouterr().out
    assert state_of(tmp_path / "run", 4)["tuning"] == {"H100": choices}
    assert TrainConfig.load(tmp_path / "run").tune == "measure"
    ours, whole = (load_model(tmp_path / name, weights="model").model.state_dict() for name in ("run", "whole"))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_on_another_kind_of_device_it_measures_anew(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_choices(monkeypatch, FirstIs(faster=True))
    train(TrainConfig(**options | {"run": tmp_path}))
    saved = state_of(tmp_path, 2)["tuning"]
    capsys.readouterr()
    timer = FirstIs(faster=False)
    give_choices(monkeypatch, timer, "A100")
    go_on(tmp_path)
    told = capsys.readouterr().out
    assert "its convolutions were chosen on H100; on this A100 they are measured anew\n" in told
    found = state_of(tmp_path, 4)["tuning"]
    assert found["H100"] == saved["H100"]  # for when it goes on there
    assert set(found["A100"].values()) == {"other"}
    assert timer.turns == 2 * len(found["A100"])


def test_without_choices_a_checkpoint_loads_as_before(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of an older version, or of a run that did not measure."""
    timer = FirstIs(faster=True)
    give_choices(monkeypatch, timer)
    train(TrainConfig(**options | {"run": tmp_path, "tune": "off"}))
    assert timer.turns == 0
    assert "tuning" not in state_of(tmp_path, 2)
    edit_state(tmp_path / "checkpoints" / "step-00000002", lambda state: state["config"].pop("tune"))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tune"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert TrainConfig.load(tmp_path).tune is None
    capsys.readouterr()
    go_on(tmp_path, tune="measure")
    assert timer.turns > 0
    assert "tuning" in state_of(tmp_path, 4)
    assert "anew" not in capsys.readouterr().out


def test_choices_stay_in_a_run_that_goes_on_without_measuring(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timer = FirstIs(faster=True)
    with monkeypatch.context() as patch:
        give_choices(patch, timer)
        train(TrainConfig(**options | {"run": tmp_path}))
    turns, saved = timer.turns, state_of(tmp_path, 2)["tuning"]
    capsys.readouterr()
    go_on(tmp_path)  # on a CPU
    assert "--tune measure: on a CPU there is nothing to choose from\n" in capsys.readouterr().out
    assert state_of(tmp_path, 4)["tuning"] == saved
    give_choices(monkeypatch, timer)
    train(dataclasses.replace(TrainConfig.load(tmp_path), iterations=5, resume=True, tune="off"))
    assert state_of(tmp_path, 5)["tuning"] == saved
    assert timer.turns == turns


@pytest.mark.parametrize("damaged", [[], {"H100": []}, {"H100": {"key": 1}}])
def test_damaged_choices_are_found(
    options: dict[str, Any], tmp_path: Path, damaged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    train(TrainConfig(**options | {"run": tmp_path, "tune": None}))
    edit_state(tmp_path / "checkpoints" / "step-00000002", lambda state: state.update(tuning=damaged))
    with pytest.raises(InputError, match="tuning"):
        go_on(tmp_path)
