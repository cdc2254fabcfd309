"""StarGAN's training against a second spelling, resumed, and on the fused operators."""

from __future__ import annotations

import copy

import pytest
import torch
from baseline_runs import batches, copy_state, gradients, leaves, run, state, updates
from oracles import assert_near_apart_from_kinks, error
from stargan_oracle import ATTRIBUTES, generate, judge, networks
from torch import Tensor, nn

import igan_fast
from igan_fast.baselines.stargan import StarGANNetworks, StarGANStep
from igan_fast.fusion import fused_module
from igan_fast.reference import losses as reference_losses

NAMES = ["d_adversarial", "d_label", "d_penalty", "g_adversarial", "g_label", "g_reconstruction"]


def step_of(made: StarGANNetworks, iterations: int = 12, losses=reference_losses) -> StarGANStep:
    return StarGANStep(made, iterations=iterations, losses=losses)


def second_spelling(made: StarGANNetworks, given, random: torch.Generator, rates: list[float]):
    """The training, written a second time, pass by pass as the authors' code. Returns parameters and losses."""
    g, d = leaves(made.generator), leaves(made.discriminator)
    found, losses_g = [], [0.0, 0.0, 0.0]
    adam_g = torch.optim.Adam(g, lr=0, betas=(0.5, 0.999), foreach=False)
    adam_d = torch.optim.Adam(d, lr=0, betas=(0.5, 0.999), foreach=False)
    for iteration, ([(x, c)], rate) in enumerate(zip(given, rates, strict=True), start=1):
        c = c.double()
        target = c[torch.randperm(len(x), generator=random)]
        alpha = torch.rand(len(x), 1, 1, 1, generator=random).double()
        adam_g.param_groups[0]["lr"] = adam_d.param_groups[0]["lr"] = 1e-4 * rate

        def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
            p = torch.sigmoid(logits)
            return -(labels * p.log() + (1 - labels) * (1 - p).log()).sum() / len(logits)

        real, real_labels = judge(d, x)
        fake, _ = judge(d, generate(g, x, target).detach())
        x_hat = (alpha * x + (1 - alpha) * generate(g, x, target).detach()).requires_grad_()
        y, _ = judge(d, x_hat)
        (slope,) = torch.autograd.grad(y, x_hat, torch.ones_like(y), create_graph=True)
        penalty = ((slope.square().sum((1, 2, 3)).sqrt() - 1) ** 2).mean()
        label = label_loss(real_labels, c)
        adam_d.zero_grad()
        (-real.mean() + fake.mean() + label + 10 * penalty).backward()
        adam_d.step()
        losses_d = [
            float((fake.mean() - real.mean()).detach()),
            float(label.detach()) / ATTRIBUTES,
            float(penalty.detach()),
        ]
        if iteration in (5, 10):
            edited = generate(g, x, target)
            source, logits = judge(d, edited)
            label, rebuild = label_loss(logits, target), (x - generate(g, edited, c)).abs().mean()
            adam_g.zero_grad()
            (-source.mean() + 10 * rebuild + label).backward()
            adam_g.step()
            losses_g = [-float(source.mean().detach()), float(label.detach()) / ATTRIBUTES, float(rebuild.detach())]
        found.append(dict(zip(NAMES, losses_d + losses_g, strict=True)))
    return g, d, found


@pytest.mark.parametrize("layers", [3, 6])
def test_the_training_equals_a_second_spelling(monkeypatch, layers):
    """12 iterations: two updates of the generator, and a learning rate that decays from the seventh on. With 3 layers
    the source map has several pixels, as in large images."""
    monkeypatch.setattr("igan_fast.baselines.stargan.networks.DISCRIMINATOR_LAYERS", layers)
    made, given = networks(), batches(12)
    rates = [1.0] * 6 + [6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]
    g, d, expected = second_spelling(made, given, torch.Generator().manual_seed(8), rates)
    initial = leaves(made)
    step = step_of(made)
    losses = run(step, given, torch.Generator().manual_seed(8))
    assert step.iteration == 12
    for ours, theirs in zip(losses, expected, strict=True):
        assert list(ours) == NAMES
        assert ours == pytest.approx(theirs, rel=1e-8, abs=1e-10)
    moved = [(a - b).abs().max().item() for a, b in zip(made.parameters(), initial, strict=True)]
    assert min(moved) > 1e-4
    for ours, theirs in zip(made.parameters(), g + d, strict=True):
        assert (ours - theirs).abs().max() < 1e-9
    assert all(group["lr"] == pytest.approx(1e-4 / 7) for o in step.optimizers.values() for group in o.param_groups)


def test_only_trained_parameters_get_gradients():
    made = networks()
    step, random, got = step_of(made), torch.Generator().manual_seed(0), updates(made)
    of_d = sorted(name for name, _ in made.named_parameters() if name.startswith("discriminator"))
    of_g = sorted(name for name, _ in made.named_parameters() if name.startswith("generator"))
    for iteration, batch in enumerate(batches(6), start=1):
        got.clear()
        step(batch, random)
        assert sorted(got) == (of_d + of_g if iteration == 5 else of_d)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in made.parameters())


@pytest.mark.parametrize("at", [0, 3, 5, 8])
def test_a_resumed_run_is_bit_equal(at):
    """Also where the generator was not trained yet, and between its updates."""
    given, random = batches(11, dtype=torch.float32), torch.Generator().manual_seed(3)
    step = step_of(networks(dtype=torch.float32), iterations=11)
    run(step, given[:at], random)
    saved = random.get_state()
    torch.manual_seed(99)
    resumed = step_of(StarGANNetworks(32, ATTRIBUTES, width=4), iterations=11)
    copy_state(step, resumed)
    expected = run(step, given[at:], random)
    random.set_state(saved)
    assert run(resumed, given[at:], random) == expected
    ours, theirs = state(resumed), state(step)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_last_losses_of_the_generator_are_checked():
    step = step_of(networks())
    assert step.tensors()["losses_g"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"losses_g is .*nan.*expected finite"):
        step.load_tensors({"losses_g": torch.tensor([0, float("nan"), 0])})


def test_the_given_photos_and_labels_do_not_change():
    step = step_of(networks())
    ((images, labels),) = given = batches(1)[0]
    before = images.clone(), labels.clone()
    step(given, torch.Generator())
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
    assert not images.requires_grad


def test_one_photo_is_a_batch():
    losses = run(step_of(networks()), batches(5, n=1), torch.Generator())
    assert all(torch.tensor(list(found.values())).isfinite().all() for found in losses)


def test_there_is_one_domain_of_all_photos():
    (rows,) = StarGANStep.domains(torch.zeros(4, ATTRIBUTES, dtype=torch.uint8).numpy())
    assert rows.tolist() == [0, 1, 2, 3]
    assert StarGANStep.BATCH_SIZE == 16
    assert set(StarGANStep.SHOWN) <= set(NAMES)


@pytest.mark.every_build
def test_fused_networks_train_as_plain_ones(monkeypatch):
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS", 0)
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS_PER_INSTANCE", 0)
    plain, given = networks(), batches(10)
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
        ours = gradients(step_of(fused, 0, igan_fast.losses), batches(5, dtype=torch.float32, seed=seed))
        theirs = gradients(step_of(exact, 0), batches(5, seed=seed))
        assert ours.keys() == theirs.keys() == {name for name, _ in exact.named_parameters()}
        return max(error(ours[name], theirs[name]) for name in theirs)

    assert_near_apart_from_kinks(error_with)
