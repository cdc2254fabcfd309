"""The plan of the paper's experiment: which trainings, how long, and what an existing folder decides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from igan_fast.app.paper import plan
from igan_fast.app.paper.plan import OURS, PaperOptions, PlannedRun, make_plan, planned_runs
from igan_fast.data.attributes import CELEBA_ATTRIBUTES
from igan_fast.errors import InputError
from igan_fast.train import TrainConfig

NAMES = tuple(CELEBA_ATTRIBUTES)


def test_every_method_of_the_paper_is_trained() -> None:
    runs = planned_runs(PaperOptions(out=Path("out"), data="photos", seed=3), NAMES)
    assert [run.name for run in runs] == [
        "iterative-gan", "iterative-gan-pixel", "iterative-gan-latent", "iterative-gan-latent-pixel", "dcgan", "cgan",
        "acgan", "stargan", "cyclegan-Bangs", "cyclegan-Eyeglasses", "cyclegan-Bald",
    ]  # fmt: skip
    assert {(run.config.data, run.config.image_size, run.config.width, run.config.seed) for run in runs} == {
        ("photos", 64, 32, 3)
    }


def test_the_ablations_differ_in_nothing_but_the_weights_of_the_losses() -> None:
    ours = [run.config for run in planned_runs(PaperOptions(out=Path("out")), NAMES) if run.measured_as == OURS]
    found = [config.lambdas for config in ours if isinstance(config, TrainConfig)]
    assert found == [(10.0, 4.0, 20.0), (0.0, 4.0, 0.0), (0.0, 0.0, 20.0), (0.0, 4.0, 20.0)]
    others = [{name: value for name, value in config.to_json().items() if name != "lambdas"} for config in ours]
    assert others == [others[0]] * 4
    default = TrainConfig(image_size=64, width=32).to_json()
    assert {name for name, value in others[0].items() if value != default[name]} == set()


def test_data_without_the_papers_attributes_has_its_first_ones_edited() -> None:
    runs = planned_runs(PaperOptions(out=Path("out")), ("Red", "Round", "Big", "Old"))
    assert [run.name for run in runs[-3:]] == ["cyclegan-Red", "cyclegan-Round", "cyclegan-Big"]
    runs = planned_runs(PaperOptions(out=Path("out")), ("Red", "Bald"))
    assert [run.config.attributes for run in runs if run.measured_as == "cyclegan"] == [("Bald",)]


SPEEDS = {
    OURS: [0.5, 0.4, 9.0], "dcgan": [0.1], "cgan": [0.2], "acgan": [0.25], "stargan": [3.0, 3.2, 2.0, 2.8],
    "cyclegan": [500.0],
}  # fmt: skip
LENGTHS = {OURS: 267, "dcgan": 1200, "cgan": 600, "acgan": 480, "stargan": 46, "cyclegan": 1}


def options_of(folder: Path, **more: Any) -> PaperOptions:
    return PaperOptions(out=folder, minutes=2.0, **more)


def store_of(names: tuple[str, ...], *constant: str) -> Any:
    """Two training photos whose labels differ, but for some attributes, and one for validation."""
    labels = np.array([[0] * len(names), [int(name not in constant) for name in names], [1] * len(names)], np.uint8)
    return SimpleNamespace(attributes=names, labels=labels, splits={"train": np.array([0, 1]), "val": np.array([2])})


def planned(
    options: PaperOptions, store: Any = None
) -> tuple[dict[str, PlannedRun], dict[str, list[float]], list[str]]:
    lines: list[str] = []
    stores: Any = lambda config: None  # noqa: E731
    return *make_plan(options, stores, store or store_of(NAMES), lines.append), lines


def lengths_of(runs: dict[str, PlannedRun]) -> dict[str, int | None]:
    return {run.measured_as: run.config.iterations for run in runs.values()}


def written(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "plan.json").read_text())
    return content


def begin(folder: Path, runs: dict[str, PlannedRun], name: str, iterations: int) -> None:
    """What the start of a training and its first checkpoint leave in its folder."""
    config = dataclasses.replace(runs[name].config, iterations=iterations, run=folder / "runs" / name)
    (folder / "runs" / name / "checkpoints" / "step-00000001").mkdir(parents=True)
    (folder / "runs" / name / "config.json").write_text(json.dumps(config.to_json()))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Which methods were measured, in each call."""
    calls: list[list[str]] = []

    def measured(configs: dict[str, Any], stores: object, *, seconds: float, **more: Any) -> dict[str, list[float]]:
        assert seconds == (0.0 if more else 15.0)
        calls.append(list(configs))
        return {name: SPEEDS[name] for name in configs}

    monkeypatch.setattr(plan, "iteration_times", measured)
    monkeypatch.setattr(plan, "busy_machine", lambda config: "other programs are busy")
    return calls


