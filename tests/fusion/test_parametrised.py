"""Convolutions and linear layers under spectral normalisation, weight normalisation and other parametrisations."""

from __future__ import annotations

import copy

import pytest
import torch
from operator_counts import LARGE, operators, ours
from plain_and_fused import Net, differences, images, randomised, record
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import igan_fast
from igan_fast import ops
from igan_fast.fusion import linear as fused_linear
from igan_fast.fusion.fused_module import FusedModule
from igan_fast.ops import linear, linear_limits

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"]),
]

NORMALISATIONS = {
    "spectral": parametrizations.spectral_norm,
    "spectral, by hook": nn.utils.spectral_norm,
    "weight": parametrizations.weight_norm,
    "weight, by hook": nn.utils.weight_norm,
}


CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(16, 16, 3, padding=1),
    "transposed": lambda: nn.ConvTranspose2d(16, 16, 4, 2, padding=1),
    "same": lambda: nn.Conv2d(16, 16, 4, padding="same", bias=False),
    "reflect": lambda: nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
}


def network(normalise, convolution="3x3", dtype=torch.float32) -> nn.Module:
    torch.manual_seed(0)
    net = Net(CONVOLUTIONS[convolution](), nn.BatchNorm2d(16), nn.LeakyReLU(0.2))
    normalise(net.conv)
    return randomised(net, dtype)


def forward(net, x):
    return net.act(net.norm(net.conv(x)))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_our_kernels_compute_them(name, when):
    normalise = NORMALISATIONS[name]
    net = network(normalise if when == "before" else lambda conv: conv)
    igan_fast.fuse(net)
    if when == "after":
        normalise(net.conv)
    for training, context in ((True, torch.enable_grad), (False, torch.no_grad)):
        net.train(training)
        with context():
            forward(net, images(LARGE, torch.float32))  # a module learns from its first call
            counts = operators(net, forward, images(LARGE, torch.float32).requires_grad_(training), training)
        assert any("winograd_conv" in key for key in ours(counts)), (training, sorted(counts))
        if not training:
            assert not any("norm_act" in key for key in ours(counts)), sorted(counts)  # it is folded


