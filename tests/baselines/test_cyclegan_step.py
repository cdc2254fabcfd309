"""CycleGAN's training against a second spelling, resumed, and on the fused operators."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from baseline_runs import copy_state, gradients, leaves, run, state, updates
from cyclegan_oracle import generate, judge, networks, pairs
from oracles import assert_near_apart_from_kinks, error
from torch import Tensor, nn

import igan_fast
from igan_fast.baselines.cyclegan import CycleGANNetworks, CycleGANStep
from igan_fast.baselines.cyclegan.pool import ImagePool
from igan_fast.errors import InputError
from igan_fast.fusion import fused_module
from igan_fast.reference import losses as reference_losses

NAMES = ["d_adversarial", "g_adversarial", "g_cycle", "g_identity"]


def step_of(made: CycleGANNetworks, iterations: int = 8, losses=reference_losses, pool_size: int = 2) -> CycleGANStep:
    return CycleGANStep(made, iterations=iterations, losses=losses, pool_size=pool_size)


def test_a_pool_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^pool_size is 0; expected at least 1"):
        step_of(networks(), pool_size=0)


def test_the_domains_are_the_photos_without_and_with_the_attribute():
    without, with_ = CycleGANStep.domains(np.array([[1], [0], [0], [1], [0]], np.uint8))
    assert without.tolist() == [1, 2, 4]
    assert with_.tolist() == [0, 3]
    assert without.dtype == with_.dtype == np.int64
    assert CycleGANStep.BATCH_SIZE == 1


@pytest.mark.parametrize(("value", "missing"), [(0, "with"), (1, "without")])
def test_an_empty_domain_is_named(value, missing):
    with pytest.raises(InputError, match=f"found no training photo {missing} the attribute"):
        CycleGANStep.domains(np.full((3, 1), value, np.uint8))


@pytest.mark.parametrize("shape", [(4, 0), (4, 2), (4,)])
def test_more_or_fewer_attributes_than_one_are_refused(shape):
    with pytest.raises(InputError, match=r"found labels of shape .*expected"):
        CycleGANStep.domains(np.zeros(shape, np.uint8))


class Pool:
    """The authors' pool, written a second time: a list of images. ``replaced`` counts the exchanges."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.images, self.replaced, self.kept = capacity, [], 0, 0

    def query(self, image: Tensor, random: torch.Generator) -> Tensor:
        image = image.detach().clone()
        if len(self.images) < self.capacity:
            self.images.append(image)
            return image
        replaces = torch.rand((), generator=random).item() > 0.5
        index = torch.randint(self.capacity, (), generator=random).item()
        if not replaces:
            self.kept += 1
            return image
        self.replaced += 1
        earlier, self.images[index] = self.images[index], image
        return earlier


def second_spelling(made: CycleGANNetworks, given, random: torch.Generator, rates: list[float], capacity: int):
    """The training, written a second time, pass by pass as the authors' code. A is domain 0, B domain 1."""
    to_a, to_b = (leaves(made.generators[value]) for value in (0, 1))
    d_a, d_b = (leaves(made.discriminators[value]) for value in (0, 1))
    pool_a, pool_b = Pool(capacity), Pool(capacity)
    adam_g = torch.optim.Adam([*to_a, *to_b], lr=0, betas=(0.5, 0.999), foreach=False)
    adam_d = torch.optim.Adam([*d_a, *d_b], lr=0, betas=(0.5, 0.999), foreach=False)
    l1 = nn.L1Loss()
    found = []

    def mse(predictions: Tensor, target: float) -> Tensor:
        return F.mse_loss(predictions, torch.full_like(predictions, target))

    def fooled(weights: list[Tensor], images: Tensor) -> Tensor:
        return mse(judge([weight.detach() for weight in weights], images), 1)

    for [(a, _), (b, _)], rate in zip(given, rates, strict=True):
        adam_g.param_groups[0]["lr"] = adam_d.param_groups[0]["lr"] = 2e-4 * rate
        fake_b, fake_a = generate(to_b, a), generate(to_a, b)
        losses = {
            "g_adversarial_0": fooled(d_a, fake_a),
            "g_adversarial_1": fooled(d_b, fake_b),
            "g_cycle_0": l1(generate(to_a, fake_b), a),
            "g_cycle_1": l1(generate(to_b, fake_a), b),
            "g_identity_0": l1(generate(to_a, a), a),
            "g_identity_1": l1(generate(to_b, b), b),
        }
        weights = {"adversarial": 1, "cycle": 10, "identity": 5}
        adam_g.zero_grad()
        sum(weights[name.split("_")[1]] * loss for name, loss in losses.items()).backward()
        adam_g.step()
        adam_d.zero_grad()
        for value, (weights_d, real, fake, pool) in enumerate([(d_a, a, fake_a, pool_a), (d_b, b, fake_b, pool_b)]):
            earlier = torch.stack([pool.query(image, random) for image in fake])
            loss = 0.5 * (mse(judge(weights_d, real), 1) + mse(judge(weights_d, earlier), 0))
            loss.backward()
            losses[f"d_adversarial_{value}"] = loss
        adam_d.step()
        found.append({name: float(loss.detach()) for name, loss in losses.items()})
    assert all(pool.replaced and pool.kept for pool in (pool_a, pool_b))
    return [*to_a, *to_b, *d_a, *d_b], [pool_a, pool_b], found


