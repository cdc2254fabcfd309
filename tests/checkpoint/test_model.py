"""The model in a checkpoint: its averaged or plain weights, and checkpoints that claim to hold another one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit_state

from igan_fast import FaceEditor
from igan_fast.checkpoint import CheckpointError, load_model
from igan_fast.checkpoint import model as model_module
from igan_fast.errors import InputError
from igan_fast.models import IterativeGAN
from igan_fast.train.save import save_checkpoint


@pytest.fixture
def model() -> IterativeGAN:
    torch.manual_seed(0)
    return IterativeGAN(image_size=32, attributes=3, latent=5, width=4)


def state_of(model: IterativeGAN, attributes: tuple[str, ...] = ("Smiling", "Male", "Bald")) -> dict[str, object]:
    return {"model": {"arguments": model.arguments(), "attributes": attributes}, "config": {"seed": 3}}


@pytest.mark.every_build
def test_load_model_takes_the_average_else_the_plain_weights(tmp_path: Path, model: IterativeGAN) -> None:
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average = {name: tensor + 1 for name, tensor in plain.items()}
    save_checkpoint(tmp_path, 1, {"model": plain, "ema": average, "optimizer_g": {}}, state_of(model))
    rng = torch.get_rng_state()
    loaded = load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), rng)
    assert (loaded.attributes, loaded.iteration, loaded.config) == (("Smiling", "Male", "Bald"), 1, {"seed": 3})
    assert loaded.folder == tmp_path / "checkpoints" / "step-00000001"
    assert not any(module.training for module in loaded.model.modules())
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, average[name])
    for name, tensor in load_model(loaded.folder, weights="model").model.state_dict().items():
        assert torch.equal(tensor, plain[name])

    save_checkpoint(tmp_path, 2, {"model": plain}, state_of(model))
    for name, tensor in load_model(tmp_path).model.state_dict().items():
        assert torch.equal(tensor, plain[name])
    with pytest.raises(InputError, match="'best'"):
        load_model(tmp_path, weights="best")  # type: ignore[arg-type]


def test_load_model_refuses_what_does_not_fit(tmp_path: Path, model: IterativeGAN) -> None:
    other = IterativeGAN(image_size=32, attributes=3, latent=5, width=8)
    cases: list[tuple[dict[str, dict[str, torch.Tensor]], dict[str, object], str]] = [
        ({"rng": {}}, state_of(model), "holds no model"),
        ({"model": dict(model.state_dict())}, {}, "does not describe a model"),
        ({"model": dict(model.state_dict())}, {"model": {"arguments": {"size": 1}, "attributes": []}}, "not describe"),
        ({"model": dict(model.state_dict())}, state_of(other), "do not fit the model"),
        ({"model": dict(model.state_dict())}, state_of(model, ("Male",)), "names 1 attributes for a model of 3"),
    ]
    for number, (tensors, state, message) in enumerate(cases):
        folder = save_checkpoint(tmp_path / str(number), 1, tensors, state)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run whose checkpoint claims a model of 2048 pixels and holds one of 32."""
    model = IterativeGAN(image_size=32, attributes=3, latent=5, width=4)
    described = {"arguments": model.arguments() | {"image_size": 2048}, "attributes": ["a", "b", "c"]}
    save_checkpoint(tmp_path, 1, {"model": model.state_dict()}, {"model": described})
    return tmp_path


def test_a_size_that_is_only_claimed_takes_no_memory(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*arguments: Any, **named: Any) -> IterativeGAN:
        raise AssertionError("a model was built")

    monkeypatch.setattr(model_module, "IterativeGAN", build)
    with pytest.raises(CheckpointError, match=r"do not fit the model of state\.json: .* expected float32") as caught:
        FaceEditor.load(hostile)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [{"image_size": 10**12}, {"width": 10**18}, {"latent": 2**62}, {"image_size": -64}, {"image_size": 33},
     {"width": 0}, {"width": True}, {"signed_labels": 2}, {"attributes": 10**15}, {"colour": 1}],
)  # fmt: skip
def test_arguments_that_no_model_has(hostile: Path, arguments: dict[str, Any]) -> None:
    folder = hostile / "checkpoints" / "step-00000001"
    edit_state(folder, lambda state: state["model"]["arguments"].update({"image_size": 32} | arguments))
    with pytest.raises(CheckpointError, match=r"does not describe a model|do not fit|names 3 attributes") as caught:
        load_model(hostile)
    assert "\n" not in str(caught.value)


def test_a_file_of_a_terabyte_is_not_read(hostile: Path) -> None:
    folder = hostile / "checkpoints" / "step-00000001"
    edit_state(folder, lambda state: state["model"]["arguments"].update(image_size=32))
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, size in (("model.safetensors", 2**40), ("state.json", 2**36)):
        manifest["files"][name]["bytes"] = size
        path.write_text(json.dumps(manifest))
        os.truncate(folder / name, size)
        with pytest.raises(CheckpointError, match="damaged"):
            load_model(hostile)
