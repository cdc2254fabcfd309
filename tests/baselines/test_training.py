"""Baselines are trained by the package's loop: saved, resumed exactly, refused where they do not fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from igan_fast.baselines.config import BaselineConfig
from igan_fast.baselines.load import load_baseline
from igan_fast.baselines.registry import BASELINES, baseline
from igan_fast.checkpoint import load_model
from igan_fast.checkpoint.folder import load_checkpoint
from igan_fast.errors import InputError
from igan_fast.train import TrainConfig, loop, train

pytestmark = pytest.mark.every_build


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "data": "drawn", "drawn_count": 60, "image_size": 32, "width": 4, "checkpoint_every": 3, "sample_every": 3,
        "log_every": 1, "device": "cpu", "threads": 1, "keep": 9, "cache": tmp_path_factory.mktemp("cache"),
    }  # fmt: skip


def config_of(method: str, options: dict[str, Any], run: Path, **more: Any) -> BaselineConfig:
    own: dict[str, Any] = {"attributes": ("Eyeglasses",)} if method == "cyclegan" else {"batch_size": 6}
    return BaselineConfig(method=method, **{**options, **own, "run": run, **more})  # type: ignore[arg-type]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    groups = load_checkpoint(folder).tensors
    return {f"{group}/{name}": tensor for group, members in groups.items() for name, tensor in members.items()}


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_not_interrupted(
    method: str, impl: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config_of(method, options, tmp_path / "whole", iterations=7, impl=impl))
    assert whole.iteration == 7

    class Interrupted(Exception):
        pass

    record = loop.Trainer._save

    def stopped(self: Any, monitor: Any) -> None:
        record(self, monitor)
        if self.iteration == 3:
            raise Interrupted

    parts = config_of(method, options, tmp_path / "parts", iterations=7, impl=impl)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_save", stopped)
        with pytest.raises(Interrupted):
            train(parts)
    resumed = train(dataclasses.replace(parts, resume=True))
    assert resumed.iteration == 7
    expected, found = tensors_of(whole.checkpoint), tensors_of(resumed.checkpoint)
    assert expected.keys() == found.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])] == []
    assert json.loads((resumed.run / "log.jsonl").read_text().splitlines()[-2])["kind"] in ("losses", "checkpoint")
    with Image.open(resumed.samples) as grid:
        assert min(grid.size) > 64


@pytest.mark.parametrize("method", BASELINES)
def test_a_loaded_baseline_is_the_trained_one_in_eval_mode(
    method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    before = torch.random.get_rng_state()
    result = train(config_of(method, options, tmp_path / "run", iterations=3))
    torch.random.set_rng_state(before)
    loaded = load_baseline(result.run)
    assert torch.equal(torch.random.get_rng_state(), before)
    saved = load_checkpoint(result.checkpoint).tensors["model"]
    state = loaded.networks.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())
    assert (loaded.method, loaded.iteration, loaded.networks.training) == (method, 3, False)
    assert len(loaded.attributes) == (1 if method == "cyclegan" else loaded.networks.attributes)
    assert isinstance(loaded.networks, baseline(loaded.method).networks)


def test_cyclegan_gets_photos_without_and_with_the_attribute(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[set[float]]] = []
    step = baseline("cyclegan").step
    call = step.__call__

    def recorded(self: Any, batches: Any, random: torch.Generator) -> Any:
        seen.append([set(batch.labels.flatten().tolist()) for batch in batches])
        return call(self, batches, random)

    monkeypatch.setattr(step, "__call__", recorded)
    train(config_of("cyclegan", options, tmp_path / "run", iterations=3))
    assert seen == [[{0.0}, {1.0}]] * 3


def test_each_kind_of_run_refuses_the_other(options: dict[str, Any], tmp_path: Path) -> None:
    result = train(config_of("dcgan", options, tmp_path / "dcgan", iterations=1))
    with pytest.raises(InputError, match=r"holds the networks of the baseline dcgan, expected an Iterative GAN"):
        load_model(result.run)
    with pytest.raises(InputError, match=r"config\.json: belongs to a run of igan-fast baseline"):
        TrainConfig.load(result.run)
    ours = train(
        TrainConfig(**{**options, "run": tmp_path / "ours", "iterations": 1, "batch_size": 6, "validation_images": 4})
    )
    with pytest.raises(InputError, match="holds an Iterative GAN, expected the networks of a baseline"):
        load_baseline(ours.run)
    with pytest.raises(InputError, match=r"config\.json: belongs to a run of igan-fast train"):
        BaselineConfig.load(ours.run)


def test_a_resumed_baseline_keeps_its_method_and_its_length(options: dict[str, Any], tmp_path: Path) -> None:
    config = config_of("stargan", options, tmp_path / "run", iterations=3)
    train(config)
    for changed, message in (
        ({"iterations": 9}, "--iterations is 9, but this run was started with 3"),
        ({"method": "dcgan"}, "--method is dcgan, but this run was started with stargan"),
    ):
        with pytest.raises(InputError, match=message):
            train(dataclasses.replace(config, resume=True, **changed))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "bf16"}, "--precision: found bf16, baselines train in fp32 or tf32"),
        ({"method": "cyclegan"}, "--attributes: found none, expected one: CycleGAN learns one attribute"),
        ({"method": "cyclegan", "attributes": ("Male", "Bald")}, "--attributes: found 2 names, expected one"),
        ({"method": "gan"}, "--method: found gan, expected one of dcgan, cgan, acgan, stargan, cyclegan"),
        ({"batch_size": 0}, "--batch-size: found 0, expected at least 1"),
        ({"image_size": 40}, "--image-size: found 40, expected a multiple of 16 from 32 up"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], message: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=message):
        BaselineConfig(**{**options, "method": "dcgan", **wrong}).validate()


def test_the_batch_size_is_the_authors_where_none_is_given() -> None:
    found = {method: BaselineConfig(method=method).photos_per_iteration for method in BASELINES}
    assert found == {"dcgan": 128, "cgan": 128, "acgan": 100, "stargan": 16, "cyclegan": 1}
    assert BaselineConfig(method="dcgan", batch_size=3).photos_per_iteration == 3


@pytest.mark.parametrize(
    "file", ["model.safetensors", "step.safetensors", "rng.safetensors", "optimizer_d.safetensors"]
)
def test_a_damaged_checkpoint_is_named(file: str, options: dict[str, Any], tmp_path: Path) -> None:
    config = config_of("cyclegan", options, tmp_path / "run", iterations=2)
    folder = train(config).checkpoint
    (folder / file).write_bytes(b"no tensors")
    with pytest.raises(InputError, match=file):
        train(dataclasses.replace(config, resume=True))


def test_labels_of_two_photos_do_not_mix(options: dict[str, Any], tmp_path: Path) -> None:
    """The grid of an editing baseline has the photos themselves in its first row."""
    config = config_of("stargan", options, tmp_path / "run", iterations=1, sample_attributes=("Eyeglasses",))
    with Image.open(train(config).samples) as grid:
        pixels = np.asarray(grid)
    assert pixels.std() > 10
