"""The training iteration with blocks (``IGAN_FAST_CONVOLUTION=blocks``) against the reference's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from triton_devices import DEVICES, triton_device

pytest.importorskip("triton", reason="Triton is not installed")

from triton.runtime.interpreter import InterpretedFunction

import igan_fast
from igan_fast import models, reference
from igan_fast.distributed.plan import BatchPlan
from igan_fast.distributed.step import PartedStep
from igan_fast.ops import backend
from igan_fast.ops.blocks import RawMap
from igan_fast.ops.convolution import triton
from igan_fast.ops.triton import common
from igan_fast.reference.step import StepConfig

CONFIG = {"lr": 1e-5, "lambdas": (2.0, 0.5, 1.5), "label_weight_d": 3.0, "label_weight_g": 7.0}
SIZES = {"image_size": 32, "attributes": 3, "latent": 4}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return triton_device(request.param)


@pytest.fixture
def called(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Blocks are asked for; the networks that they compute are noted."""
    monkeypatch.setattr(triton, "_CHOICE", "blocks")
    if common.INTERPRETED:
        interpret(monkeypatch)
    found: list[str] = []

    def note(name: str) -> None:
        function = getattr(models, name)

        def noted(*arguments: Any) -> Any:
            found.append(name)
            return function(*arguments)

        monkeypatch.setattr(models, name, noted)

    note("block_features")
    note("block_image")
    return found


def interpret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare Triton's interpreter."""
    import triton_interpreter

    triton_interpreter.round_to_nearest(monkeypatch)
    triton_interpreter.few_programs(monkeypatch)


def steps(
    device: torch.device, dtype: torch.dtype = torch.float64, width: int = 1, film: bool = False, **config: Any
) -> tuple[Any, Any]:
    """A step with blocks and one of the reference, from the same weights."""
    made = []
    for wing in (igan_fast, reference):
        torch.manual_seed(3)
        model = wing.IterativeGAN(**SIZES, width=width, film=film).to(device, dtype)
        made.append(wing.TrainStep(model, StepConfig(**(CONFIG | config))))
    return made[0], made[1]


