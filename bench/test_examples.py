"""The networks in ``examples/`` after ``fuse``, against the same networks as written: a training step and inference."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import igan_fast
from bench import core
from igan_fast import reference

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LAST = {"memory_format": torch.channels_last}


class Size(NamedTuple):
    """A batch of square images of ``size`` pixels; for HiFi-GAN, of 32 · ``size`` samples or ``size`` mel frames."""

    batch: int
    size: int


QUICK = Size(2, 32)


@dataclass(frozen=True)
class Subject:
    """The inputs, sizes and networks of one example."""

    batch: Callable[[int, int], tuple[Tensor, ...]]  #: (batch, size) → the inputs of a training step
    inputs: Callable[[int, int], tuple[Tensor, ...]]  #: (batch, size) → the inputs of the generator
    step: Size  #: of a training step
    generate: Size  #: of inference
    build: dict[str, Any] = field(default_factory=dict)  #: arguments of the example's ``build``
    quick: dict[str, Any] = field(default_factory=lambda: {"width": 4})  #: more arguments with ``--quick``
    generator: str = "generator"  #: the name of the generator
    sized: bool = False  #: whether ``build`` takes an image size
    compiled: tuple[str, ...] = ("generator", "discriminator")  #: the networks that the "compile" baseline compiles


def images(count: int, size: int, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size) * 2 - 1


def label_maps(count: int, size: int) -> Tensor:
    return nn.functional.one_hot(torch.randint(6, (count, size, size)), 6).movedim(-1, 1).float().contiguous()


def labels(count: int) -> Tensor:
    return (torch.rand(count, 5) < 0.5).float()


SUBJECTS = {
    "dcgan": Subject(
        lambda n, s: (images(n, s),), lambda n, s: (torch.randn(n, 100, 1, 1),), Size(64, 64), Size(64, 64), sized=True
    ),
    "pix2pix": Subject(
        lambda n, s: (images(n, s), images(n, s)), lambda n, s: (images(n, s),), Size(1, 256), Size(4, 256), sized=True
    ),
    "cyclegan": Subject(
        lambda n, s: (images(n, s), images(n, s)),
        lambda n, s: (images(n, s),),
        Size(1, 256),
        Size(1, 256),
        generator="to_b",
        compiled=("to_a", "to_b", "discriminator_a", "discriminator_b"),
    ),
    "pix2pixhd": Subject(
        lambda n, s: (label_maps(n, s), images(n, s)), lambda n, s: (label_maps(n, s),), Size(1, 256), Size(1, 256)
    ),
    "stargan": Subject(
        lambda n, s: (images(n, s), labels(n)),
        lambda n, s: (images(n, s), labels(n)),
        Size(4, 128),
        Size(4, 128),
        build={"critic": 1},
        sized=True,
        compiled=("generator",),  # torch.compile does not support the double backward of the gradient penalty
    ),
    "hifigan": Subject(
        lambda n, s: (torch.rand(n, 1, 32 * s) * 2 - 1,),
        lambda n, s: (torch.randn(n, 40, s),),
        Size(1, 256),
        Size(1, 256),
        build={"width": 512},
        quick={"width": 16},
        compiled=("generator",),  # compiling the eight discriminators would take many minutes
    ),
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples import each other by name, as if started with ``python examples/NAME.py``."""
    monkeypatch.syspath_prepend(EXAMPLES)


def models(name: str, device: torch.device, size: int, quick: bool) -> dict[str, tuple[Any, bool]]:
    """The model of each peer, and whether it is in channels_last. All have the same weights.

    "eager" and "compile" use the reference's feature matching loss. "compile" has the layout of the example.
    """
    subject = SUBJECTS[name]

    def make() -> Any:
        torch.manual_seed(0)
        options = subject.build | (subject.quick if quick else {}) | ({"image_size": size} if subject.sized else {})
        return importlib.import_module(name).build(**options).to(device)

    def plain() -> Any:
        model = make()
        if hasattr(model, "feature_matching"):
            kind = getattr(reference.losses.FeatureMatchingLoss, name)
            model.feature_matching = kind(model.feature_matching.weight / (4 if name == "pix2pixhd" else 1))
        return model

    ours = make()
    igan_fast.fuse(ours)
    found = {"ours": (ours, False), "eager": (plain(), False)}
    if name != "hifigan":  # channels_last needs images, and HiFi-GAN's tensors are (N, C, T)
        ours_last = make().to(**LAST)
        igan_fast.fuse(ours_last)
        found |= {"ours, channels_last": (ours_last, True), "eager, channels_last": (plain().to(**LAST), True)}
    if quick and name != "dcgan":
        return found  # compiling takes minutes even for small networks
    compiled = plain()
    for network in subject.compiled:
        compiled.get_submodule(network).compile(dynamic=False)
    return found | {"compile": (compiled, False)}


def in_layout(tensors: tuple[Tensor, ...], device: torch.device, channels_last: bool) -> tuple[Tensor, ...]:
    return tuple(t.to(device).contiguous(**LAST) if channels_last and t.dim() == 4 else t.to(device) for t in tensors)


def describe(name: str, what: str, size: int, batch: int) -> dict[str, Any]:
    """The subject of a comparison, for the fixture ``compare``."""
    scale = f"{size}²" if name != "hifigan" else f"{32 * size} samples" if what == "training step" else f"{size} frames"
    return {"kind": "example", "operator": f"{name}, {what}, {scale}", "layout": "", "dtype": "fp32", "batch": batch}


@pytest.mark.parametrize("name", SUBJECTS)
def test_training_step(compare, request, device, name):
    torch._dynamo.reset()
    quick = request.config.getoption("--quick")
    batch, size = QUICK if quick else SUBJECTS[name].step
    step = importlib.import_module(name).training_step
    torch.manual_seed(1)
    given = SUBJECTS[name].batch(batch, size)

    def peer(model: Any, channels_last: bool) -> core.Peer:
        inputs = in_layout(given, device, channels_last)
        return (lambda: step(model, inputs)), None

    peers = {peer_name: peer(*made) for peer_name, made in models(name, device, size, quick).items()}
    compare(describe(name, "training step", size, batch), peers, {})


@pytest.mark.parametrize("name", SUBJECTS)
def test_generating(compare, request, device, name):
    torch._dynamo.reset()
    quick = request.config.getoption("--quick")
    batch, size = QUICK if quick else SUBJECTS[name].generate
    torch.manual_seed(1)
    given = SUBJECTS[name].inputs(batch, size)

    def peer(model: Any, channels_last: bool, no_gradient: Any) -> core.Peer:
        network = model.get_submodule(SUBJECTS[name].generator).eval()
        inputs = in_layout(given, device, channels_last)

        def forward() -> Tensor:
            with no_gradient():
                return network(*inputs)

        return forward, None

    peers = {
        peer_name: peer(*made, torch.no_grad if peer_name == "compile" else torch.inference_mode)
        for peer_name, made in models(name, device, size, quick).items()
    }
    compare(describe(name, "generating", size, batch), peers, {})
