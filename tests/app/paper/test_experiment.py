"""The whole experiment, with tiny networks on drawn faces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from igan_fast.app.cli import main
from igan_fast.app.paper import experiment
from igan_fast.app.paper.experiment import run_paper
from igan_fast.app.paper.plan import PaperOptions
from igan_fast.errors import InputError
from igan_fast.train.diverged import TrainingDiverged

pytestmark = pytest.mark.slow

RUNS = 11


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PaperOptions, list[str]]]:
    folder = tmp_path_factory.mktemp("paper")
    options = PaperOptions(out=folder / "out", cache=folder / "cache", quick=True, device="cpu", threads=1)
    lines: list[str] = []
    # One method fails, as a training may.
    train = experiment.train
    with pytest.MonkeyPatch.context() as patch:

        def failing(config: Any) -> Any:
            if getattr(config, "method", "") == "cgan":
                raise TrainingDiverged(3, {"g_adversarial": float("nan")})
            return train(config)

        patch.setattr(experiment, "train", failing)
        run_paper(options, report=lines.append)
    return options, lines


def test_the_page_has_every_figure_and_table(made: tuple[PaperOptions, list[str]]) -> None:
    folder = made[0].out
    numbers = json.loads((folder / "paper.json").read_text())
    expected = ["figure-4", "table-3", "figure-5", "figure-6", "figure-7", "figure-8", "figure-9a", "figure-9b"]
    assert [key for key in numbers if key.startswith(("figure", "table")) and key != "figure-4-svm"] == [
        *expected, "table-1", "table-2",
    ]  # fmt: skip
    page = (folder / "paper.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert set(links) >= {f"{key}.png" for key in expected}
    for link in links:
        with Image.open(folder / link) as picture:
            assert min(picture.size) >= 32
    methods = [row["name"] for row in numbers["experiment"]["methods"]]
    assert len(methods) == RUNS
    assert methods[0] == "iterative GAN"
    assert {row["iterations"] for row in numbers["experiment"]["methods"] if row["name"] != "CGAN"} == {4}


def test_the_work_is_told_as_it_goes_on(made: tuple[PaperOptions, list[str]]) -> None:
    lines = made[1]
    assert [line.split(":")[0] for line in lines if ": training to iteration 4" in line][:2] == [
        "iterative-gan", "iterative-gan-pixel",
    ]  # fmt: skip
    assert [line for line in lines if line.startswith("making ")] == [
        "making Figure 4 and Table 3: recognition", "making Figure 5: which losses",
        "making Figures 6 to 8: edits and faces of the iterative GAN", "making Figure 9: beside other methods",
        "making Tables 1 and 2: time",
    ]  # fmt: skip


def test_a_training_that_diverged_is_named_and_the_others_are_compared(made: tuple[PaperOptions, list[str]]) -> None:
    options, lines = made
    assert any(line.startswith("cgan: ") and "g_adversarial" in line for line in lines)
    numbers = json.loads((options.out / "paper.json").read_text())
    assert "g_adversarial" in numbers["run-cgan"]["missing"]
    assert "**Missing:**" in (options.out / "paper.md").read_text()
    compared = [row["method"] for row in numbers["figure-9b"]["methods"]]
    assert "AC-GAN" in compared
    assert "CGAN" not in compared
    assert "iterative GAN" in compared


def test_a_second_call_trains_what_is_missing_and_nothing_else(made: tuple[PaperOptions, list[str]]) -> None:
    options = made[0]
    before = {path: path.stat().st_mtime_ns for path in options.out.glob("runs/*/checkpoints/*/manifest.json")}
    old = json.loads((options.out / "paper.json").read_text())
    run_paper(options, report=lambda line: None)
    after = {path: path.stat().st_mtime_ns for path in options.out.glob("runs/*/checkpoints/*/manifest.json")}
    assert len(after) == RUNS
    assert before.items() <= after.items()
    new = json.loads((options.out / "paper.json").read_text())
    assert "run-cgan" not in new
    same = ["figure-4", "table-3", "figure-5", "figure-6", "figure-7", "figure-8", "figure-9a"]
    assert [key for key in same if new[key] != old[key]] == []


def test_an_interrupted_training_ends_the_command_like_ctrl_c(
    made: tuple[PaperOptions, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        interrupted = True

    monkeypatch.setattr(experiment, "train", lambda config: Interrupted())
    options = ["--quick", "--out", str(tmp_path / "out"), "--cache", str(made[0].cache), "--device=cpu", "--threads=1"]
    assert main(["paper", *options]) == 130


def test_wrong_options_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="--minutes: found 0"):
        run_paper(PaperOptions(out=out, minutes=0))
    with pytest.raises(InputError, match="nowhere"):
        run_paper(PaperOptions(out=out, embedder="nowhere:embed"))
    assert not out.exists()