@pytest.mark.parametrize("n", [1, 2])
def test_the_training_equals_a_second_spelling(n):
    """8 iterations: pools of 2 images, which are full after two (one for n = 2); a learning rate that decays."""
    made, given = networks(), pairs(8, n=n)
    rates = [1.0] * 4 + [4 / 5, 3 / 5, 2 / 5, 1 / 5]
    expected, pools, expected_losses = second_spelling(made, given, torch.Generator().manual_seed(4), rates, 2)
    initial = leaves(made)
    step = step_of(made)
    losses = run(step, given, torch.Generator().manual_seed(4))
    assert step.iteration == 8
    for ours, theirs in zip(losses, expected_losses, strict=True):
        assert list(ours) == list(losses[0])
        assert ours == pytest.approx(theirs, rel=1e-8, abs=1e-10)
    assert set(losses[0]) == {f"{name}_{value}" for name in NAMES for value in (0, 1)}
    assert set(CycleGANStep.SHOWN) <= set(losses[0])
    assert min((p - q).abs().max().item() for p, q in zip(made.parameters(), initial, strict=True)) > 1e-4
    for ours, theirs in zip(made.parameters(), expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-9
    tensors = step.tensors()
    assert tensors["pool_counts"].tolist() == [2, 2]
    for value, pool in enumerate(pools):
        assert error(tensors[f"pool_{value}"], torch.stack(pool.images)) < 1e-8


def test_only_trained_parameters_get_gradients(monkeypatch):
    """The generators' once per direction and use; the discriminators' once each, when the generators are trained."""
    made = networks()
    step, got = step_of(made), updates(made)
    seen = []
    query = ImagePool.query
    monkeypatch.setattr(ImagePool, "query", lambda *args: [seen.append(list(got)), query(*args)][1])
    step(pairs(1)[0], torch.Generator())
    names = [name for name, _ in made.named_parameters()]
    before = seen[0]
    assert set(before) == {name for name in names if name.startswith("generators")}
    after = got[len(before) :]
    assert sorted(after) == sorted(name for name in names if name.startswith("discriminators"))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in made.parameters())


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_resumed_run_is_bit_equal(at):
    """Also with pools that are empty or half full."""
    given, random = pairs(9, dtype=torch.float32), torch.Generator().manual_seed(3)
    step = step_of(networks(dtype=torch.float32), iterations=9)
    run(step, given[:at], random)
    assert step.tensors()["pool_counts"].tolist() == [min(at, 2)] * 2
    saved = random.get_state()
    torch.manual_seed(99)
    resumed = step_of(CycleGANNetworks(32, width=4), iterations=9)
    copy_state(step, resumed)
    expected = run(step, given[at:], random)
    random.set_state(saved)
    assert run(resumed, given[at:], random) == expected
    ours, theirs = state(resumed), state(step)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pool_counts", torch.tensor([0, 3]), r"pool_counts is \[0, 3\]; expected numbers from 0 to 2"),
        ("pool_counts", torch.tensor([-1, 0]), r"pool_counts is \[-1, 0\]; expected numbers from 0 to 2"),
        ("pool_0", torch.full((2, 3, 32, 32), 1.5), r"pool_0 has pixels outside \[−1, 1\]"),
        ("pool_1", torch.full((2, 3, 32, 32), torch.nan), r"pool_1 has pixels outside \[−1, 1\]"),
    ],
)
def test_an_impossible_pool_is_refused_and_changes_nothing(name, value, message):
    step = step_of(networks(dtype=torch.float32))
    run(step, pairs(1, dtype=torch.float32), torch.Generator())
    before = state(step)
    with pytest.raises(ValueError, match=message):
        step.load_tensors(step.tensors() | {"pool_0": torch.zeros(2, 3, 32, 32), name: value})
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(step).items())


@pytest.mark.every_build
def test_fused_networks_train_as_plain_ones(monkeypatch):
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS", 0)
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS_PER_INSTANCE", 0)
    plain, given = networks(), pairs(6, n=2)
    fused = copy.deepcopy(plain)
    report = igan_fast.fuse(fused)
    convolutions = [m for m in plain.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.InstanceNorm2d)]
    assert len(report.fused) == len(convolutions)
    assert not report.left_alone
    assert list(fused.state_dict()) == list(plain.state_dict())
    steps = step_of(fused, losses=igan_fast.losses), step_of(plain)
    found = [run(step, given, torch.Generator().manual_seed(2)) for step in steps]
    for ours, theirs in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-8, abs=1e-10)
    ours, theirs = map(state, steps)
    for name in theirs:
        assert error(ours[name], theirs[name]) < 1e-7, name


@pytest.mark.every_build
def test_gradients_of_fused_networks_in_float32_are_near_the_plain_ones_in_float64(monkeypatch):
    """On our own convolution kernels. The learning rate is 0, as after the training, so that the weights stay alike."""
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS", 0)

    def error_with(seed: int) -> float:
        fused, exact = networks(dtype=torch.float32, width=16), networks(width=16)
        igan_fast.fuse(fused)
        ours = gradients(step_of(fused, 0, igan_fast.losses), pairs(seed, n=2, dtype=torch.float32))
        theirs = gradients(step_of(exact, 0), pairs(seed, n=2))
        assert ours.keys() == theirs.keys() == {name for name, _ in exact.named_parameters()}
        return max(error(ours[name], theirs[name]) for name in theirs)

    assert_near_apart_from_kinks(error_with)
