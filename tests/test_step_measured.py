"""The training iteration where blocks are measured, and layers that no network of blocks may compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from measuring import FirstIs, Turns, measuring
from torch import Tensor, nn

pytest.importorskip("triton", reason="Triton is not installed")

import igan_fast
from igan_fast import layers, models, reference
from igan_fast.layers import set_process_group
from igan_fast.ops import tuning
from igan_fast.ops.blocks import network
from igan_fast.ops.convolution import asking_for, choice
from igan_fast.ops.triton import common
from igan_fast.reference.step import StepConfig

if not common.INTERPRETED:
    pytest.skip("the choice is made here without a GPU, in Triton's interpreter", allow_module_level=True)

CONFIG = {"lr": 1e-5, "lambdas": (2.0, 0.5, 1.5), "label_weight_d": 3.0, "label_weight_g": 7.0}
SIZES = {"image_size": 32, "attributes": 3, "latent": 4, "width": 1}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs and steps, each of which takes the interpreter long. Single convolutions are not measured."""
    import triton_interpreter

    triton_interpreter.speed_up()
    triton_interpreter.few_programs(monkeypatch)
    monkeypatch.setattr(choice, "_ON_DEMAND", [])


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions that compute networks of blocks, in either way, as they are called."""
    found: list[str] = []

    def note(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def noted(*arguments: Any) -> Any:
            found.append(name)
            return function(*arguments)

        monkeypatch.setattr(owner, name, noted)

    for name in ("block_features", "block_image"):
        note(models, name)
    note(network.Network, "apply")
    return found


def model_of(wing: Any, **options: Any) -> Any:
    torch.manual_seed(3)
    return wing.IterativeGAN(**SIZES, **options).double()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(7)
    images, labels, noise = torch.rand(4, 3, 32, 32) * 2 - 1, torch.rand(4, 3).round(), torch.rand(4, 4) * 2 - 1
    return images.double(), labels.double(), noise.double()


def first_side(call: Callable[[], Any]) -> float:
    """A timer that takes no time: of two that are equally fast, the layers are chosen."""
    return 1.0


@pytest.mark.every_build
@pytest.mark.parametrize("faster", [True, False])
def test_an_iteration(called: list[str], monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    """Each network is measured at its first use. What is measured changes nothing that the iteration computes: the
    layers give the bits of an iteration in which nothing is measured."""
    ours, plain = (wing.TrainStep(model_of(wing, film=True), StepConfig(**CONFIG)) for wing in (igan_fast, reference))
    timer = FirstIs(faster=True) if faster else Turns(1.5)  # the latter computes both ways
    with measuring(monkeypatch, timer):
        losses = ours(*batch())
        # G's images; D of both batches, of G's images, and with targets; G's rebuilds, which are like the images.
        assert [each for each in called if each != "apply"] == [
            "block_image",
            *["block_features"] * 2,
            "block_image",
            "block_features",
        ]
        assert timer.turns == 2 * 4
        ((name, choices),) = tuning.taken().items()
        assert name == "H100"
        assert list(choices.values()) == ["triton" if faster else "other"] * 4
        assert called.count("apply") == (5 if faster else 4)  # those of the iteration, or those that were measured
    assert all(abs(a - b) < 1e-8 for a, b in zip(losses, plain(*batch()), strict=True))
    assert not _apart(ours, plain, 1e-7)
    if not faster:
        unmeasured = igan_fast.TrainStep(model_of(igan_fast, film=True), StepConfig(**CONFIG))
        unmeasured(*batch())
        assert not _apart(ours, unmeasured, 0.0)


def _apart(ours: Any, other: Any, tolerance: float) -> list[tuple[str, Tensor]]:
    """The parameters and statistics that differ."""
    pairs = zip(ours.model.state_dict().items(), other.model.state_dict().values(), strict=True)
    limits = ((name, a, b, tolerance * b.abs().max().double().clamp(min=1e-3)) for (name, a), b in pairs)
    return [(name, (a - b).abs().max()) for name, a, b, limit in limits if (a - b).abs().max() > limit]


@pytest.fixture
def group() -> Iterator[dist.ProcessGroup]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    world = dist.group.WORLD
    assert world is not None
    yield world
    dist.destroy_process_group()


def in_a_group(model: Any, group: dist.ProcessGroup) -> None:
    set_process_group(model, group)


def with_hooks(model: Any, group: dist.ProcessGroup) -> None:
    for layer in (model.discriminator.down3, model.generator.up1.norm):
        layer.register_forward_hook(lambda module, inputs, output: output * 2)


def with_a_hook_of_an_inner_module(model: Any, group: dist.ProcessGroup) -> None:
    for layer in (model.discriminator.down2.conv, model.generator.up3.conv):
        layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] / 2,))


def with_parametrisations(model: Any, group: dist.ProcessGroup) -> None:
    for layer in (model.discriminator.down4.conv, model.generator.up2.conv):
        nn.utils.parametrizations.weight_norm(layer)


def with_a_scaled_normalisation(model: Any, group: dist.ProcessGroup) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    for layer in (model.discriminator.down3.norm, model.generator.norm):
        nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())


def with_older_spectral_norm(model: Any, group: dist.ProcessGroup) -> None:
    for layer in (model.discriminator.down2.conv, model.generator.up1.conv):
        nn.utils.spectral_norm(layer)


CHANGES = [
    in_a_group,
    with_hooks,
    with_a_hook_of_an_inner_module,
    with_parametrisations,
    with_a_scaled_normalisation,
    with_older_spectral_norm,
]


@pytest.mark.every_build
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("mode", ["blocks", "measure"])
def test_layers_that_are_no_blocks(
    called: list[str],
    monkeypatch: pytest.MonkeyPatch,
    group: dist.ProcessGroup,
    change: Callable[..., None],
    mode: str,
) -> None:
    """They are called, and compute what they compute without blocks."""
    images, labels, noise = batch()
    found = []
    with measuring(monkeypatch, first_side), asking_for(mode):
        for wing in (igan_fast, reference):
            model = model_of(wing)
            torch.manual_seed(5)
            change(model, group)
            generator, discriminator = model.generator, model.discriminator
            if wing is igan_fast:
                pictures, (last, maps) = generator.images(noise, labels), discriminator.read(images)
                assert not layers.are_blocks(discriminator.down2, discriminator.down3, discriminator.down4)
                assert not layers.are_blocks(generator.norm, generator.up1, generator.up2, generator.up3)
            else:
                pictures, maps = generator(noise, labels), discriminator(images).features
                last = maps[-1]
            found.append([pictures, last, *maps, *model.buffers()])
    assert called == []
    assert all((a - b).abs().max() <= 1e-10 * b.abs().max() for a, b in zip(*found, strict=True))
