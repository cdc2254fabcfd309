"""Every way of calling a convolution, a normalisation and an activation gives the same results as plain PyTorch."""

from __future__ import annotations

import random

import pytest
from plain_and_fused import Net, assert_alike, images, randomised
from torch import nn
from ways import WAYS

pytestmark = pytest.mark.filterwarnings("ignore")

NETS = {
    "batch": lambda: Net(),
    "instance": lambda: Net(norm=nn.InstanceNorm2d(16, affine=True, track_running_stats=True), act=nn.LeakyReLU(0.2)),
}

MODES_OF_A_NET = [
    ("batch", "train", "grad"),
    ("batch", "train", "no_grad"),
    ("batch", "eval", "grad"),
    ("batch", "eval", "no_grad"),
    ("batch", "eval", "inference"),
    ("instance", "train", "grad"),
    ("instance", "eval", "no_grad"),
]


@pytest.mark.parametrize(("net", "training", "context"), MODES_OF_A_NET)
@pytest.mark.parametrize("way", WAYS)
def test_way(way, net, training, context):
    assert_alike(randomised(NETS[net]()).train(training == "train"), WAYS[way], images(), context=context)


class OneAfterAnother:
    """Calls the network in another way each time, and begins again with the first way for another network."""

    def __init__(self, names):
        self.names, self.net, self.count = names, None, 0

    def __call__(self, net, x):
        if net is not self.net:
            self.net, self.count = net, 0
        self.count += 1
        return WAYS[self.names[self.count - 1]](net, x)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_one_way_after_another_on_one_network(seed, training):
    """What a module expects after some calls must not change the results of others."""
    names = random.Random(seed).sample(sorted(WAYS), 8)
    calls = " ".join(f"call{i}" for i in range(8))
    assert_alike(randomised(Net()).train(training), OneAfterAnother(names), images(), calls=calls)