@pytest.mark.parametrize("context", ["grad", "no_grad"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_everything_equals_pytorchs(name, convolution, dtype, tolerance, context):
    """Results, gradients and buffers, among them the vectors that spectral normalisation updates in each call."""
    for training in (True, False):
        plain, fused = (network(NORMALISATIONS[name], convolution, dtype).train(training) for _ in range(2))
        igan_fast.fuse(fused)
        x = images((2, 16, 6, 6), dtype)
        expected, actual = (record(forward, net, x, context=context) for net in (plain, fused))
        assert not any(isinstance(seen, Exception) for seen in expected.values())
        assert not differences(actual, expected, tolerance)


@pytest.mark.parametrize("name", ["spectral", "weight"])
def test_parametrised_before_or_after_fuse_is_the_same(name):
    before, after = network(NORMALISATIONS[name]), network(lambda conv: conv)
    igan_fast.fuse(before), igan_fast.fuse(after)
    torch.manual_seed(0)
    NORMALISATIONS[name](after.conv)
    assert type(before.conv).__bases__ == type(after.conv).__bases__
    assert type(before.conv).__name__ == type(after.conv).__name__ == "ParametrizedConv2d"
    after.load_state_dict(before.state_dict())
    x = images((2, 16, 12, 12), torch.float32)
    assert not differences(record(forward, before, x), record(forward, after, x), 1e-6)


@pytest.mark.parametrize("when", ["before", "after"])
def test_unfuse_gives_the_parametrised_class_back(when):
    plain = network(parametrizations.spectral_norm)
    net = network(parametrizations.spectral_norm if when == "before" else lambda conv: conv)
    igan_fast.fuse(net)
    if when == "after":
        torch.manual_seed(0)
        parametrizations.spectral_norm(net.conv)
        net.load_state_dict(plain.state_dict())
    assert isinstance(net.conv, FusedModule)
    assert igan_fast.unfuse(net) > 0
    assert type(net.conv).__bases__ == (nn.Conv2d,)
    assert type(net.conv).__module__ == type(plain.conv).__module__
    assert list(vars(net.conv)) == list(vars(plain.conv))
    x = images((2, 16, 12, 12), torch.float32)
    assert not differences(record(forward, net, x), record(forward, plain, x), 1e-6)
    parametrize.remove_parametrizations(net.conv, "weight")
    assert type(net.conv) is nn.Conv2d
    assert igan_fast.fuse(net).fused


def test_removed_while_fused():
    net = network(parametrizations.weight_norm)
    igan_fast.fuse(net)
    parametrize.remove_parametrizations(net.conv, "weight")
    assert type(net.conv) is net.conv.fused_class
    assert forward(net, images((2, 16, 12, 12), torch.float32)).shape == (2, 16, 12, 12)


def test_a_copy_is_fused_and_its_modules_learn_of_each_other():
    net = network(parametrizations.spectral_norm).eval()
    original = type(net.conv)
    igan_fast.fuse(net)
    x = images(LARGE, torch.float32)
    with torch.no_grad():
        forward(net, x), forward(net, x)
        assert net.conv._expectation.norm is net.norm
        other = copy.deepcopy(net)
        assert other.conv._expectation.norm is None
        forward(other, x)
        assert other.conv._expectation.norm is other.norm
        assert torch.equal(forward(net, x), forward(other, x))
    plain = copy.deepcopy(network(parametrizations.spectral_norm))
    assert not isinstance(plain.conv, FusedModule)
    assert original.__bases__ == (nn.Conv2d,)  # the class itself is not changed: copies made before share it


class Counted(nn.Module):
    """Counts the computations of the parametrised tensor."""

    calls = 0

    def forward(self, w: Tensor) -> Tensor:
        self.calls += 1
        return w * 2


@pytest.mark.parametrize("side", [2, 32])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_each_call_computes_each_tensor_once(convolution, training, side):
    net = network(lambda conv: conv, convolution).train(training)
    counted = {name: Counted() for name in ("weight", "bias") if getattr(net.conv, name) is not None}
    for name, parametrisation in counted.items():
        parametrize.register_parametrization(net.conv, name, parametrisation)
    igan_fast.fuse(net)
    with torch.set_grad_enabled(training):
        for call in range(1, 4):
            before = {name: each.calls for name, each in counted.items()}
            forward(net, images((8, 16, side, side), torch.float32))
            assert all(each.calls == before[name] + 1 for name, each in counted.items()), call


def test_a_normalisation_that_is_parametrised_runs_on_pytorch():
    net = network(lambda conv: conv)
    parametrize.register_parametrization(net.norm, "weight", Counted())
    report = igan_fast.fuse(net)
    assert [(entry.name, entry.result) for entry in report.left_alone] == [("norm", "left alone: parametrised: weight")]


def test_large_linear_layers_are_fused_and_small_ones_are_not():
    large, small = nn.Linear(4096, 1024), nn.Linear(64, 10)
    report = igan_fast.fuse(nn.Sequential(large, nn.ReLU(), nn.Linear(1024, 64), small))
    assert isinstance(large, FusedModule) == linear_limits.gains(4096, 1024)
    assert type(small) is nn.Linear
    assert [(entry.name, entry.kind) for entry in report.fused] == [("0", "Linear")] * linear_limits.gains(4096, 1024)
    assert not report.left_alone
    assert igan_fast.unfuse(large) == linear_limits.gains(4096, 1024)
    assert type(large) is nn.Linear


@pytest.mark.skipif(not linear_limits.IS_AVAILABLE, reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("normalise", [lambda layer: layer, *NORMALISATIONS.values()], ids=["none", *NORMALISATIONS])
def test_a_linear_layer_equals_pytorchs(normalise, monkeypatch):
    monkeypatch.setattr(fused_linear, "gains", lambda *_: True)
    monkeypatch.setattr(linear, "gains", lambda *_: True)
    monkeypatch.setattr(linear, "limits_of", lambda _: linear_limits.Limits(1, 1, 1, 1))

    def made() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(normalise(nn.Linear(20, 30)), nn.LeakyReLU(0.2), nn.Linear(30, 5))

    plain, fused = made(), made()
    igan_fast.fuse(fused)
    assert isinstance(fused[0], FusedModule)
    assert isinstance(fused[2], FusedModule)

    def way(net, x):
        return net(x)

    x = images((3, 7, 20), torch.float32)
    assert not differences(record(way, fused, x), record(way, plain, x), 1e-5)
