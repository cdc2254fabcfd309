"""``frozen``: for how long parameters do not require gradients, and which are left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from igan_fast.reference.precision import frozen


def requires_grad(module: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in module.parameters()]


def test_inside_no_parameter_requires_a_gradient():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    net[0].bias.requires_grad_(False)
    x = torch.ones(1, 2, requires_grad=True)
    with frozen(net):
        assert requires_grad(net) == [False] * 4
        y = net(x)
    assert requires_grad(net) == [True, False, True, True]
    y.sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_error_ends_the_block_too():
    net = nn.Linear(2, 3)
    with pytest.raises(RuntimeError, match="shapes"), frozen(net):
        net(torch.ones(1, 3))
    assert requires_grad(net) == [True, True]


def test_blocks_that_overlap():
    """As those of two threads do: the first to begin is the first to end."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    first, second = frozen(net[0]), frozen(net)
    first.__enter__()
    assert requires_grad(net) == [False, False, True, True]
    second.__enter__()
    first.__exit__(None, None, None)
    assert requires_grad(net) == [False] * 4
    with frozen(net):
        pass
    assert requires_grad(net) == [False] * 4
    second.__exit__(None, None, None)
    assert requires_grad(net) == [True] * 4
