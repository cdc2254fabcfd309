"""Which checkpoint a path means: the best, else the newest that is whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import flip_byte, silent, small

from igan_fast.checkpoint import CheckpointError, find_checkpoint, load_checkpoint
from igan_fast.checkpoint.find import newest_checkpoint
from igan_fast.errors import InputError
from igan_fast.train.retention import mark_best
from igan_fast.train.save import save_checkpoint


def damage_flip(folder: Path) -> None:
    flip_byte(folder / "model.safetensors", -3)


def damage_cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)


def damage_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def damage_empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"")


def damage_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def damage_manifest_of_another_kind(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": [1, 2]}')


def damage_manifest_list(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


def damage_bad_state(folder: Path) -> None:
    (folder / "state.json").write_text("{")


def damage_path_in_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("model.safetensors", "../x.safetensors"))


def damage_a_folder_in_its_place(folder: Path) -> None:
    (folder / "state.json").unlink()
    (folder / "state.json").mkdir()


DAMAGES = [
    (damage_flip, "model.safetensors: damaged"),
    (damage_cut, "model.safetensors: damaged"),
    (damage_missing, "model.safetensors: missing"),
    (damage_empty_manifest, "manifest.json: damaged: not JSON"),
    (damage_no_manifest, "manifest.json: missing"),
    (damage_manifest_of_another_kind, "manifest.json: damaged"),
    (damage_manifest_list, "manifest.json: damaged"),
    (damage_bad_state, "state.json: damaged"),
    (damage_path_in_manifest, "manifest.json: damaged"),
    (damage_a_folder_in_its_place, "state.json: found a folder, expected a file"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES, ids=lambda item: getattr(item, "__name__", ""))
def test_a_damaged_newest_is_reported_in_one_line_and_the_one_before_taken(
    tmp_path: Path, damage: object, expected: str
) -> None:
    assert callable(damage)
    for iteration in (1, 2, 3):
        save_checkpoint(tmp_path, iteration, small(iteration), {"i": iteration})
    damage(tmp_path / "checkpoints" / "step-00000003")
    reports: list[str] = []
    newest = newest_checkpoint(tmp_path, reports.append)
    assert newest is not None
    assert (newest.iteration, newest.state) == (2, {"i": 2})
    assert torch.equal(newest.tensors["model"]["weight"], torch.full((3, 5), 2.0))
    assert len(reports) == 1
    assert "\n" not in reports[0]
    assert f"step-00000003/{expected}" in reports[0]
    assert find_checkpoint(tmp_path, reports.append).folder.name == "step-00000002"
    with pytest.raises(CheckpointError, match="step-00000003"):
        load_checkpoint(tmp_path / "checkpoints" / "step-00000003")


def test_all_damaged_is_an_error_and_none_at_all_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent", silent) is None
    for iteration in (1, 2):
        damage_flip(save_checkpoint(tmp_path, iteration, small(1.0), {}))
    reports: list[str] = []
    with pytest.raises(CheckpointError, match=r"none of its 2 checkpoints can be used; the first: .*step-00000002"):
        newest_checkpoint(tmp_path, reports.append)
    assert reports == []  # one message says it all


def test_iterations_past_eight_digits_sort_as_numbers(tmp_path: Path) -> None:
    for iteration in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, iteration, small(1.0), {})
    newest = newest_checkpoint(tmp_path, silent)
    assert newest is not None
    assert newest.iteration == 100_000_000


def test_a_best_whose_checkpoint_is_gone_counts_as_none(tmp_path: Path) -> None:
    for iteration in (1, 2):
        save_checkpoint(tmp_path, iteration, small(iteration), {})
    mark_best(tmp_path, 1, 0.5)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000001")
    reports: list[str] = []
    assert find_checkpoint(tmp_path, reports.append).folder.name == "step-00000002"
    assert len(reports) == 1
    assert "iteration 1" in reports[0]


def test_find_checkpoint_says_what_is_wrong_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected a run or a checkpoint folder"):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="no checkpoint yet"):
        find_checkpoint(tmp_path)
    folder = save_checkpoint(tmp_path, 1, small(1.0), {})
    copied = shutil.copytree(folder, tmp_path / "my favourite")
    assert find_checkpoint(copied).folder == copied
    damage_cut(copied)
    with pytest.raises(CheckpointError, match="my favourite"):
        find_checkpoint(copied)
