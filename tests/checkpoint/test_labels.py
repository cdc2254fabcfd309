"""What a checkpoint keeps of the training labels, and the companions that a loaded model gets from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import edit_state, edit_tensors, flip_byte, remove_group
from safetensors.torch import load

from igan_fast.checkpoint import CheckpointError, load_model
from igan_fast.checkpoint.labels import counted_labels
from igan_fast.models import IterativeGAN
from igan_fast.train.save import save_checkpoint

NAMES = ["Smiling", "Male", "Bald"]
LABELS = np.array([[0, 1, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1]], np.uint8)
ROWS = ["011", "100", "000"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, attributes=3, latent=5, width=4)
    state = {"model": {"arguments": model.arguments(), "attributes": NAMES, "label_samples": ROWS}}
    tensors = {"model": model.state_dict(), "labels": counted_labels(torch.from_numpy(LABELS))}
    return save_checkpoint(tmp_path / "run", 1, tensors, state)


def test_the_counts_are_in_a_file_of_their_own(folder: Path) -> None:
    found = load((folder / "labels.safetensors").read_bytes())
    assert found.keys() == {"photos", "together"}
    assert (int(found["photos"]), found["photos"].dtype, found["together"].dtype) == (7, torch.int64, torch.int64)
    assert found["together"].tolist() == (LABELS.T.astype(int) @ LABELS).tolist()


def test_companions_are_those_of_all_training_labels(folder: Path) -> None:
    loaded = load_model(folder)
    assert loaded.companions is not None
    np.testing.assert_allclose(loaded.companions.covariance, np.cov(LABELS.T.astype(float), bias=True), atol=1e-12)
    assert loaded.label_samples.dtype == torch.uint8
    assert loaded.label_samples.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


def test_a_checkpoint_without_counts_takes_its_rows_else_none(folder: Path) -> None:
    remove_group(folder, "labels")  # an older version did not save it
    loaded = load_model(folder)
    assert loaded.companions is not None
    rows = np.array([[int(digit) for digit in row] for row in ROWS], float)
    np.testing.assert_allclose(loaded.companions.covariance, np.cov(rows.T, bias=True), atol=1e-12)
    for empty in (lambda state: state["model"].update(label_samples=[]), lambda state: state["model"].popitem()):
        edit_state(folder, empty)
        loaded = load_model(folder)
        assert loaded.companions is None
        assert loaded.label_samples.shape == (0, 3)
    assert "label_samples" not in json.loads((folder / "state.json").read_text())["state"]["model"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.clear(), "photos is missing"),
        (lambda t: t.pop("together"), "together is missing"),
        (lambda t: t.update(more=torch.zeros(1)), "holds more, which is not expected"),
        (lambda t: t.update(photos=torch.tensor([7])), r"photos is int64 \(1,\), expected int64 \(\)"),
        (lambda t: t.update(photos=torch.tensor(7.0)), r"photos is float32 \(\), expected int64 \(\)"),
        (lambda t: t.update(together=torch.eye(2).long()), r"together is int64 \(2, 2\), expected int64 \(3, 3\)"),
        (lambda t: t.update(together=t["together"].int()), r"together is int32 \(3, 3\)"),
        (lambda t: t["photos"].fill_(0), "photos: found 0, expected at least 1"),
        (lambda t: t["photos"].fill_(-(2**63)), "photos: found -9223372036854775808, expected at least 1"),
        (lambda t: t["photos"].fill_(3), "together: attribute 1 is in 4 of 3 photos"),
        (lambda t: t["together"][1, 2].fill_(0), "attributes 1 and 2 are in 4 and 2 of 7 photos, and together in 0 or"),
        (lambda t: t["together"][0, 0].neg_(), "together: attribute 0 is in -3 of 7 photos"),
        (lambda t: t["together"][1:, 1:].fill_(5), "no photos have these counts"),
    ],
)  # fmt: skip
def test_counts_that_no_run_saves(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any], message: str) -> None:
    edit_tensors(folder, "labels", edit)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder)
    assert str(caught.value).startswith(f"{folder / 'labels.safetensors'}: ")
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_counts(folder: Path) -> None:
    flip_byte(folder / "labels.safetensors", -3)
    with pytest.raises(CheckpointError, match=r"labels\.safetensors: damaged: its content does not match"):
        load_model(folder)
    (folder / "labels.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"labels\.safetensors: missing"):
        load_model(folder)


def test_counts_alone_are_no_model(tmp_path: Path) -> None:
    model = IterativeGAN(image_size=32, attributes=3, latent=5, width=4)
    state = {"model": {"arguments": model.arguments(), "attributes": NAMES}}
    counts = counted_labels(torch.from_numpy(LABELS))
    with pytest.raises(CheckpointError, match="holds no model"):
        load_model(save_checkpoint(tmp_path, 1, {"labels": counts}, state))


@pytest.mark.parametrize("packed", [["011", "01"], ["01２"], [3], "011", {"a": 1}, None, [["0", "1", "1"]]])
def test_rows_that_are_none(folder: Path, packed: object) -> None:
    edit_state(folder, lambda state: state["model"].update(label_samples=packed))
    with pytest.raises(CheckpointError, match=r"state\.json: damaged: model\.label_samples do not fit the 3 attr"):
        load_model(folder)
