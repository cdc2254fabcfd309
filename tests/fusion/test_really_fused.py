"""Fused networks really call the fused operators, and only where that is faster. The profiler counts the calls."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from operator_counts import LARGE, operators, ours
from plain_and_fused import SHAPE, Net, images, pair, randomised
from torch import nn

from igan_fast import ops

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"]),
]

SPELLINGS = {
    "module": lambda net, x: net.act(net.norm(net.conv(x))),
    "function": lambda net, x: F.relu(net.norm(net.conv(x))),
    "torch's function": lambda net, x: torch.relu(net.norm(net.conv(x))),
    "method": lambda net, x: net.norm(net.conv(x)).relu(),
    "leaky function": lambda net, x: F.leaky_relu(net.norm(net.conv(x)), 0.3),
    "leaky module": lambda net, x: nn.LeakyReLU(0.1)(net.norm(net.conv(x))),
    "function in place": lambda net, x: F.relu(net.norm(net.conv(x)), inplace=True),
    "module in place": lambda net, x: nn.ReLU(True)(net.norm(net.conv(x))),
    "in a Sequential": lambda net, x: nn.Sequential(net.conv, net.norm, net.act)(x),
    "through a list": lambda net, x: net.act([net.norm(net.conv(x))][0]),
}


def passes(counts: Counter[str]) -> list[str]:
    """The calls of PyTorch's normalisations and activations, forward and backward."""
    kinds = ("batch_norm", "relu", "threshold")
    return [name for name in counts if name.startswith("aten::") and any(kind in name for kind in kinds)]


def network(norm: type[nn.Module], training: bool) -> nn.Module:
    return randomised(Net(nn.Conv2d(16, 16, 3, padding=1), norm(16), nn.ReLU()), torch.float32).train(training)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
@pytest.mark.parametrize("way", SPELLINGS)
def test_in_training_a_normalisation_and_its_activation_are_one_operator(way, norm):
    fused, _ = pair(network(norm, True))
    SPELLINGS[way](fused, images(LARGE, torch.float32))  # a module learns from its first call
    for _ in range(3):
        counts = operators(fused, SPELLINGS[way], images(LARGE, torch.float32).requires_grad_(), True)
        assert sum(ours(counts).values()) > 0, sorted(counts)
        assert not passes(counts), passes(counts)


@pytest.mark.parametrize("way", SPELLINGS)
def test_in_evaluation_all_three_are_one_operator(way):
    fused, _ = pair(network(nn.BatchNorm2d, False))
    with torch.no_grad():
        SPELLINGS[way](fused, images(LARGE, torch.float32))
        for _ in range(3):
            counts = operators(fused, SPELLINGS[way], images(LARGE, torch.float32), False)
            assert sum(ours(counts).values()) > 0, sorted(counts)
            assert not passes(counts), passes(counts)


def test_a_norm_without_an_activation_runs_once():
    """Its plain result is computed once, however often it is used."""
    fused, plain = pair(network(nn.BatchNorm2d, True))

    def way(net, x):
        y = net.norm(net.conv(x))
        return y.sin() + y.cos() + y.view(-1)[0]

    for net in (fused, plain):
        for _ in range(2):
            counts = operators(net, way, images(LARGE, torch.float32).requires_grad_(), False)
            norms = [n for name, n in counts.items() if name in ("aten::native_batch_norm", "igan_fast::norm_act")]
            assert sum(norms) <= 1, sorted(counts)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_tiny_tensors_run_on_plain_pytorch(training, monkeypatch):
    """16 channels of 4 × 4: too small for a gain."""
    monkeypatch.undo()  # the limit, which conftest.py removes for the other tests
    fused, _ = pair(network(nn.BatchNorm2d, training))
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            for _ in range(2):
                counts = operators(fused, SPELLINGS["module"], images((2, 16, 4, 4), torch.float32), False)
                assert not ours(counts), sorted(counts)


@pytest.mark.parametrize(
    "net", [lambda: Net(), lambda: Net(norm=nn.InstanceNorm2d(16, affine=True), act=nn.LeakyReLU(0.2))]
)
def test_the_networks_of_the_other_tests_are_fused(net):
    """Comparisons in the other files would prove nothing if their feature maps were too small to be fused."""
    fused, _ = pair(randomised(net()))
    assert sum(ours(operators(fused, SPELLINGS["module"], images(SHAPE).requires_grad_(), True)).values()) > 0


def test_no_activation_but_relu_and_leaky_relu_is_fused():
    for act in (nn.GELU(), nn.PReLU(), nn.Sigmoid(), nn.ReLU6(), nn.ELU()):
        fused, plain = pair(randomised(Net(nn.Conv2d(16, 16, 3, padding=1), act=act), torch.float32))
        x = images(LARGE, torch.float32)
        for _ in range(3):
            assert (fused(x) - plain(x)).abs().max() < 1e-4
