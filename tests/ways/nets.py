"""The networks and modes in which ways of using a result, and of computing derivatives, are tested."""

from __future__ import annotations

import pytest
from plain_and_fused import Net
from torch import nn

NETS = {
    "batch, relu": lambda: Net(),
    "instance, leaky": lambda: Net(
        norm=nn.InstanceNorm2d(16, affine=True, track_running_stats=True), act=nn.LeakyReLU(0.2)
    ),
}

NETS_AND_MODES = pytest.mark.parametrize(
    ("net", "training", "context"),
    [
        ("batch, relu", True, "grad"),
        ("batch, relu", False, "grad"),
        ("batch, relu", False, "no_grad"),
        ("instance, leaky", True, "grad"),
    ],
)
