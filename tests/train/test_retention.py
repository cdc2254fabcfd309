"""What is deleted and what never is: checkpoints passed over, of a newer version, or unreadable for the moment."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit_state, flip_byte, run_files, silent, small, step_names

from igan_fast import FaceEditor, files
from igan_fast.checkpoint import find_checkpoint, load_checkpoint, load_model
from igan_fast.checkpoint.find import best_checkpoint, newest_checkpoint
from igan_fast.checkpoint.folder import FORMAT, NewerFormat
from igan_fast.errors import InputError
from igan_fast.files import FileUnreadable, temporary_path
from igan_fast.train import TrainConfig, train
from igan_fast.train.retention import mark_best, prune_checkpoints, restore_best, set_aside_newer
from igan_fast.train.save import save_checkpoint


def saved(run: Path, *iterations: int, **state: Any) -> list[Path]:
    return [
        save_checkpoint(run, i, {"model": {"w": torch.full((5,), float(i))}}, {"i": i, **state}) for i in iterations
    ]


def make_newer(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def unreadable(monkeypatch: pytest.MonkeyPatch, which: Callable[[Path], bool], number: int = errno.EACCES) -> None:
    real = os.open

    def refused(path: Any, *more: Any, **options: Any) -> int:
        if isinstance(path, Path) and which(path):
            raise OSError(number, os.strerror(number))
        return real(path, *more, **options)

    monkeypatch.setattr(files.os, "open", refused)


@pytest.fixture(scope="module")
def trained(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of the iterations 1, 2 and 3."""
    run = tmp_path_factory.mktemp("trained") / "run"
    train(TrainConfig(**tiny | {"run": run, "iterations": 3, "checkpoint_every": 1, "sample_every": 9}))
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def go_on(run: Path, **changes: Any) -> Any:
    return train(dataclasses.replace(TrainConfig.load(run), iterations=4, resume=True, **changes))


