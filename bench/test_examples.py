"""The networks of ``examples/``, fused by one line, against the same as written: a training step, and generating."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import igan_fast
from bench import core
from igan_fast import reference

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LAST = {"memory_format": torch.channels_last}


@dataclass(frozen=True)
class Subject:
    """Of one example: batches (of the step, of generating), and how its networks are called.

    compiled: the networks that ``torch.compile`` is tried on.
    """

    batch: Callable[[int, int], tuple[Tensor, ...]]
    inputs: Callable[[int, int], tuple[Tensor, ...]]
    batches: tuple[int, int]
    build: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=lambda: {"image_size": 32, "width": 4})
    generator: str = "generator"
    compiled: tuple[str, ...] = ("generator", "discriminator")


def images(count: int, size: int, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size) * 2 - 1


def label_maps(count: int, size: int) -> Tensor:
    return nn.functional.one_hot(torch.randint(6, (count, size, size)), 6).movedim(-1, 1).float().contiguous()


def labels(count: int) -> Tensor:
    return (torch.rand(count, 5) < 0.5).float()


SUBJECTS = {
    "dcgan": Subject(lambda n, s: (images(n, s),), lambda n, s: (torch.randn(n, 100, 1, 1),), (16, 64)),
    "pix2pix": Subject(lambda n, s: (images(n, s), images(n, s)), lambda n, s: (images(n, s),), (8, 32)),
    "cyclegan": Subject(
        lambda n, s: (images(n, s), images(n, s)),
        lambda n, s: (images(n, s),),
        (1, 8),
        generator="to_b",
        compiled=("to_a", "to_b", "discriminator_a", "discriminator_b"),
    ),
    "pix2pixhd": Subject(lambda n, s: (label_maps(n, s), images(n, s)), lambda n, s: (label_maps(n, s),), (2, 8)),
    "stargan": Subject(
        lambda n, s: (images(n, s), labels(n)),
        lambda n, s: (images(n, s), labels(n)),
        (2, 8),
        build={"critic": 1},
        compiled=("generator",),  # the gradient penalty is beyond what a compiled network can differentiate
    ),
    "hifigan": Subject(
        lambda n, s: (torch.rand(n, 1, 32 * s) * 2 - 1,),
        lambda n, s: (torch.randn(n, 40, s),),
        (4, 16),
        quick={"width": 16},
        compiled=("generator",),  # and eight discriminators, each with shapes of its own, not within minutes
    ),
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for ``python examples/NAME.py``."""
    monkeypatch.syspath_prepend(EXAMPLES)


def models(name: str, device: torch.device, quick: bool) -> dict[str, tuple[Any, bool]]:
    """The model that each peer runs, and whether it is in channels_last; all of the same weights.

    "eager" and "compile" have the feature matching of the reference, "compile" in the layout as written.
    """
    subject = SUBJECTS[name]

    def make() -> Any:
        torch.manual_seed(0)
        return importlib.import_module(name).build(**subject.build, **(subject.quick if quick else {})).to(device)

    def plain() -> Any:
        model = make()
        if hasattr(model, "feature_matching"):
            kind = getattr(reference.losses.FeatureMatchingLoss, name)
            model.feature_matching = kind(model.feature_matching.weight / (4 if name == "pix2pixhd" else 1))
        return model

    ours = make()
    igan_fast.fuse(ours)
    found = {"ours": (ours, False), "eager": (plain(), False)}
    if name != "hifigan":  # the layout is one of pictures
        ours_last = make().to(**LAST)
        igan_fast.fuse(ours_last)
        found |= {"ours, channels_last": (ours_last, True), "eager, channels_last": (plain().to(**LAST), True)}
    if quick and name != "dcgan":
        return found  # compiling takes minutes, also of small networks
    compiled = plain()
    for network in subject.compiled:
        compiled.get_submodule(network).compile(dynamic=False)
    return found | {"compile": (compiled, False)}


def arranged(tensors: tuple[Tensor, ...], device: torch.device, channels_last: bool) -> tuple[Tensor, ...]:
    return tuple(t.to(device).contiguous(**LAST) if channels_last and t.dim() == 4 else t.to(device) for t in tensors)


def sizes(quick: bool, which: int, name: str) -> tuple[int, int]:
    """Batch and image size."""
    return (2, 32) if quick else (SUBJECTS[name].batches[which], 64)


def told(name: str, what: str, size: int, batch: int) -> dict[str, Any]:
    scale = f"{size}²" if name != "hifigan" else f"{32 * size} samples"
    return {"kind": "example", "operator": f"{name}, {what}, {scale}", "layout": "", "dtype": "fp32", "batch": batch}


@pytest.mark.parametrize("name", SUBJECTS)
def test_training_step(compare, request, device, name):
    torch._dynamo.reset()
    quick = request.config.getoption("--quick")
    batch, size = sizes(quick, 0, name)
    step = importlib.import_module(name).training_step
    torch.manual_seed(1)
    given = SUBJECTS[name].batch(batch, size)

    def peer(model: Any, channels_last: bool) -> core.Peer:
        mine = arranged(given, device, channels_last)
        return (lambda: step(model, mine)), None

    peers = {peer_name: peer(*made) for peer_name, made in models(name, device, quick).items()}
    compare(told(name, "training step", size, batch), peers, {})


@pytest.mark.parametrize("name", SUBJECTS)
def test_generating(compare, request, device, name):
    torch._dynamo.reset()
    quick = request.config.getoption("--quick")
    batch, size = sizes(quick, 1, name)
    torch.manual_seed(1)
    given = SUBJECTS[name].inputs(batch, size)

    def peer(model: Any, channels_last: bool, no_gradient: Any) -> core.Peer:
        network = model.get_submodule(SUBJECTS[name].generator).eval()
        mine = arranged(given, device, channels_last)

        def forward() -> Tensor:
            with no_gradient():
                return network(*mine)

        return forward, None

    peers = {
        peer_name: peer(*made, torch.no_grad if peer_name == "compile" else torch.inference_mode)
        for peer_name, made in models(name, device, quick).items()
    }
    compare(told(name, "generating", size, batch), peers, {})
