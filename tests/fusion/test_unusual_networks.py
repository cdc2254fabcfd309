"""``fuse`` on networks that are wrapped, lazy, or have unusual methods, and on modules that are shared."""

from __future__ import annotations

import copy
import random

import numpy
import pytest
import torch
from fused_networks import X, assert_alike, block, pair
from oracles import error
from torch import Tensor, nn

import igan_fast


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_networks_in_wrappers():
    for wrap in (nn.DataParallel, Wrapped, lambda model: torch.compile(model, backend="eager")):
        model = block().double()
        plain = copy.deepcopy(model)
        assert len(igan_fast.fuse(wrap(model)).fused) == 2
        assert_alike(model, plain, [X])


def test_lazy_networks_are_left_alone():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    assert not igan_fast.fuse(model).fused
    assert "not initialised yet" in str(igan_fast.fuse(model))
    model(X.float())
    assert len(igan_fast.fuse(model).fused) == 2


class Cyclic(nn.Module):
    """Its forward depends on the data, and changes the module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()
        self.seen: list[Tensor] = []
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        self.steps += 1
        self.last = x
        while x.sum() < 1e9:
            x = self.act(self.norm(self.conv(x))) + torch.rand(1) + 1e6
        return x


def test_fuse_does_not_run_forward():
    model = Cyclic().train()
    state = torch.get_rng_state()
    igan_fast.fuse(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.seen == []
    assert not hasattr(model, "last")
    assert isinstance(model.steps, Tensor)
    assert model.steps == 0
    assert model.training


class Random(nn.Module):
    """Uses every random number generator."""

    def forward(self, x: Tensor) -> Tensor:
        return x * random.random() + float(numpy.random.rand()) + torch.rand(())  # noqa: NPY002 - the global one is meant


def test_fuse_draws_no_random_numbers():
    def drawn() -> list[float]:
        return [random.random(), float(numpy.random.rand()), torch.rand(()).item()]  # noqa: NPY002

    for source in (random.seed, numpy.random.seed, torch.manual_seed):
        source(1)
    expected = drawn()
    for source in (random.seed, numpy.random.seed, torch.manual_seed):
        source(1)
    igan_fast.fuse(Random())
    assert drawn() == expected


class Indexed(nn.Module):
    """A method other than forward calls single layers of its block."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def features(self, x: Tensor) -> Tensor:
        return self.body[0](x)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_methods_beside_forward():
    fused, plain = pair(Indexed().double())
    assert error(fused.features(X), plain.features(X)) < 1e-12
    assert_alike(fused, plain, [X])


def test_a_replaced_forward_is_called():
    fused = Wrapped(block().double())
    fused.forward = lambda x: fused.inner[0](x)
    expected = fused(X)
    igan_fast.fuse(fused)
    assert error(fused(X), expected) < 1e-12


class Inherited(Indexed):
    """Its forward, which calls its base's forward, uses single layers of the block."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[: int(x.shape[0])])


def test_the_methods_of_base_classes():
    fused, plain = pair(Inherited().double())
    assert error(fused.features(X), plain.features(X)) < 1e-12
    assert_alike(fused, plain, [X])


class HereAndThere(nn.Module):
    """One activation module is used in blocks and by itself, also after layers that are not normalisations."""

    def __init__(self, order: int) -> None:
        super().__init__()
        act = nn.LeakyReLU(0.2)
        blocks = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), act) for _ in range(2)]
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        names = ["first", "act", "last"]
        for name in names[order:] + names[:order]:
            self.add_module(name, act if name == "act" else blocks[name == "last"])

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(self.act(self.act(self.norm(self.conv(y))) + y))


@pytest.mark.parametrize("order", range(3))
def test_an_activation_that_is_shared(order):
    fused, plain = pair(HereAndThere(order).double())
    assert_alike(fused, plain, [X])
    assert_alike(fused, plain, [X])
    assert_alike(fused.eval(), plain.eval(), [X])
    igan_fast.unfuse(fused)
    assert fused.act is fused.first[2]
    assert fused.act is fused.last[2]
    assert type(fused.act) is nn.LeakyReLU
