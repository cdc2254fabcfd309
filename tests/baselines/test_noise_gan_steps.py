"""The training iterations of DCGAN, CGAN and AC-GAN."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from oracles import error
from spelled_gans import SpelledGAN
from torch import Tensor, nn

import igan_fast
from igan_fast.baselines.acgan import ACGAN, ACGANStep
from igan_fast.baselines.adversarial import AdversarialStep
from igan_fast.baselines.cgan import CGAN, CGANStep
from igan_fast.baselines.convolutional import NoiseNetworks
from igan_fast.baselines.dcgan import DCGAN, DCGANStep
from igan_fast.baselines.interface import LabelledImages
from igan_fast.fusion import fused_module
from igan_fast.reference import losses as reference_losses

STEPS: dict[type[NoiseNetworks], type[AdversarialStep]] = {DCGAN: DCGANStep, CGAN: CGANStep, ACGAN: ACGANStep}
LOSSES = {
    DCGAN: ["d_adversarial", "g_adversarial"],
    CGAN: ["d_adversarial", "g_adversarial"],
    ACGAN: ["d_adversarial", "d_label_real", "d_label_fake", "g_adversarial", "g_label"],
}
every_baseline = pytest.mark.parametrize("networks", STEPS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_step(
    networks: type[NoiseNetworks], dtype: torch.dtype = torch.float64, *, size: int = 32, width: int = 4, **options: Any
) -> AdversarialStep:
    """The initial weights are the same for every dtype."""
    torch.manual_seed(0)
    return STEPS[networks](networks(size, 3, width=width).to(dtype), iterations=10, **options)


def batches(
    count: int, dtype: torch.dtype = torch.float64, n: int = 4, size: int = 32
) -> Iterator[tuple[LabelledImages]]:
    random = generator(7)
    for _ in range(count):
        images = torch.rand(n, 3, size, size, generator=random) * 2 - 1
        yield (LabelledImages(images.to(dtype), (torch.rand(n, 3, generator=random) < 0.5).to(dtype)),)


def run(step: AdversarialStep, count: int, random: torch.Generator, **options: Any) -> list[list[float]]:
    """Train ``count`` iterations, and return the losses of each."""
    dtype = next(step.networks.parameters()).dtype
    return [[loss.item() for loss in step(batch, random).values()] for batch in batches(count, dtype, **options)]


def largest_error(actual: nn.Module, expected: dict[str, Tensor]) -> float:
    """Over all parameters and statistics of the networks, which have to have the same keys."""
    found = actual.state_dict()
    assert list(found) == list(expected)
    return max(error(found[name], expected[name]) for name in expected)


@every_baseline
@pytest.mark.parametrize(("size", "n"), [(32, 4), (48, 3), (32, 1)])
def test_two_iterations_equal_those_of_a_second_spelling(networks: type[NoiseNetworks], size: int, n: int) -> None:
    step = make_step(networks, size=size)
    spelled = SpelledGAN(networks.__name__, step.networks.state_dict())
    random = generator(1)
    expected = [spelled.iterate(*batch, random) for (batch,) in batches(2, n=n, size=size)]
    torch.testing.assert_close(torch.tensor(run(step, 2, generator(1), n=n, size=size)), torch.tensor(expected))
    # Adam divides by √v + 1e-8, which enlarges the rounding errors of small gradients
    assert largest_error(step.networks, spelled.state) < 1e-8
    assert step.iteration == 2


@every_baseline
def test_losses_and_counts(networks: type[NoiseNetworks]) -> None:
    step = make_step(networks, torch.float32)
    assert step.iteration == 0
    assert list(step.optimizers) == ["optimizer_d", "optimizer_g"]
    for optimizer in step.optimizers.values():
        assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (2e-4, (0.5, 0.999))
        assert optimizer.defaults["weight_decay"] == 0
    for count, batch in enumerate(batches(3, torch.float32), 1):
        losses = step(batch, generator())
        assert list(losses) == LOSSES[networks]
        for loss in losses.values():
            assert (loss.shape, loss.dtype, loss.requires_grad) == ((), torch.float32, False)
        assert set(step.SHOWN) <= set(losses)
        assert step.iteration == count
    # at the first iteration D and G know nothing: the logits are near 0, and each cross-entropy is near log 2
    first = make_step(networks, torch.float32)(next(batches(1, torch.float32)), generator())
    assert first["d_adversarial"].item() == pytest.approx(2 * 0.693, rel=0.2)
    assert step.tensors() == {}


def test_batch_sizes_are_the_authors() -> None:
    assert [step.BATCH_SIZE for step in STEPS.values()] == [128, 128, 100]


@every_baseline
def test_domains_have_all_photos(networks: type[NoiseNetworks]) -> None:
    (rows,) = STEPS[networks].domains(torch.zeros(5, 3, dtype=torch.uint8).numpy())
    assert rows.tolist() == [0, 1, 2, 3, 4]


@every_baseline
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.every_build
def test_fused_networks_train_as_plain_ones(
    networks: type[NoiseNetworks], dtype: torch.dtype, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors as small as these are usually left to PyTorch."""
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS", 0)
    plain, fused = make_step(networks, dtype, losses=reference_losses), make_step(networks, dtype)
    for step in (plain, fused):
        if channels_last:
            step.networks.to(memory_format=torch.channels_last)
    report = igan_fast.fuse(fused.networks)
    assert len(report.fused) == len(report) == sum(is_fusible(module) for module in plain.networks.modules())
    expected, found = (torch.tensor(run(step, 5, generator(1))) for step in (plain, fused))
    norms = [entry.result for entry in report if entry.kind == "BatchNorm2d"]
    if igan_fast.ops.backends()["native-cpu"] == "available":
        assert all(result.startswith("with the ") for result in norms), str(report)
    tolerance = 1e-8 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert largest_error(fused.networks, plain.networks.state_dict()) < tolerance
    # and after training, in evaluation: from the running statistics
    z, c = plain.networks.draw_noise(2, generator()), torch.eye(3, dtype=dtype)[:2]
    with torch.no_grad():
        images = [step.networks.eval().generate(z, c) for step in (plain, fused, fused)]
    assert max(error(image, images[0]) for image in images[1:]) < tolerance


