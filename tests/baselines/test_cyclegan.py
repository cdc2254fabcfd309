"""CycleGAN's networks against a second spelling."""

from __future__ import annotations

import pytest
import torch
from cyclegan_oracle import generate, judge, networks, pairs
from oracles import error
from torch import nn

from igan_fast.baselines.cyclegan import CycleGANNetworks


@pytest.mark.parametrize(("size", "blocks", "map_"), [(32, 6, 2), (48, 6, 4), (64, 6, 6), (128, 6, 14), (256, 9, 30)])
def test_networks_fit_the_image_size(size, blocks, map_):
    made = CycleGANNetworks(size, width=2).eval()
    images = torch.rand(2, 3, size, size) * 2 - 1
    with torch.no_grad():
        edited = made.edit(images, torch.zeros(2, 1), {0: 1})
        assert made.discriminators[0](images).shape == (2, 1, map_, map_)
    assert edited.shape == images.shape
    assert edited.abs().max() <= 1
    residual = [module for module in made.generators[0].layers if hasattr(module, "layers")]
    assert len(residual) == blocks


def test_a_prediction_depends_on_70_by_70_pixels():
    """Without the normalisations, which depend on all pixels."""
    discriminator = CycleGANNetworks(128, width=2).discriminators[0].double()
    convolutions = nn.Sequential(*(m for m in discriminator.layers if isinstance(m, nn.Conv2d)))
    images = torch.rand(1, 3, 128, 128, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(convolutions(images)[0, 0, 7, 7], images)
    rows = gradient[0].abs().sum((0, 2)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == len(rows) == 70


@pytest.mark.parametrize("size", [32, 48, 64])
def test_the_networks_equal_a_second_spelling(size):
    made = networks(size)
    images = pairs(1, n=2, size=size)[0][0].images
    for value in (0, 1):
        expected = generate(list(made.generators[value].parameters()), images)
        assert error(made.generators[value](images), expected) < 1e-10
        expected = judge(list(made.discriminators[value].parameters()), images)
        assert error(made.discriminators[value](images), expected) < 1e-10


def test_the_initial_weights_are_normal_and_the_biases_zero():
    made = CycleGANNetworks(32, width=16)
    weights = torch.cat([p.detach().flatten() for name, p in made.named_parameters() if name.endswith("weight")])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.01)
    assert float(weights.mean()) == pytest.approx(0, abs=1e-4)
    assert float((weights.abs() < 0.02).double().mean()) == pytest.approx(0.6827, abs=0.005)
    assert not any(p.any() for name, p in made.named_parameters() if name.endswith("bias"))


def test_an_edit_is_that_of_the_generator_of_the_new_value():
    made = networks().eval()
    ((images, labels), _) = pairs(1, n=2)[0]
    for value in (0, 1):
        edited = made.edit(images, labels, {0: value})
        assert torch.equal(edited, made.generators[value](images))
        assert torch.equal(made.edit(images, labels, {0: float(value)}), edited)
    assert not torch.equal(edited, made.edit(images, labels, {0: 0}))


@pytest.mark.parametrize("changes", [{}, {1: 1}, {0: 1, 1: 0}, {0: 0.5}, {0: float("nan")}])
def test_an_impossible_edit_is_refused(changes):
    ((images, labels), _) = pairs(1)[0]
    with pytest.raises(ValueError, match=r"changes is .*expected \{0: 0\} or \{0: 1\}"):
        networks().edit(images, labels, changes)


def test_it_does_not_generate():
    with pytest.raises(NotImplementedError, match="CycleGANNetworks"):
        networks().generate(torch.zeros(1, 4), torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("name", "value"), [("image_size", 16), ("image_size", 40), ("attributes", 0), ("attributes", 2), ("width", 0)]
)
def test_bad_sizes_are_named(name, value):
    sizes = {"image_size": 32, "attributes": 1, "width": 4} | {name: value}
    with pytest.raises(ValueError, match=f"^{name} is {value}; expected"):
        CycleGANNetworks(**sizes)