def batch(device: torch.device, dtype: torch.dtype = torch.float64, n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(7)
    images, labels, noise = torch.rand(n, 3, 32, 32) * 2 - 1, torch.rand(n, 3).round(), torch.rand(n, 4) * 2 - 1
    return images.to(device, dtype), labels.to(device, dtype), noise.to(device, dtype)


def assert_equal(ours: Any, plain: Any, tolerance: float) -> None:
    for (name, a), b in zip(ours.model.state_dict().items(), plain.model.state_dict().values(), strict=True):
        scale = b.abs().max().double().clamp(min=1e-3)
        assert (a - b).abs().max() <= tolerance * scale, name


def test_an_iteration_in_float64(device: torch.device, called: list[str]) -> None:
    ours, plain = steps(device)
    for name in ("iteration", "extra"):
        images, labels, noise = batch(device)
        if name == "iteration":
            losses = zip(ours(images, labels, noise), plain(images, labels, noise), strict=True)
            assert all(abs(a - b) < 1e-10 for a, b in losses)
            # G's images, D of both batches, D of G's images, G's rebuilds, D of these.
            assert called == ["block_image", *["block_features"] * 2, "block_image", "block_features"]
        else:
            for step in (ours, plain):
                step.extra_discriminator(images, labels, noise)
                step.extra_generator(labels, noise)
        assert_equal(ours, plain, 1e-8)


def test_scales_and_shifts_of_the_attributes(device: torch.device, called: list[str]) -> None:
    """With film, G's images, its running statistics, and the gradients of all its parameters."""
    ours, plain = (step.model.generator for step in steps(device, film=True))
    _, labels, noise = batch(device)
    images = ours.images(noise, labels), plain(noise, labels)
    assert called == ["block_image"]
    gradients = [
        torch.autograd.grad((image * torch.arange(32.0, device=device)).sum(), list(model.parameters()))
        for image, model in zip(images, (ours, plain), strict=True)
    ]
    assert len(gradients[0]) == len(list(ours.parameters()))
    for a, b in zip(
        (images[0], *gradients[0], *ours.buffers()), (images[1], *gradients[1], *plain.buffers()), strict=True
    ):
        assert (a - b).abs().max() <= 1e-10 * b.abs().max()


def test_the_gradient_penalty_and_several_groups(device: torch.device, called: list[str]) -> None:
    """The photos pass through D without blocks, and all other images with them."""
    ours, plain = steps(device, r1=2.0, r1_every=1, norm_groups=2)
    arguments = batch(device)
    assert all(abs(a - b) < 1e-10 for a, b in zip(ours(*arguments), plain(*arguments), strict=True))
    assert called == ["block_image", *["block_features"] * 2, "block_image", "block_features"]
    assert_equal(ours, plain, 1e-8)


def test_a_batch_in_portions(device: torch.device, called: list[str]) -> None:
    """Each group of the batch passes by itself; its statistics are collected, and move the running ones at the end."""
    whole = steps(device, norm_groups=2)[1]
    torch.manual_seed(3)
    model = igan_fast.IterativeGAN(**SIZES, width=1).to(device, torch.float64)
    parted = PartedStep(model, StepConfig(**CONFIG, norm_groups=2), BatchPlan(4, 2, accumulate=2))
    arguments = batch(device)
    assert all(abs(a - b) < 1e-10 for a, b in zip(parted(*arguments), whole(*arguments), strict=True))
    assert called.count("block_features") == 2 * 4
    assert called.count("block_image") == 2 * 3  # in both stages, and the rebuild
    assert_equal(parted, whole, 1e-8)
    for step in (parted, whole):
        step.extra_generator(*arguments[1:])
    assert called.count("block_image") == 2 * 4
    assert_equal(parted, whole, 1e-7)


def test_layers_that_are_no_blocks(device: torch.device, called: list[str]) -> None:
    """A hook sees the layer's output, and a parametrisation computes its weight: both as without blocks."""
    ours, plain = steps(device)
    seen = []
    ours.model.discriminator.down3.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    for step in (ours, plain):
        nn.utils.parametrizations.weight_norm(step.model.generator.up1.conv)
    images, labels, noise = batch(device)
    with torch.no_grad():
        pictures = ours.model.generator.images(noise, labels)
        last, maps = ours.model.discriminator.read(images)
        assert (pictures - plain.model.generator(noise, labels)).abs().max() < 1e-10
        assert (maps[2] - plain.model.discriminator(images).features[2]).abs().max() < 1e-10
    assert torch.equal(maps[3], last)
    assert len(seen) == 1
    assert called == []


def test_maps_of_either_kind_are_compared(
    device: torch.device, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of photos may have been read with blocks, and those of the rebuilds without, and the other way."""
    discriminator = steps(device)[0].model.discriminator
    photos, rebuilds = batch(device)[0], batch(device)[0].flip(0) / 2
    with torch.no_grad():
        maps = {"blocks": discriminator.read(photos)[1], "plain": discriminator.read(photos, twice=True)[1]}
        assert [isinstance(each, RawMap) for each in maps["blocks"]] == [True] * 4
        assert [isinstance(each, RawMap) for each in maps["plain"]] == [False] * 4
        distances = [discriminator.perceptual(rebuilds, maps[kind]) for kind in maps]
        monkeypatch.setattr(triton, "_CHOICE", "auto")
        distances += [discriminator.perceptual(rebuilds, maps[kind]) for kind in maps]
    assert max(distances) - min(distances) < 1e-10 * max(distances)


@pytest.mark.skipif(not common.INTERPRETED, reason="the interpreter tells which kernels are launched")
@pytest.mark.skipif(not backend.has_native_cpu(), reason="on a CPU, conv_norm_act is fused with the extension only")
def test_in_evaluation_a_block_is_one_kernel(
    device: torch.device, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The normalisation is folded into the convolution's weight and bias, and the LeakyReLU is part of its launch."""
    ours, plain = steps(device, torch.float32, width=8)
    images = batch(device, torch.float32)[0]
    launched: list[str] = []
    launch = InterpretedFunction.__getitem__

    def noted(kernel: InterpretedFunction, grid: tuple[int, ...]) -> Any:
        launched.append(kernel.__name__)
        return launch(kernel, grid)

    monkeypatch.setattr(InterpretedFunction, "__getitem__", noted)
    with torch.no_grad():
        found = ours.model.eval().discriminator(images).features
        assert launched == ["convolve_image", "convolve", "convolve", "convolve"]
        expected = plain.model.double().eval().discriminator(images.double()).features
    assert all((a - b).abs().max() < 1e-5 * b.abs().max() for a, b in zip(found, expected, strict=True))
    assert called == []


def test_an_iteration_in_bfloat16(device: torch.device, called: list[str]) -> None:
    """At most twice as far from the iteration in float32 as the reference's in bfloat16 is."""
    ours, plain = steps(device, torch.float32, precision="bf16")
    exact = steps(device, torch.float32)[1]
    losses = [torch.stack(step(*batch(device, torch.float32))).double() for step in (ours, plain, exact)]
    assert "block_image" in called
    errors = [(each - losses[2]).abs().max() for each in losses[:2]]
    assert errors[0] <= 2 * errors[1]
