"""TrainConfig: presets, refusals before anything starts, and its JSON form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from igan_fast.errors import InputError
from igan_fast.reference import IterativeGAN, StepConfig
from igan_fast.train import TrainConfig, train
from igan_fast.train.memory import least_training_bytes


def test_the_paper_preset_is_the_papers_step_with_its_printed_learning_rate() -> None:
    assert TrainConfig(preset="paper").step_config() == StepConfig(lr=2e-5)
    assert TrainConfig(preset="paper").signed_labels is False


def test_the_default_preset_has_the_additions_that_make_edits_show() -> None:
    config = TrainConfig()
    assert config.film is True
    assert config.step_config() == StepConfig(
        lr=2e-4,
        lambdas=(10.0, 4.0, 20.0),
        label_weight_d=40.0,
        label_weight_g=40.0,
        edited_share=0.75,
        label_weight_fake=0.0,
        flip_weight=4.0,
        r1=0.1,
        r1_every=16,
        latent_lr_scale=3.0,
    )


def test_the_paper_preset_goes_nowhere_beyond_the_paper() -> None:
    config = TrainConfig(preset="paper", label_weight_d=5.0)
    assert config.film is False
    assert not config.step_config().goes_beyond
    assert config.step_config().fake_label_weight == 5.0


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
        ({"max_extra_updates": 10**12}, "--max-extra-updates: found 1000000000000, expected at most 1000"),
        ({"drawn_count": 10**12}, "--drawn-count: found 1000000000000, expected from 1 to 1,000,000"),
        ({"drawn_count": 0}, "--drawn-count: found 0, expected from 1 to"),
        ({"epochs": 1e300}, r"--epochs: found 1e\+300, expected above 0, at most 1,000,000,000"),
        ({"epochs": float("inf")}, "--epochs: found inf"),
        ({"epochs": 10**400}, "--epochs: found 1.*: is beyond 64 bits"),
        ({"iterations": 10**30}, "--iterations: found 1000000000000000000000000000000: is beyond 64 bits"),
        ({"checkpoint_every": -(10**30)}, "--checkpoint-every: found -1.*: is beyond 64 bits"),
        ({"checkpoint_every": 0}, "--checkpoint-every: found 0, expected at least 1"),
        ({"lr": 10**400}, "--lr: found 1.*: is beyond 64 bits"),
        ({"betas": (10**400, 0.9)}, "--betas: found .*: is beyond 64 bits"),
        ({"balance_ratio": float("nan")}, "--balance-ratio: found nan"),
        ({"ema_decay": float("nan")}, "--ema-decay: found nan"),
        ({"lambdas": (1.0, float("nan"), 1.0)}, "--lambdas: found"),
        ({"lambdas": (1.0, float("inf"), 1.0)}, "--lambdas: found"),
        ({"betas": (float("nan"), 0.9)}, "--betas: found"),
        ({"width": True}, "--width: found True: true and false are not numbers"),
        ({"iterations": True}, "--iterations: found True"),
        ({"lr": True}, "--lr: found True"),
        ({"betas": (False, 0.9)}, "--betas: found"),
        ({"balance": 1}, "--balance: found 1"),
        ({"preset": []}, r"--preset: found \[\], expected one of"),
        ({"data": "a\0b"}, "data: found 'a.*, expected a path without NUL characters"),
        ({"run": "a\0b"}, "run: found 'a.*, expected a path without NUL characters"),
        ({"cache": "\0"}, "cache: found .*, expected a path without NUL characters"),
        ({"run": ""}, "run: is empty; expected a path"),
        ({"cache": ""}, "cache: is empty; expected a path"),
        ({"data": ""}, "--data: is empty; expected a folder, or .drawn. for"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**change).validate()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 10**9}, "--width: found 1000000000: training would take more than"),
        ({"width": 2**63 - 1}, "--width: found"),
        ({"width": 50_000}, "--width: found"),
        ({"latent": 10**12}, "--latent: found 1000000000000: training would take more than"),
        ({"latent": 10**8}, "--latent: found"),
        ({"batch_size": 10**12}, "--batch-size: found 1000000000000: training would take more than"),
        ({"batch_size": 10**7}, "--batch-size: found"),
        ({"image_size": 16 * 10**15}, "--image-size: found 16000000000000000: training would take more than"),
        ({"image_size": 2**16}, "--image-size: found"),
        ({"image_size": 2**11, "width": 1, "batch_size": 10**9}, "--batch-size: found"),
    ],
)
def test_what_no_memory_holds_is_refused_without_taking_any(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], named: str
) -> None:
    monkeypatch.setattr("igan_fast.train.memory.machine_memory", lambda device: 64 * 2**30)
    with pytest.raises(InputError, match=named) as caught:
        TrainConfig(**change).validate()
    assert str(caught.value).endswith("this machine has 64.0 GiB")


def test_what_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is below what a run really takes: 3 GiB hold the default, and everything where nothing is known."""
    monkeypatch.setattr("igan_fast.train.memory.machine_memory", lambda device: 3 * 2**30)
    TrainConfig().validate()
    TrainConfig(image_size=256, width=16, batch_size=16).validate()
    monkeypatch.setattr("igan_fast.train.memory.machine_memory", lambda device: None)
    TrainConfig(width=10**9).validate()