def test_a_newer_format_stops_with_its_name_and_nothing_is_deleted(run: Path) -> None:
    newest = run / "checkpoints" / "step-00000003"
    make_newer(newest)
    before = run_files(run)
    actions: list[Callable[[], Any]] = [
        lambda: go_on(run),
        lambda: newest_checkpoint(run, silent),
        lambda: load_checkpoint(newest),
        lambda: FaceEditor.load(newest),
    ]
    (run / "checkpoints" / "best.json").unlink()
    actions.append(lambda: FaceEditor.load(run))
    before.pop("checkpoints/best.json")
    for action in actions:
        with pytest.raises(
            NewerFormat, match=rf"step-00000003/manifest\.json: format {FORMAT + 1}, written by igan_fast .*update"
        ):
            action()
        assert run_files(run) == before


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "model.safetensors", "optimizer_g.safetensors"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_cannot_be_read_now_stops_with_its_name_and_nothing_is_deleted(
    run: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    before = run_files(run)
    unreadable(monkeypatch, lambda path: path.parent.name == "step-00000003" and path.name == name, number)
    for action in (lambda: go_on(run), lambda: newest_checkpoint(run, silent)):
        with pytest.raises(FileUnreadable, match=rf"step-00000003/{name}: cannot be read \({os.strerror(number)}\)"):
            action()
    if name != "optimizer_g.safetensors":
        with pytest.raises(FileUnreadable, match=name):
            load_model(run / "checkpoints" / "step-00000003")
    monkeypatch.undo()
    assert run_files(run) == before
    assert go_on(run).iteration == 4


def test_a_list_of_checkpoints_that_cannot_be_read_is_not_taken_for_none(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_files(run)
    real = Path.iterdir

    def refused(self: Path) -> Any:
        if self.name == "checkpoints":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    for resume in (True, False):
        with pytest.raises(InputError, match="checkpoints: cannot be read"):
            train(dataclasses.replace(TrainConfig.load(run), iterations=4, resume=resume))
    monkeypatch.undo()
    assert run_files(run) == before


def test_a_path_that_may_not_be_looked_at_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", refused)
        for action in (lambda: find_checkpoint(run, silent), lambda: go_on(run)):
            with pytest.raises(InputError, match="cannot be read"):
                action()


def test_what_was_passed_over_is_kept_under_another_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for iteration in (2, 3):
        flip(run / "checkpoints" / f"step-{iteration:08d}" / "model.safetensors")
    before = run_files(run)
    go_on(run, keep=1)
    told = capsys.readouterr().out
    for iteration in (2, 3):
        folder = f"checkpoints/step-{iteration:08d}"
        assert f"{folder}/model.safetensors: damaged" in told
        assert f"{folder}: kept as passed-over-step-{iteration:08d}" in told
        kept = {name: data for name, data in run_files(run).items() if f"passed-over-step-{iteration:08d}/" in name}
        assert kept == {
            name.replace("step-", "passed-over-step-"): data for name, data in before.items() if folder in name
        }
    assert "continuing" in told
    newest = newest_checkpoint(run, silent)
    assert newest is not None
    assert newest.iteration == 4


def test_set_aside_takes_a_number_where_the_name_is_taken(tmp_path: Path) -> None:
    (whole,) = saved(tmp_path, 1)
    for _ in range(3):
        flip(saved(tmp_path, 2)[0] / "model.safetensors")
        set_aside_newer(tmp_path, whole, report=lambda line: None)
    aside = [f"passed-over-step-00000002{end}" for end in ("", "-2", "-3")]
    assert step_names(tmp_path) == [*aside, "step-00000001"]


def test_a_whole_one_that_waits_as_replaced_outlives_the_damaged_one_in_its_place(tmp_path: Path) -> None:
    (folder,) = saved(tmp_path, 2)
    shutil.copytree(folder, folder.with_name("step-00000002.replaced"))
    flip(folder / "model.safetensors")
    newest = newest_checkpoint(tmp_path, lambda line: None)
    assert newest is not None
    assert newest.folder.name == "step-00000002.replaced"
    set_aside_newer(tmp_path, newest.folder, report=lambda line: None)
    saved(tmp_path, 3)
    prune_checkpoints(tmp_path, 2)
    assert step_names(tmp_path) == ["passed-over-step-00000002", "step-00000002.replaced", "step-00000003"]


def test_saving_over_a_damaged_one_keeps_it(tmp_path: Path) -> None:
    folders = saved(tmp_path, 1, 2, 3)
    for folder in folders[1:]:
        flip(folder / "model.safetensors")
    saved(tmp_path, 2)
    assert [name.replace(".replaced", "") for name in step_names(tmp_path)] == [
        "passed-over-step-00000002", "passed-over-step-00000003", "step-00000001", "step-00000002",
    ]  # fmt: skip


def test_pruning_leaves_a_newer_format_and_what_is_not_ours(tmp_path: Path) -> None:
    folders = saved(tmp_path, 1, 2, 3, 4)
    make_newer(folders[0])
    (folders[1] / "manifest.json").unlink()
    others = tmp_path / "checkpoints"
    for name in ("tmp-backup", ".tmp-mine", "step-notes", "step-00000003.old"):
        (others / name).mkdir()
    leftovers = [temporary_path(folders[3]), others / "tmp-step-00000009-123", others / "tmp-removed-step-00000009-123"]
    for leftover in leftovers:
        leftover.mkdir()
        (leftover / "model.safetensors").write_text("half")
    (others / "tmp-best.json-77").write_text("{")
    prune_checkpoints(tmp_path, 1, silent)
    assert step_names(tmp_path) == [
        ".tmp-mine", "step-00000001", "step-00000002", "step-00000003.old", "step-00000004", "step-notes", "tmp-backup",
    ]  # fmt: skip


def test_removing_a_link_keeps_what_it_points_to(tmp_path: Path) -> None:
    first, _ = saved(tmp_path, 1, 2)
    elsewhere = tmp_path / "another disk"
    first.rename(elsewhere)
    first.symlink_to(elsewhere)
    prune_checkpoints(tmp_path, 1, silent)
    assert step_names(tmp_path) == ["step-00000002"]
    assert load_checkpoint(elsewhere).iteration == 1


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"iteration": 1}', '{"iteration": 1, "score": NaN}', '{"iteration": 1, "score": 1e999}',
     '{"iteration": 1.5, "score": 1}', '{"iteration": "1", "score": 1}', '{"iteration": -1, "score": 1}',
     '{"iteration": true, "score": 1}', '{"iteration": 1, "iteration": 2, "score": 1}', '{"a":' * 1000, ""],
)  # fmt: skip
def test_a_damaged_mark_of_the_best_removes_nothing(tmp_path: Path, content: str) -> None:
    saved(tmp_path, 1, 2, 3)
    mark_best(tmp_path, 1, 0.5)
    path = tmp_path / "checkpoints" / "best.json"
    path.write_text(content)
    reports: list[str] = []
    assert best_checkpoint(tmp_path, reports.append) is None
    prune_checkpoints(tmp_path, 1, reports.append)
    assert step_names(tmp_path) == ["best.json", "step-00000001", "step-00000002", "step-00000003"]
    assert len(reports) == 2
    for report in reports:
        assert report.startswith(f"{path}: damaged: ")
        assert "\n" not in report
    assert find_checkpoint(tmp_path, lambda line: None).iteration == 3