def test_each_network_gets_as_many_iterations_as_fill_its_minutes(tmp_path: Path, asked: list[list[str]]) -> None:
    runs, seconds, lines = planned(options_of(tmp_path))
    assert asked == [list(SPEEDS)]
    # By the lower quartiles: 0.45 s and 2.6 s.
    assert {name: run.config.iterations for name, run in runs.items()} == {
        **dict.fromkeys((name for name in runs if name.startswith(OURS)), 267), "dcgan": 1200, "cgan": 600,
        "acgan": 480, "stargan": 46, "cyclegan-Bangs": 1, "cyclegan-Eyeglasses": 1, "cyclegan-Bald": 1,
    }  # fmt: skip
    assert len(runs) == 11
    assert {run.config.run for run in runs.values()} == {tmp_path / "runs" / name for name in runs}
    assert seconds == SPEEDS
    assert "15 seconds each" in lines[0]
    assert lines[1:4] == ["other programs are busy", f"{OURS}: 0.45 seconds", "dcgan: 0.1 seconds"]
    assert lines[-1] == "11 trainings of 2 minutes each"
    assert written(tmp_path)["seconds_per_iteration"] == SPEEDS
    assert written(tmp_path)["iterations"] == LENGTHS


def test_a_second_call_measures_nothing_and_keeps_the_lengths(tmp_path: Path, asked: list[list[str]]) -> None:
    runs, _, _ = planned(options_of(tmp_path))
    content = written(tmp_path)
    content["iterations"]["cgan"] = 599
    (tmp_path / "plan.json").write_text(json.dumps(content))
    again, seconds, lines = planned(options_of(tmp_path))
    assert lengths_of(again) == {**LENGTHS, "cgan": 599}
    assert {**again, "cgan": None} == {**runs, "cgan": None}
    assert (seconds, lines, len(asked)) == (SPEEDS, [], 1)


def test_a_method_that_was_taken_out_is_measured_alone(tmp_path: Path, asked: list[list[str]]) -> None:
    planned(options_of(tmp_path))
    content = written(tmp_path)
    del content["iterations"]["cgan"], content["seconds_per_iteration"]["cgan"]
    content["iterations"]["dcgan"] = 7
    (tmp_path / "plan.json").write_text(json.dumps(content))
    runs, _, _ = planned(options_of(tmp_path))
    assert asked[1:] == [["cgan"]]
    assert lengths_of(runs) == {**LENGTHS, "dcgan": 7}


def test_a_training_that_has_begun_keeps_its_length(tmp_path: Path, asked: list[list[str]]) -> None:
    """Of a folder of an older version, whose plan.json has times only; and where plan.json is gone."""
    runs, _, _ = planned(options_of(tmp_path))
    begin(tmp_path, runs, "cgan", 305)
    begin(tmp_path, runs, "cyclegan-Eyeglasses", 17)
    begin(tmp_path, runs, f"{OURS}-latent", 239)
    content = written(tmp_path)
    del content["iterations"]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    expected = {**LENGTHS, "cgan": 305, "cyclegan": 17, OURS: 239}
    assert lengths_of(planned(options_of(tmp_path))[0]) == expected
    assert len(asked) == 1
    (tmp_path / "plan.json").unlink()
    assert lengths_of(planned(options_of(tmp_path))[0]) == expected
    assert len(asked) == 2
    assert written(tmp_path)["iterations"] == expected


