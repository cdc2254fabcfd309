"""The examples: fused and plain networks have the same results and train alike; each script runs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import igan_fast

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Example:
    """A small version of one example.

    build: arguments of its ``build``.
    batch: makes a batch for its ``training_step``.
    networks: for the name of each network, what makes its inputs.
    options: command-line options that make its script quick.
    writes_image: whether it writes an image.
    """

    build: dict[str, Any]
    batch: Callable[[], Inputs]
    networks: dict[str, Callable[[], Inputs]]
    iterations: int = 3
    options: tuple[str, ...] = ("--image-size", "32", "--batch-size", "2", "--faces", "20")
    writes_image: bool = True


def images(count: int = 2, channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(count, channels, size, size) * 2 - 1


def labels(count: int = 2) -> Tensor:
    return (torch.rand(count, 5) < 0.5).float()


def label_maps(count: int = 2) -> Tensor:
    return torch.nn.functional.one_hot(torch.randint(6, (count, 32, 32)), 6).movedim(-1, 1).float()


def sounds(count: int = 2) -> Tensor:
    return importlib.import_module("sound").notes(count, 512, seed=0)


SMALL = {
    "dcgan": Example(
        {"image_size": 32, "latent": 8, "width": 4},
        lambda: (images(4),),
        {"generator": lambda: (torch.randn(4, 8, 1, 1),), "discriminator": lambda: (images(4),)},
    ),
    "pix2pix": Example(
        {"image_size": 64, "width": 4},
        lambda: (images(size=64), images(size=64)),
        {"generator": lambda: (images(size=64),), "discriminator": lambda: (images(channels=6),)},
    ),
    "cyclegan": Example(
        {"width": 4, "blocks": 1},
        lambda: (images(), images()),
        {name: lambda: (images(),) for name in ("to_a", "to_b", "discriminator_a", "discriminator_b")},
    ),
    "pix2pixhd": Example(
        {"width": 4, "blocks": 1},
        lambda: (label_maps(), images()),
        {"generator": lambda: (label_maps(),), "discriminator": lambda: (images(channels=9),)},
    ),
    "stargan": Example(
        {"image_size": 32, "width": 4, "blocks": 1, "critic": 2},
        lambda: (images(), labels()),
        {"generator": lambda: (images(), labels()), "discriminator": lambda: (images(),)},
        iterations=4,
    ),
    "hifigan": Example(
        {"width": 16},
        lambda: (sounds(),),
        {"generator": lambda: (torch.randn(2, 40, 8),), **{f"discriminators.{i}": lambda: (sounds(),) for i in (1, 6)}},
        options=("--samples", "512", "--batch-size", "2"),
        writes_image=False,
    ),
}
NETWORKS = [(name, network) for name, example in SMALL.items() for network in example.networks]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the folder of the examples first on the path, as ``python examples/NAME.py`` does."""
    monkeypatch.syspath_prepend(EXAMPLES)


def make(name: str, dtype: torch.dtype = torch.float64, *, fused: bool = False) -> Any:
    """The small example, always with the same weights. Parameters and statistics of its norms are not 1 and 0."""
    torch.manual_seed(0)
    model = importlib.import_module(name).build(**SMALL[name].build)
    with torch.no_grad():
        for norm in (part for part in model.modules() if isinstance(part, NORMS)):
            for tensor, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -0.5, 0.5), (norm.running_mean, -0.5, 0.5)):
                if tensor is not None:
                    tensor.uniform_(low, high)
            if norm.running_var is not None:
                norm.running_var.uniform_(0.5, 2.0)
    if fused:
        igan_fast.fuse(model)
    return model.to(dtype)


def given(make_inputs: Callable[[], Inputs], dtype: torch.dtype = torch.float64) -> Inputs:
    torch.manual_seed(1)
    return tuple(tensor.to(dtype) for tensor in make_inputs())


def flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [tensor for part in outputs for tensor in flat(part)]


def run(network: nn.Module, inputs: Inputs, *, training: bool) -> dict[str, list[Tensor]]:
    """Outputs, the gradients of inputs and parameters, and all buffers afterwards."""
    network.train(training)
    torch.manual_seed(2)  # dropout
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    outputs = flat(network(*leaves))
    torch.manual_seed(3)
    torch.autograd.backward(outputs, [torch.randn(y.shape, dtype=torch.float64).to(y) for y in outputs])
    return {
        "outputs": outputs,
        "input gradients": [leaf.grad for leaf in leaves if leaf.grad is not None],
        "parameter gradients": [parameter.grad for parameter in network.parameters()],
        "buffers": [buffer.double() for buffer in network.buffers()],
    }


