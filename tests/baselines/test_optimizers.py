"""The schedule of StarGAN and CycleGAN, and their Adam."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from igan_fast.baselines.optimizers import adam, linear_decay, set_learning_rate, step


def test_the_learning_rate_is_constant_for_half_of_the_training_and_then_falls_by_equal_steps():
    factors = [linear_decay(iteration, 8) for iteration in range(10)]
    assert factors == pytest.approx([1, 1, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5, 0, 0])


def test_an_odd_length_decays_in_the_longer_half():
    assert [linear_decay(iteration, 5) for iteration in range(6)] == pytest.approx([1, 1, 3 / 4, 2 / 4, 1 / 4, 0])


@pytest.mark.parametrize("iterations", [1, 2, 3, 100, 101])
def test_every_iteration_of_a_training_has_a_learning_rate(iterations):
    factors = [linear_decay(iteration, iterations) for iteration in range(iterations)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors == sorted(factors, reverse=True)


def test_adam_steps_as_pytorchs_with_the_rate_that_was_set_and_frees_the_gradients():
    torch.manual_seed(0)
    ours = nn.Linear(3, 2).double()
    theirs = nn.Linear(3, 2).double()
    theirs.load_state_dict(ours.state_dict())
    optimizer = adam(ours, 1.0)
    expected = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.5, 0.999), foreach=False)
    set_learning_rate([optimizer], 0.01)
    for _ in range(3):
        x = torch.randn(4, 3, dtype=torch.float64)
        ours(x).square().sum().backward()
        step(optimizer)
        assert all(parameter.grad is None for parameter in ours.parameters())
        expected.zero_grad()
        theirs(x).square().sum().backward()
        expected.step()
    for a, e in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)
