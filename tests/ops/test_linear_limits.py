"""The measured limits of linear layers, and the choices that they make."""

from __future__ import annotations

import json

import pytest
import torch

from igan_fast.ops import linear_limits
from igan_fast.ops.linear_limits import COMPUTATIONS, FILE, NEVER, Limits, gains, limits_of, pays

KNOWN = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture
def use(monkeypatch):
    """A function that sets the instruction set of PyTorch."""

    def clear():
        limits_of.cache_clear(), gains.cache_clear()

    def set_to(name):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: name)
        clear()

    yield set_to
    clear()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((4, 30, 10), True),
        ((4, 10, 30), True),
        ((3, 30, 10), False),  # too few rows
        ((4, 29, 10), False),  # too few weights
        ((4, 40, 9), False),  # too few output features
        ((4, 9, 40), False),  # too few input features
        ((3, 20, 20), True),  # few rows, but many weights and output features
        ((1, 2, 200), True),
        ((1, 20, 19), False),
        ((1, 21, 20), False),
        ((0, 20, 20), False),
        ((1, 100, 5), True),  # any layer with so many weights
        ((1, 499, 1), False),
        ((0, 100, 5), False),
    ],
    ids=str,
)
def test_the_rule(sizes, expected):
    assert pays(*sizes, Limits(batch=4, weights=300, side=10, wide=400, memory=500)) == expected
    assert not pays(*sizes, NEVER)


def test_a_layer_gains_if_any_computation_with_any_batch_does(use, monkeypatch):
    use("any")
    limits = {
        "forward": Limits(8, 300, 1, 1 << 62),
        "input_gradient": NEVER,
        "weight_gradient": NEVER._replace(wide=100),
    }
    monkeypatch.setattr(linear_limits, "limits_of", limits.get)
    assert gains(300, 1)
    assert gains(1, 300)
    assert gains(1, 100)
    assert not gains(100, 1)
    assert not gains(1, 99)


@pytest.mark.skipif(not linear_limits.IS_AVAILABLE, reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("name", KNOWN)
def test_the_networks_own_layers(name, use):
    """D's shared layer and G's first one by oneDNN; C's small layers and D's source by MKL."""
    use(name)
    assert set(KNOWN[name]) == {*COMPUTATIONS, "measured_on"}
    assert all(limit >= 1 for computation in COMPUTATIONS for limit in limits_of(computation))
    assert gains(32768, 1024)
    assert gains(140, 32768)
    assert not gains(1024, 128)
    assert not gains(128, 40)
    assert not gains(32768, 1)
    forward = limits_of("forward")
    assert pays(64, 32768, 1024, forward)
    assert pays(1, 32768, 1024, forward) == (name == "AVX512")
    assert pays(1, 140, 32768, forward)


@pytest.mark.parametrize("reason", ["not measured", "no oneDNN"])
def test_otherwise_every_layer_is_pytorchs(reason, use, monkeypatch):
    use("baseline" if reason == "not measured" else "AVX512")
    monkeypatch.setattr(linear_limits, "IS_AVAILABLE", reason == "not measured" and linear_limits.IS_AVAILABLE)
    assert all(limits_of(computation) == NEVER for computation in COMPUTATIONS)
    assert not gains(1 << 20, 1 << 20)
