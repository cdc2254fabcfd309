"""The iteration with its additions to the paper: the fused one against the reference's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import igan_fast
from igan_fast import reference
from igan_fast.reference import StepConfig, draw_flips

IMPLS = {"reference": reference, "fused": igan_fast}

EDITED = {"edited_share": 0.5, "flip_weight": 4.0}
ADDITIONS = {
    "edited rebuilds": EDITED,
    "no label loss on fakes": {"label_weight_fake": 0.0},
    "gradient penalty": {"r1": 0.3, "r1_every": 2},
    "z learns from the rebuild": {"latent_lr_scale": 3.0},
    "all": {**EDITED, "label_weight_fake": 0.5, "r1": 0.3, "r1_every": 2, "latent_lr_scale": 3.0},
}
CONFIG = StepConfig(lr=1e-4, lambdas=(2.0, 0.5, 1.5), label_weight_d=3.0, label_weight_g=7.0)
ALL = dataclasses.replace(CONFIG, **ADDITIONS["all"])


def make_step(impl: str, config: StepConfig, dtype: torch.dtype = torch.float32, **sizes):
    """A step of either implementation. The initial weights are the same for both, and for every dtype."""
    torch.manual_seed(3)
    arguments = {"image_size": 32, "attributes": 5, "latent": 6, "width": 16, "film": True} | sizes
    return IMPLS[impl].TrainStep(IMPLS[impl].IterativeGAN(**arguments).to(dtype), config)


def batches(count: int, dtype: torch.dtype = torch.float32, n: int = 6, size: int = 32):
    """The same images, labels, noise and flips for every dtype."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        images = torch.rand(n, 3, size, size, generator=generator) * 2 - 1
        labels = (torch.rand(n, 5, generator=generator) < 0.5).float()
        noise = torch.rand(n, 6, generator=generator) * 2 - 1
        yield images.to(dtype), labels.to(dtype), noise.to(dtype), draw_flips(n, 5, 0.5, generator=generator)


def run(step, count: int, dtype: torch.dtype = torch.float32, *, extra: bool = False, **options) -> Tensor:
    """The losses of some iterations. ``extra``: each is followed by an extra update of D and one of G."""
    losses = []
    for images, labels, noise, flips in batches(count, dtype, **options):
        losses.append(torch.stack([loss.double() for loss in step(images, labels, noise, flips)]))
        if extra:
            step.extra_discriminator(images, labels, noise.flip(0), flips)
            step.extra_generator(labels, noise.roll(1, 0), flips)
    return torch.stack(losses)


@pytest.mark.parametrize("addition", ADDITIONS)
def test_iterations_end_in_the_same_weights_in_float64(addition):
    """Twelve with all additions. Each alone gets four: the penalty comes twice, kept codes are used three times."""
    count = 12 if addition == "all" else 4
    config = dataclasses.replace(CONFIG, **ADDITIONS[addition])
    ends = []
    for impl in IMPLS:
        step = make_step(impl, config, torch.float64)
        ends.append((run(step, count, torch.float64, extra=addition == "all"), step))
    (their_losses, theirs), (our_losses, ours) = ends
    torch.testing.assert_close(our_losses, their_losses, rtol=1e-8, atol=1e-10)
    for (name, p), q in zip(ours.model.state_dict().items(), theirs.model.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8 * q.abs().max().item(), msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("size", "film", "count"), [(32, True, 20), (64, False, 6)])
def test_iterations_end_in_the_same_weights_in_float32(size, film, count):
    ends = []
    for impl in IMPLS:
        step = make_step(impl, dataclasses.replace(ALL, lr=1e-5), image_size=size, film=film)
        run(step, count, extra=True, size=size)
        ends.append(torch.cat([t.double().flatten() for t in step.model.state_dict().values()]))
    assert ((ends[1] - ends[0]).norm() / ends[0].norm()).item() < 1e-3