def distance(actual: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of all tensors, relative to the largest expected value of all. Not per tensor, because the
    gradient of a bias before a norm is 0 in one network and rounding noise in the other."""
    assert [a.shape for a in actual] == [e.shape for e in expected]
    largest = max((e.abs().max().item() for e in expected), default=1.0)
    differences = [(a.double() - e.double()).abs().max().item() for a, e in zip(actual, expected, strict=True)]
    assert all(torch.tensor(differences).isfinite())
    return max(differences, default=0.0) / (largest or 1.0)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_fused_network_equals_plain(name, network, training):
    inputs = given(SMALL[name].networks[network])
    plain = run(make(name).get_submodule(network), inputs, training=training)
    fused = run(make(name, fused=True).get_submodule(network), inputs, training=training)
    for kind, expected in plain.items():
        assert distance(fused[kind], expected) < 1e-9, kind


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_float32_is_as_near_to_float64_as_plain(name, network, training):
    make_inputs, single = SMALL[name].networks[network], torch.float32
    inputs = given(make_inputs, single)
    exact = run(make(name).get_submodule(network), tuple(x.double() for x in inputs), training=training)
    plain = run(make(name, single).get_submodule(network), inputs, training=training)
    fused = run(make(name, single, fused=True).get_submodule(network), inputs, training=training)
    for kind, expected in exact.items():
        assert distance(fused[kind], expected) <= max(3 * distance(plain[kind], expected), 1e-5), kind


@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_eval_without_gradients_equals_plain(name, network):
    """Here a batch norm is folded into its convolution."""
    inputs = given(SMALL[name].networks[network])
    with torch.inference_mode():
        expected = flat(make(name).get_submodule(network).eval()(*inputs))
        actual = flat(make(name, fused=True).get_submodule(network).eval()(*inputs))
    assert distance(actual, expected) < 1e-9


@pytest.mark.parametrize("name", SMALL)
def test_every_norm_is_fused(name):
    model = make(name)
    report = igan_fast.fuse(model)
    norms = {path for path, part in model.named_modules() if isinstance(part, NORMS)}
    assert norms <= {entry.name for entry in report.fused}
    assert bool(norms) == (name != "hifigan")
    assert bool(report.left_alone) == (name == "hifigan")  # its convolutions have one dimension
    assert all("PyTorch's is as fast" in entry.result for entry in report.left_alone)


@pytest.mark.parametrize("name", SMALL)
def test_state_dict_keys_and_parameters_stay(name):
    model = make(name)
    keys, parameters = list(model.state_dict()), [(path, id(p)) for path, p in model.named_parameters()]
    igan_fast.fuse(model)
    assert list(model.state_dict()) == keys
    assert [(path, id(p)) for path, p in model.named_parameters()] == parameters
    make(name).load_state_dict(model.state_dict())


@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_after_unfuse_the_network_equals_the_original_bit_for_bit(name, network):
    inputs = given(SMALL[name].networks[network], torch.float32)
    model = make(name, torch.float32)
    kinds = [type(part) for part in model.modules()]
    igan_fast.fuse(model)
    igan_fast.unfuse(model)
    assert [type(part) for part in model.modules()] == kinds
    expected = run(make(name, torch.float32).get_submodule(network), inputs, training=True)
    actual = run(model.get_submodule(network), inputs, training=True)
    for kind, tensors in expected.items():
        assert all(torch.equal(a, e) for a, e in zip(actual[kind], tensors, strict=True)), kind


def trained(name: str, *, fused: bool) -> tuple[Any, list[dict[str, Tensor]]]:
    model = make(name, fused=fused)
    step = importlib.import_module(name).training_step
    batch = given(SMALL[name].batch)
    torch.manual_seed(4)
    return model, [step(model, batch) for _ in range(SMALL[name].iterations)]


@pytest.mark.parametrize("name", SMALL)
def test_training_ends_in_the_same_weights(name):
    plain, expected = trained(name, fused=False)
    fused, actual = trained(name, fused=True)
    for theirs, ours in zip(expected, actual, strict=True):
        assert theirs.keys() == ours.keys()
        assert distance(list(ours.values()), list(theirs.values())) < 1e-9
        assert not any(loss.requires_grad for loss in ours.values())
    assert distance(list(fused.state_dict().values()), list(plain.state_dict().values())) < 1e-8


@pytest.mark.parametrize("name", SMALL)
def test_every_network_learns(name):
    before = {path: parameter.detach().clone() for path, parameter in make(name).named_parameters()}
    model, _ = trained(name, fused=True)
    idle = [
        path
        for path, parameter in model.named_parameters()
        if parameter.dim() > 1 and torch.equal(parameter, before[path])
    ]
    assert idle == []


def test_feature_matching_equals_that_of_the_original_pix2pixhd():
    model, (label_map, real) = make("pix2pixhd"), given(SMALL["pix2pixhd"].batch)
    fake = model.generator(label_map)
    seen = [model.discriminator(torch.cat([label_map, image], 1)) for image in (fake, real)]
    expected = torch.zeros((), dtype=torch.float64)
    for fake_scale, real_scale in zip(*seen, strict=True):
        for fake_map, real_map in list(zip(fake_scale, real_scale, strict=True))[:-1]:  # without the scores
            expected += 4 / (3 + 1) * 1 / 2 * 10.0 * (fake_map - real_map).abs().mean()
    assert distance([model.feature_matching(*seen)], [expected]) < 1e-12


def test_feature_matching_equals_that_of_the_original_hifigan():
    model, (real,) = make("hifigan"), given(SMALL["hifigan"].batch)
    fake = 0.9 * real + 0.01
    (scores, fake_features), (_, real_features) = model.discriminate(fake), model.discriminate(real)
    assert len(scores) == len(fake_features) == 8
    pairs = [
        (f, r)
        for ours, theirs in zip(fake_features, real_features, strict=True)
        for f, r in zip(ours, theirs, strict=True)
    ]
    expected = 2 * sum((f - r).abs().mean() for f, r in pairs)
    assert distance([model.feature_matching(fake_features, real_features)], [expected]) < 1e-12


def test_generated_sound_is_as_long_as_its_spectrogram_says():
    sound = importlib.import_module("sound")
    model, (real,) = make("hifigan"), given(SMALL["hifigan"].batch)
    assert real.abs().max() <= 1
    mel = sound.log_mel(real)
    assert mel.shape == (2, sound.MELS, real.shape[2] // sound.HOP)
    assert model.generator(mel).shape == real.shape
    # For a sound that is k times as loud the log spectrogram is higher by log k everywhere.
    assert distance([sound.log_mel(4 * real + 0) - mel], [torch.full_like(mel, 4.0).log()]) < 1e-2


def test_image_pool_returns_images_that_it_was_given():
    pool = importlib.import_module("cyclegan").ImagePool(size=3)
    fresh = [torch.full((1, 1), float(i)) for i in range(40)]
    out = [pool.query(image.view(1, 1, 1, 1)).item() for image in fresh]
    assert out[:3] == [0.0, 1.0, 2.0]
    older = sum(given_out != float(i) for i, given_out in enumerate(out))
    assert 5 < older < 35
    assert all(given_out <= i for i, given_out in enumerate(out))


@pytest.mark.parametrize("name", SMALL)
def test_script_runs(name, capsys, tmp_path):
    out = tmp_path / "images.png"
    arguments = ["--iterations", "2", *SMALL[name].options, "--device", "cpu"]
    if SMALL[name].writes_image:
        arguments += ["--out", str(out)]
    importlib.import_module(name).main(arguments)
    printed = capsys.readouterr().out
    assert "fused" in printed
    assert "nan" not in printed
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("     ")] == ["1", "2"]
    assert "2 iterations in" in printed
    if SMALL[name].writes_image:
        with Image.open(out) as image:
            assert min(image.size) >= 2 * 32


def test_script_without_fusing(capsys):
    importlib.import_module("dcgan").main(
        ["--iterations", "1", "--image-size", "32", "--faces", "20", "--no-fuse", "--device", "cpu"]
    )
    assert "left alone" not in capsys.readouterr().out


def test_script_runs_from_any_folder(tmp_path):
    command = [sys.executable, EXAMPLES / "dcgan.py", "--iterations", "1", "--image-size", "32", "--faces", "20"]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "13 fused, 0 left alone" in done.stdout