@pytest.mark.parametrize(("name", "there"), [("cgan", 600), (f"{OURS}-pixel", 267)])
def test_a_training_of_another_length_is_named(name: str, there: int, tmp_path: Path, asked: list[list[str]]) -> None:
    runs, _, _ = planned(options_of(tmp_path))
    begin(tmp_path, runs, name, 305)
    before = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(
        InputError, match=rf"runs/{name}: was begun with 305 iterations, but .*plan.json has {there} for"
    ):
        planned(options_of(tmp_path))
    assert (tmp_path / "plan.json").read_bytes() == before


def test_cyclegan_leaves_out_what_all_training_photos_have_alike(tmp_path: Path, asked: list[list[str]]) -> None:
    runs, _, lines = planned(options_of(tmp_path / "a"), store_of(NAMES, "Bald", "Young"))
    assert [name for name in runs if name.startswith("cyclegan")] == ["cyclegan-Bangs", "cyclegan-Eyeglasses"]
    assert lines[0] == "CycleGAN does not learn Bald: all training photos have the same label"
    runs, seconds, _ = planned(options_of(tmp_path / "b"), store_of(("Red", "Old"), "Red", "Old"))
    assert list(runs)[-1] == "stargan"
    assert "cyclegan" not in seconds


def test_a_training_without_a_checkpoint_has_not_begun(tmp_path: Path, asked: list[list[str]]) -> None:
    runs, _, _ = planned(options_of(tmp_path))
    begin(tmp_path, runs, "cgan", 305)
    (tmp_path / "runs" / "cgan" / "checkpoints" / "step-00000001").rmdir()
    assert lengths_of(planned(options_of(tmp_path))[0]) == LENGTHS


def test_quick_trains_four_iterations(tmp_path: Path, asked: list[list[str]]) -> None:
    runs, seconds, lines = planned(options_of(tmp_path, quick=True))
    assert set(lengths_of(runs).values()) == {4}
    assert (seconds, lines) == (SPEEDS, [])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 4}, "--seed: found 4, but .* was made with 0"),
        ({"data": "elsewhere"}, "--data: found elsewhere, but .* was made with drawn"),
        ({"image_size": 128}, "--image-size: found 128, but .* was made with 64"),
        ({"quick": True}, "--quick: found True, but .* was made with False"),
    ],
)
def test_a_folder_of_other_options_is_refused(
    changed: dict[str, Any], message: str, tmp_path: Path, asked: list[list[str]]
) -> None:
    planned(options_of(tmp_path))
    with pytest.raises(InputError, match=message):
        planned(options_of(tmp_path, **changed))


PLAN_JSON = json.dumps({"options": options_of(Path()).saved()})[:-1] + ", %s}"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"options": {}}',
        '{"options": {}, "seconds_per_iteration": 3}',
        PLAN_JSON % '"seconds_per_iteration": {"cgan": []}',
        PLAN_JSON % '"seconds_per_iteration": {"cgan": [0.5, 0]}',
        PLAN_JSON % '"seconds_per_iteration": {"cgan": [0.5, -1]}',
        PLAN_JSON % '"seconds_per_iteration": {}, "iterations": [3]',
        PLAN_JSON % '"seconds_per_iteration": {}, "iterations": {"cgan": 2.5}',
        PLAN_JSON % '"seconds_per_iteration": {}, "iterations": {"cgan": 0}',
    ],
)
def test_a_damaged_plan_is_named(content: str, tmp_path: Path, asked: list[list[str]]) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InputError, match=r"plan\.json: damaged"):
        planned(options_of(tmp_path))
    assert (tmp_path / "plan.json").read_text() == content


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_are_checked(minutes: float) -> None:
    with pytest.raises(InputError, match="--minutes: found"):
        PaperOptions(out=Path("out"), minutes=minutes).check()
