"""StarGAN's networks against a second spelling, and their second derivatives on the fused operators."""

from __future__ import annotations

import copy

import pytest
import torch
from baseline_runs import batches
from oracles import error
from stargan_oracle import ATTRIBUTES, generate, judge, networks
from torch import nn

import igan_fast
from igan_fast.baselines.stargan import StarGANNetworks
from igan_fast.fusion import fused_module


@pytest.mark.parametrize(
    ("size", "layers", "source"), [(32, 5, 1), (48, 5, 1), (64, 6, 1), (80, 6, 1), (128, 6, 2), (208, 6, 3)]
)
def test_networks_fit_the_image_size(size, layers, source):
    made = StarGANNetworks(size, ATTRIBUTES, width=2).eval()
    images, labels = torch.rand(2, 3, size, size) * 2 - 1, torch.ones(2, ATTRIBUTES)
    edited = made.edit(images, labels, {1: 0})
    assert edited.shape == images.shape
    assert edited.abs().max() <= 1
    map_, logits = made.discriminator(images)
    assert map_.shape == (2, 1, source, source)
    assert logits.shape == (2, ATTRIBUTES)
    strided = [m for m in made.discriminator.features if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in strided] == [2 * 2**layer for layer in range(layers)]


def test_the_networks_have_as_many_parameters_as_the_papers():
    """Counted by hand in the paper's Tables 4 and 5, for 128² and 5 attributes."""
    made = StarGANNetworks(128, 5)
    assert sum(p.numel() for p in made.generator.parameters()) == 8_430_528
    assert sum(p.numel() for p in made.discriminator.parameters()) == 44_762_048


@pytest.mark.parametrize("size", [32, 48, 64])
def test_the_networks_equal_a_second_spelling(size):
    made = networks(size)
    ((images, labels),) = batches(1, size=size)[0]
    expected = generate(list(made.generator.parameters()), images, labels)
    assert error(made.generator(images, labels), expected) < 1e-10
    for a, e in zip(made.discriminator(images), judge(list(made.discriminator.parameters()), images), strict=True):
        assert error(a, e) < 1e-10


def test_an_edit_gives_the_generator_the_changed_labels_and_leaves_the_given_ones():
    made = networks().eval()
    ((images, labels),) = batches(1)[0]
    before = labels.clone()
    edited = made.edit(images, labels, {2: 1, 0: 0})
    target = torch.stack([torch.zeros(3), labels[:, 1], torch.ones(3)], dim=1)
    assert torch.equal(edited, made.generator(images, target))
    assert torch.equal(labels, before)
    assert torch.equal(made.edit(images, labels, {}), made.generator(images, labels))
    assert not torch.equal(edited, made.edit(images, labels, {2: 0, 0: 0}))


def test_evaluation_mode_edits_as_training_mode():
    made = networks()
    ((images, labels),) = batches(1)[0]
    trained = made.train().edit(images, labels, {0: 1})
    assert torch.equal(made.eval().edit(images, labels, {0: 1}), trained)


@pytest.mark.parametrize("changes", [{3: 1}, {-1: 1}, {0: 0.5}, {0: float("nan")}])
def test_an_impossible_edit_is_refused(changes):
    ((images, labels),) = batches(1)[0]
    with pytest.raises(ValueError, match=r"changes has .*expected 0 or 1 for 0 to 2"):
        networks().edit(images, labels, changes)


def test_it_does_not_generate():
    with pytest.raises(NotImplementedError, match="StarGANNetworks"):
        networks().generate(torch.zeros(1, 4), torch.zeros(1, ATTRIBUTES))


@pytest.mark.parametrize(
    ("name", "value"), [("image_size", 16), ("image_size", 40), ("image_size", 0), ("attributes", 0), ("width", 0)]
)
def test_bad_sizes_are_named(name, value):
    sizes = {"image_size": 32, "attributes": 2, "width": 4} | {name: value}
    with pytest.raises(ValueError, match=f"^{name} is {value}; expected"):
        StarGANNetworks(**sizes)


@pytest.mark.every_build
@pytest.mark.parametrize("size", [32, 48])
def test_the_penalty_has_second_derivatives_on_the_fused_operators(monkeypatch, size):
    """float32, on our own convolution kernels, against plain PyTorch in float64; after a call that they learn from."""
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS", 0)
    exact = networks(size, width=16).discriminator
    for parameter in exact.parameters():
        parameter.data.mul_(3)  # so that the penalty is not that of a gradient of nearly 0
    fused = copy.deepcopy(exact).float()
    igan_fast.fuse(fused)
    ((images, _),) = batches(1, n=4, size=size)[0]
    found = []
    for discriminator in (fused, exact):
        weights = list(discriminator.parameters())
        for _ in range(3):
            x = images.to(weights[0].dtype).requires_grad_()
            (slope,) = torch.autograd.grad(discriminator(x)[0].sum(), x, create_graph=True)
            penalty = (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1).square().mean()
            gradients = torch.autograd.grad(penalty, weights, allow_unused=True)
        found.append([penalty, slope, *gradients])
    for a, e in zip(*found, strict=True):
        assert (a is None) == (e is None)
        assert e is None or error(a, e) < 1e-4
    assert found[1][2].abs().max() > 1e-4