def test_a_mark_that_cannot_be_read_now_stops(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_files(run)
    unreadable(monkeypatch, lambda path: path.name == "best.json")
    for action in (
        lambda: best_checkpoint(run, silent),
        lambda: prune_checkpoints(run, 1, silent),
        lambda: FaceEditor.load(run),
        lambda: go_on(run),
    ):
        with pytest.raises(FileUnreadable, match=r"best\.json: cannot be read"):
            action()
    monkeypatch.undo()
    assert run_files(run).keys() == before.keys()


def test_a_damaged_mark_is_made_anew_from_the_scores_in_the_checkpoints(tmp_path: Path) -> None:
    for iteration, score in ((1, 0.5), (2, 0.25), (3, 0.75)):
        saved(tmp_path, iteration, metrics={"loss": score})
    mark_best(tmp_path, 2, 0.25)
    path = tmp_path / "checkpoints" / "best.json"
    whole = path.read_bytes()
    restore_best(tmp_path, lambda metrics: metrics["loss"], silent)  # nothing to mend
    for damage in (b"{", b'{"iteration": 9, "score": 0}'):
        path.write_bytes(damage)
        reports: list[str] = []
        restore_best(tmp_path, lambda metrics: metrics["loss"], reports.append)
        assert path.read_bytes() == whole
        assert len(reports) == 1
        assert reports[0].endswith("by the scores in the checkpoints the best is that of iteration 2")
    path.unlink()
    restore_best(tmp_path, lambda metrics: metrics["loss"], silent)
    assert not path.exists()


def test_a_run_with_a_damaged_mark_keeps_its_best(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lower(state: dict[str, Any]) -> None:
        state["metrics"] = {"hamming_loss": 0.0, "rebuild_l1": 0.0}

    edit_state(run / "checkpoints" / "step-00000001", lower)
    (run / "checkpoints" / "best.json").write_text("{")
    go_on(run, keep=1)
    assert step_names(run) == ["best.json", "step-00000001", "step-00000004"]
    assert json.loads((run / "checkpoints" / "best.json").read_text()) == {"iteration": 1, "score": 0.0}
    assert "best.json: damaged" in capsys.readouterr().out


def test_best_is_found_first_kept_and_survives_damage(tmp_path: Path) -> None:
    assert best_checkpoint(tmp_path) is None
    for iteration in range(1, 7):
        save_checkpoint(tmp_path, iteration, small(iteration), {})
    mark_best(tmp_path, 2, 0.125)
    best = best_checkpoint(tmp_path, silent)
    assert best == (tmp_path / "checkpoints" / "step-00000002", 2, 0.125)
    assert find_checkpoint(tmp_path, silent).folder.name == "step-00000002"

    leftover = tmp_path / "checkpoints" / "tmp-step-00000007-99999"
    leftover.mkdir()
    (leftover / "model.safetensors").write_text("half")
    prune_checkpoints(tmp_path, 2)
    assert step_names(tmp_path) == ["best.json", "step-00000002", "step-00000005", "step-00000006"]

    mark_best(tmp_path, 6, 0.1)
    prune_checkpoints(tmp_path, 2)
    assert step_names(tmp_path) == ["best.json", "step-00000005", "step-00000006"]

    flip_byte(tmp_path / "checkpoints" / "step-00000006" / "model.safetensors", -3)
    with pytest.warns(UserWarning, match="step-00000006"):
        assert find_checkpoint(tmp_path).folder.name == "step-00000005"
    reports: list[str] = []
    (tmp_path / "checkpoints" / "best.json").write_text("{}")
    assert best_checkpoint(tmp_path, reports.append) is None
    assert "best.json: damaged" in reports[0]
    with pytest.raises(ValueError, match="no checkpoint of iteration 77"):
        mark_best(tmp_path, 77, 0.0)
    with pytest.raises(ValueError, match="keep is 0"):
        prune_checkpoints(tmp_path, 0)