def test_the_error_of_bf16_is_like_that_of_the_references_bf16():
    """Over two iterations: with the penalty, and with edited rebuilds."""
    exact = run(make_step("reference", dataclasses.replace(ALL, lr=1e-5), torch.float64), 2, torch.float64)
    away = {}
    for impl in IMPLS:
        step = make_step(impl, dataclasses.replace(ALL, lr=1e-5, precision="bf16"))
        away[impl] = (run(step, 2) - exact).abs()
        assert {p.dtype for p in step.model.parameters()} == {torch.float32}
        assert step.edited.z.dtype == torch.float32
    assert (away["fused"] <= 2 * away["reference"] + 0.01).all(), away


def test_the_optimisers_hold_the_same_parameters_in_the_same_order():
    ours, theirs = make_step("fused", ALL), make_step("reference", ALL)
    for name in ("optimizer_d", "optimizer_g", "optimizer_z"):
        shapes = [[p.shape for p in getattr(s, name).param_groups[0]["params"]] for s in (ours, theirs)]
        assert shapes[0] == shapes[1]
        rates = [getattr(s, name).param_groups[0]["lr"] for s in (ours, theirs)]
        assert rates[0] == rates[1] == pytest.approx(3e-4 if name == "optimizer_z" else 1e-4)
    assert make_step("fused", CONFIG).optimizer_z is make_step("reference", CONFIG).optimizer_z is None


def test_each_stage_trains_its_own_networks_and_afterwards_all_parameters_require_grad():
    images, labels, noise, flips = next(batches(1))
    for act, expected in (
        (lambda s: s(images, labels, noise, flips), {"generator", "discriminator", "classifier"}),
        (lambda s: s.extra_discriminator(images, labels, noise, flips), {"discriminator", "classifier"}),
        (lambda s: s.extra_generator(labels, noise, flips), {"generator"}),
    ):
        step = make_step("fused", ALL)
        before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
        act(step)
        changed = {n.split(".")[0] for n, p in step.model.named_parameters() if not torch.equal(p, before[n])}
        assert changed == expected
        assert all(p.requires_grad for p in step.model.parameters())
        assert all(p.grad is None for p in step.model.parameters())


def test_statistics_are_updated_as_often_as_by_the_reference():
    counts = []
    for impl in IMPLS:
        step = make_step(impl, ALL)
        run(step, 3, extra=True)
        counts.append({k: v.item() for k, v in step.model.named_buffers() if "num_batches" in k})
    assert counts[0] == counts[1]


def test_two_runs_are_bit_for_bit_equal():
    ends = []
    for _ in range(2):
        step = make_step("fused", ALL)
        run(step, 3, extra=True)
        ends.append(step.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_iterations_are_counted_and_extra_updates_are_not():
    for impl in IMPLS:
        step = make_step(impl, ALL)
        run(step, 3, extra=True)
        assert step.iteration == 3
        assert step.penalises_now() is False


@pytest.mark.parametrize("impl", IMPLS)
def test_labels_that_the_caller_overwrites_are_kept_as_they_were(impl):
    step = make_step(impl, ALL)
    images, labels, noise, flips = next(batches(1))
    given = labels.clone()
    step(images, labels, noise, flips)
    labels.zero_()
    assert torch.equal(step.edited.labels, given)


def test_the_penalty_computes_no_gradient_of_the_images(monkeypatch):
    """Only the derivative of the source logits; the images are no parameters."""
    step = make_step("fused", ALL)
    images, labels, noise, flips = next(batches(1))
    seen = []
    backward = torch.autograd.backward

    def watched(*arguments, inputs=None):
        seen.append(inputs)
        backward(*arguments, inputs=inputs)

    monkeypatch.setattr(torch.autograd, "backward", watched)
    step(images, labels, noise, flips)
    assert len(seen[0]) == len(step._parameters_d)
    assert images.grad is None
