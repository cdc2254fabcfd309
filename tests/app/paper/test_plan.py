"""The plan of the paper's experiment: which trainings, how long, and what an existing folder decides."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from igan_fast.app.paper import plan
from igan_fast.app.paper.plan import OURS, PaperOptions, make_plan, planned_runs, seconds_per_iteration
from igan_fast.baselines.config import BaselineConfig
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


def options_of(folder: Path, **more: Any) -> PaperOptions:
    return PaperOptions(out=folder, minutes=2.0, **more)


def test_each_network_gets_as_many_iterations_as_fill_its_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"train": [0.5, 0.3], "dcgan": [0.1], "cgan": [0.2], "acgan": [0.25], "stargan": [3.0], "cyclegan": [500]}
    asked: list[str] = []

    def measured(config: Any, store: object, *, quick: bool) -> list[float]:
        name = config.method if isinstance(config, BaselineConfig) else config.COMMAND
        asked.append(name)
        return [float(value) for value in speeds[name]]

    monkeypatch.setattr(plan, "seconds_per_iteration", measured)
    stores: Any = lambda config: None  # noqa: E731
    runs, seconds = make_plan(options_of(tmp_path), stores, NAMES, lambda line: None)
    assert asked == list(speeds)  # each once
    assert {name: run.config.iterations for name, run in runs.items()} == {
        "iterative-gan": 300, "iterative-gan-pixel": 300, "iterative-gan-latent": 300,
        "iterative-gan-latent-pixel": 300,
        "dcgan": 1200, "cgan": 600, "acgan": 480, "stargan": 40,
        "cyclegan-Bangs": 1, "cyclegan-Eyeglasses": 1, "cyclegan-Bald": 1,
    }  # fmt: skip
    assert {run.config.run for run in runs.values()} == {tmp_path / "runs" / name for name in runs}
    assert seconds["stargan"] == [3.0]

    monkeypatch.setattr(plan, "seconds_per_iteration", lambda *arguments, **more: pytest.fail("it is known"))
    again, _ = make_plan(options_of(tmp_path), stores, NAMES, lambda line: None)
    assert again == runs


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
    changed: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "seconds_per_iteration", lambda *arguments, **more: [1.0])
    stores: Any = lambda config: None  # noqa: E731
    make_plan(options_of(tmp_path), stores, NAMES, lambda line: None)
    with pytest.raises(InputError, match=message):
        make_plan(options_of(tmp_path, **changed), stores, NAMES, lambda line: None)


@pytest.mark.parametrize("content", ["{", "[]", '{"options": {}}', '{"options": {}, "seconds_per_iteration": 3}'])
def test_a_damaged_plan_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(content)
    stores: Any = lambda config: None  # noqa: E731
    with pytest.raises(InputError, match=r"plan\.json"):
        make_plan(options_of(tmp_path), stores, NAMES, lambda line: None)


def test_an_iteration_is_measured_over_whole_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that each iteration advances: every fifth takes 11 seconds, the others one."""
    now, count = 0.0, 0

    class Fake:
        period = 5

        def __init__(self, *arguments: object) -> None: ...

        def iterate(self) -> None:
            nonlocal now, count
            count += 1
            now += 11.0 if count % 5 == 0 else 1.0

    monkeypatch.setattr(plan.time, "perf_counter", lambda: now)
    monkeypatch.setattr(plan, "WARM_UP", 5)
    monkeypatch.setattr(plan, "MEASURE_SECONDS", 40.0)
    monkeypatch.setattr(TrainConfig, "method_class", lambda self: Fake)
    store: Any = SimpleNamespace()
    assert seconds_per_iteration(TrainConfig(device="cpu"), store) == [3.0, 3.0, 3.0]  # 45 seconds
    assert count == 20


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_are_checked(minutes: float) -> None:
    with pytest.raises(InputError, match="--minutes: found"):
        PaperOptions(out=Path("out"), minutes=minutes).check()