def test_the_least_that_a_run_takes_is_counted_from_its_real_networks() -> None:
    config = TrainConfig(image_size=32, width=4, latent=7, attributes=("Bald",), batch_size=3)
    model = IterativeGAN(image_size=32, attributes=1, latent=7, width=4)
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4 * 5
    photos = torch.zeros(3, 3, 32, 32)
    kept = sum(h.numel() for h in model.discriminator(photos).features) * 4 + photos.numel() * 4 + 3 * 7 * 4
    assert least_training_bytes(config) == weights + kept
    assert least_training_bytes(dataclasses.replace(config, ema_decay=0.0)) == weights * 4 / 5 + kept


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
        ("{", "damaged: not JSON"),
        ("[1]", r"its content is \[1\], expected an object"),
        ('{"colour": 3}', "unknown option 'colour'"),
        ('{"image_size": "64"}', "image_size is '64'"),
        ('{"lambdas": [1, 2]}', r"lambdas is \[1, 2\]"),
        ('{"attributes": ["Bald", 3]}', "attributes is"),
        ('{"run": 7}', "run is 7"),
        ("{}", r"config\.json: damaged: attributes is missing"),
        ('{"lr": NaN}', r"config\.json: damaged: not JSON \(NaN"),
        ('{"lr": 1e999}', r"config\.json: damaged: not JSON \(1e999"),
        ('{"width": ' + "9" * 5000 + "}", r"config\.json: damaged: not JSON"),
        ('{"width": 9223372036854775808}', r"config\.json: width is 9223372036854775808: is beyond 64 bits"),
        ('{"width": true}', r"config\.json: width is True"),
        ('{"width": 2, "width": 3}', "the name 'width' occurs twice"),
        ('{"a":' * 1000 + "1" + "}" * 1000, r"config\.json: damaged: nested"),
        ("", r"config\.json: damaged: not JSON"),
        ("\xff", r"config\.json: damaged: not JSON \(not UTF-8\)"),
    ],
)
def test_a_config_file_that_cannot_be_used(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=message) as caught:
        TrainConfig.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_in_the_configs_place(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match=r"config\.json: found a folder, expected a file"):
        TrainConfig.load(tmp_path)


def test_what_may_and_may_not_change_on_resume() -> None:
    saved = TrainConfig(iterations=10)
    TrainConfig(iterations=20, keep=9, sample_every=7, data="/moved").check_resumable(saved)
    with pytest.raises(InputError, match="--latent is 7, but this run was started with 100"):
        TrainConfig(latent=7).check_resumable(saved)


def test_data_that_are_a_link_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"loop: .*expected a folder"):
        train(TrainConfig(data=str(tmp_path / "loop"), image_size=32))
