"""TrainConfig: presets, refusals before anything starts, and its JSON form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from igan_fast.errors import InputError
from igan_fast.reference import StepConfig
from igan_fast.train import TrainConfig


def test_the_paper_preset_is_the_papers_step_with_its_printed_learning_rate() -> None:
    assert TrainConfig(preset="paper").step_config() == StepConfig(lr=2e-5)
    assert TrainConfig(preset="paper").signed_labels is False


def test_an_option_wins_over_the_preset() -> None:
    config = TrainConfig(preset="paper", lr=1e-3, signed_labels=True)
    assert config.step_config().lr == 1e-3
    assert config.signed_labels is True
    assert TrainConfig(preset="default", signed_labels=False).signed_labels is False


def test_the_defaults_are_valid() -> None:
    TrainConfig().validate()
    TrainConfig(preset="paper").validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 40}, "--image-size: found 40, expected a multiple of 16 from 32 up"),
        ({"image_size": 16}, "--image-size: found 16"),
        ({"batch_size": 1}, "--batch-size: found 1"),
        ({"width": 0}, "--width: found 0"),
        ({"epochs": 1, "iterations": 5}, "--epochs 1 and --iterations 5 contradict"),
        ({"epochs": 0}, "--epochs: found 0"),
        ({"epochs": float("nan")}, "--epochs: found nan"),
        ({"iterations": 0}, "--iterations: found 0"),
        ({"lr": 0.0}, "--lr: found 0.0"),
        ({"lr": float("inf")}, "--lr: found inf"),
        ({"betas": (0.5, 1.0)}, r"--betas: found \(0.5, 1.0\), expected two numbers in \[0, 1\)"),
        ({"betas": (0.5,)}, r"--betas: found \(0.5,\): .*expected 2"),
        ({"lambdas": (1.0, -1.0, 1.0)}, r"--lambdas: found \(1.0, -1.0, 1.0\), expected"),
        ({"lambdas": (1.0, 2.0)}, r"--lambdas: found \(1.0, 2.0\): .*expected 3"),
        ({"lambdas": 2.0}, "--lambdas: found 2.0"),
        ({"attributes": "Smiling"}, "--attributes: found 'Smiling': str is not a tuple"),
        ({"iterations": "5"}, "--iterations: found '5'"),
        ({"run": 7}, "--run: found 7"),
        ({"label_weight_g": float("nan")}, "--label-weight-g: found nan"),
        ({"balance_ratio": 1.0}, "--balance-ratio: found 1.0, expected a number above 1"),
        ({"balance_ratio": 1.0, "balance": False}, "--balance-ratio: found 1.0"),
        ({"max_extra_updates": -1}, "--max-extra-updates: found -1, expected at least 0"),
        ({"ema_decay": 1.0}, "--ema-decay"),
        ({"precision": "fp16"}, "--precision: found fp16, expected one of fp32, tf32, bf16"),
        ({"preset": "best"}, "--preset: found best, expected one of default, paper"),
        ({"device": "tpu"}, "--device"),
        ({"split": "random"}, "--split"),
        ({"threads": 0}, "--threads"),
        ({"seed": -1}, "--seed"),
        ({"keep": 0}, "--keep"),
        ({"validation_images": 0}, "--validation-images"),
        ({"resume": True}, "--resume: say which run"),
        ({"split": "paper"}, "--split paper: the built-in faces have one division only"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**change).validate()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_gpu_is_refused() -> None:
    with pytest.raises(InputError, match="device: found 'cuda', but PyTorch sees no CUDA device"):
        TrainConfig(device="cuda").validate()


def test_the_balance_rule_is_the_configs() -> None:
    rule = TrainConfig(balance_ratio=1.5, max_extra_updates=4).balance_rule()
    assert (rule.ratio, rule.max_extra) == (1.5, 4)
    assert TrainConfig(balance=False).balance_rule().max_extra == 0


def test_paths_may_be_text_and_tuples_lists() -> None:
    """As people write them in Python; what is compared and saved has one form."""
    given: dict[str, Any] = {
        "data": Path("/faces"), "run": "runs/x", "cache": "/c", "attributes": ["Bald"], "sample_attributes": ["Bald"],
        "betas": [0.0, 0.9], "lambdas": [5, 2, 20],
    }  # fmt: skip
    expected = TrainConfig(
        data="/faces", run=Path("runs/x"), cache=Path("/c"), attributes=("Bald",), sample_attributes=("Bald",),
        betas=(0.0, 0.9), lambdas=(5, 2, 20),
    )  # fmt: skip
    config = TrainConfig(**given)
    assert config == expected
    config.validate()
    assert json.dumps(config.to_json()) == json.dumps(expected.to_json())
    TrainConfig.from_json(json.loads(json.dumps(config.to_json()))).check_resumable(config)


def test_json_round_trip() -> None:
    config = TrainConfig(
        run=Path("runs/x"), cache=Path("/c"), attributes=("Bald",), lambdas=(1.0, 2.0, 3.0), epochs=1.5, preset="paper"
    )
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no training run"),
        ("{", "not readable as JSON"),
        ("[1]", "found a JSON list, expected an object"),
        ('{"colour": 3}', "unknown option 'colour'"),
        ('{"image_size": "64"}', "image_size is '64'"),
        ('{"lambdas": [1, 2]}', r"lambdas is \[1, 2\]"),
        ('{"attributes": ["Bald", 3]}', "attributes is"),
        ('{"run": 7}', "run is 7"),
    ],
)
def test_a_config_file_that_cannot_be_used(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        TrainConfig.load(tmp_path)


def test_what_may_and_may_not_change_on_resume() -> None:
    saved = TrainConfig(iterations=10)
    TrainConfig(iterations=20, keep=9, sample_every=7, data="/moved").check_resumable(saved)
    with pytest.raises(InputError, match="--latent is 7, but this run was started with 100"):
        TrainConfig(latent=7).check_resumable(saved)