def is_fusible(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d)


@every_baseline
def test_a_resumed_training_is_the_same_bit_by_bit(networks: type[NoiseNetworks]) -> None:
    whole, random = make_step(networks, torch.float32), generator(1)
    data = list(batches(5, torch.float32))
    for batch in data[:2]:
        whole(batch, random)
    torch.manual_seed(5)  # other initial weights
    resumed = STEPS[networks](networks(32, 3, width=4), iterations=10)
    resumed.networks.load_state_dict(copy.deepcopy(whole.networks.state_dict()))
    for name, optimizer in resumed.optimizers.items():
        optimizer.load_state_dict(copy.deepcopy(whole.optimizers[name].state_dict()))
    resumed.load_tensors(whole.tensors())
    resumed.iteration = whole.iteration
    other = generator()
    other.set_state(random.get_state())
    for batch in data[2:]:
        torch.manual_seed(6)  # PyTorch's global generator decides nothing
        losses = [torch.stack(list(step(batch, r).values())) for step, r in ((whole, random), (resumed, other))]
        assert torch.equal(*losses)
    assert resumed.iteration == whole.iteration == 5
    for name, tensor in whole.networks.state_dict().items():
        assert torch.equal(tensor, resumed.networks.state_dict()[name]), name


@every_baseline
def test_random_numbers_come_from_the_given_generator_alone(networks: type[NoiseNetworks]) -> None:
    step, state = make_step(networks), torch.get_rng_state()
    (losses,) = run(step, 1, generator(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert run(make_step(networks), 1, generator(1)) == [losses]
    assert run(make_step(networks), 1, generator(2)) != [losses]


@every_baseline
def test_an_update_reaches_the_parameters_of_its_network_alone(networks: type[NoiseNetworks]) -> None:
    step = make_step(networks)
    model = step.networks
    seen: list[tuple[str, list[Tensor | None], list[Tensor]]] = []

    def record(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
            seen.append((name, grads, [p.detach().clone() for p in model.parameters()]))

        return hook

    for name, optimizer in step.optimizers.items():
        optimizer.register_step_pre_hook(record(f"before {name}"))
        optimizer.register_step_post_hook(record(f"after {name}"))
    run(step, 1, generator())
    assert [name for name, *_ in seen] == [f"{when} optimizer_{net}" for net in "dg" for when in ("before", "after")]
    in_g = [name.startswith("generator") for name, _ in model.named_parameters()]
    before_d, after_d, before_g, after_g = seen
    for i, of_g in enumerate(in_g):
        assert (before_d[1][i] is None) == of_g  # D's update gives G no gradient
        assert before_g[1][i] is not None
        assert torch.equal(before_d[2][i], after_d[2][i]) == of_g
        assert torch.equal(before_g[2][i], after_g[2][i]) != of_g
        if not of_g:  # G's update adds nothing to D's gradients
            assert torch.equal(before_g[1][i], before_d[1][i])


@every_baseline
def test_labels_count_where_they_enter(networks: type[NoiseNetworks]) -> None:
    (batch,) = next(batches(1))
    results = [make_step(networks)([batch._replace(labels=c)], generator()) for c in (batch.labels, 1 - batch.labels)]
    assert (results[0] == results[1]) == (networks is DCGAN)


@pytest.mark.parametrize("networks", [CGAN, ACGAN])
def test_generated_images_come_to_show_their_label(networks: type[NoiseNetworks]) -> None:
    """Photos with the attribute are red, the others blue. A larger learning rate makes the training short."""
    torch.manual_seed(0)
    step = STEPS[networks](networks(32, 1, width=8), iterations=80)
    for optimizer in step.optimizers.values():
        optimizer.param_groups[0]["lr"] = 2e-3
    random = generator(1)
    for _ in range(80):
        c = (torch.rand(8, 1, generator=random) < 0.5).float()
        colour = torch.cat([2 * c - 1, 0 * c, 1 - 2 * c], 1)[:, :, None, None] * 0.7
        step([LabelledImages(colour + 0.2 * torch.randn(8, 3, 32, 32, generator=random), c)], random)
    model = step.networks.eval()
    z = model.draw_noise(16, random)
    with torch.no_grad():
        absent, present = (model.generate(z, torch.full((16, 1), c)).mean((2, 3)) for c in (0.0, 1.0))
    redder = (present[:, 0] - present[:, 2]) - (absent[:, 0] - absent[:, 2])
    assert redder.mean() > 0.1
