"""Convolutions along one dimension: 1-D ones, and those of images and volumes with taps in one dimension."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from operator_counts import operators, ours
from oracles import error
from plain_and_fused import Net, differences, images, randomised, record
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from winograd_runs import take_winograd_1d

import igan_fast

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def our_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    take_winograd_1d(monkeypatch)


SEQUENCES, IMAGES, VOLUMES = (2, 16, 40), (2, 16, 14, 3), (2, 16, 9, 3, 2)

#: A convolution of 16 channels, and its input.
CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "3 taps": (lambda: nn.Conv1d(16, 16, 3, padding=1), SEQUENCES),
    "dilated": (lambda: nn.Conv1d(16, 16, 7, padding=9, dilation=3, bias=False), SEQUENCES),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv1d(16, 16, 11, padding=5)), SEQUENCES),
    "transposed": (lambda: nn.ConvTranspose1d(16, 16, 4, padding=1), SEQUENCES),
    "strided": (lambda: nn.Conv1d(16, 16, 41, stride=4, padding=20, groups=2), SEQUENCES),
    "up": (lambda: nn.ConvTranspose1d(16, 16, 16, stride=8, padding=4), SEQUENCES),
    "same": (lambda: nn.Conv1d(16, 16, 4, padding="same"), SEQUENCES),
    "reflect": (lambda: nn.Conv1d(16, 16, 5, padding=2, padding_mode="reflect"), SEQUENCES),
    "of images": (lambda: nn.Conv2d(16, 16, (5, 1), padding=(2, 0)), IMAGES),
    "of volumes": (lambda: nn.Conv3d(16, 16, (3, 1, 1), padding=(1, 0, 0)), VOLUMES),
}

#: Those whose input is padded by another function first are PyTorch's, unless a normalisation is folded into them.
PADDED_ALONE = ("same", "reflect")

NORMS = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


class Residual(nn.Module):
    """As in HiFi-GAN: the activation is before the convolution, and another follows it."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = conv, nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.conv(self.act(x)))
        return y


def made(name: str, *, norm: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    conv, shape = CONVOLUTIONS[name]
    net = Net(conv(), NORMS[len(shape)](16), nn.ReLU()) if norm else Residual(conv())
    return randomised(net, torch.float32), images(shape, torch.float32)


def forward(net: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = net(x)
    return y


@pytest.mark.parametrize("context", ["grad", "no_grad", "inference"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_everything_equals_pytorchs(name, norm, training, context):
    (plain, x), (fused, _) = (made(name, norm=norm) for _ in range(2))
    igan_fast.fuse(fused)
    expected, actual = (record(forward, net.train(training), x, context=context) for net in (plain, fused))
    assert not any(isinstance(seen, Exception) for seen in expected.values())
    assert not differences(actual, expected, 1e-4)


@pytest.mark.parametrize("name", [name for name in CONVOLUTIONS if name not in PADDED_ALONE])
def test_our_kernels_compute_training(name):
    net, x = made(name, norm=False)
    igan_fast.fuse(net)
    forward(net, x)  # a module learns from its first call
    counts = operators(net, forward, x.requires_grad_(), backward=True)
    assert ours(counts) == {"igan_fast::winograd_1d_conv": 2, "igan_fast::winograd_1d_weight_gradient": 1}


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "norm"),
    [(name, norm) for name in CONVOLUTIONS for norm in (True, False) if norm or name not in PADDED_ALONE],
)
def test_our_kernels_compute_evaluation_with_what_follows(name, norm):
    net, x = made(name, norm=norm)
    igan_fast.fuse(net.eval())
    for _ in range(3):  # from the second call on, weights are known to stay
        forward(net, x)
    counts = operators(net, forward, x, backward=False)
    assert ours(counts) == {"igan_fast::winograd_1d_conv": 1}  # the normalisation is folded, and the filter is kept
    assert counts["aten::batch_norm"] == 0
    assert counts["aten::leaky_relu"] == (0 if norm else 1)  # the one before the convolution
    assert counts["aten::relu"] == 0


def test_what_is_left_to_pytorch():
    layers = {
        "1-D": (nn.Conv1d(8, 8, 3), True),
        "transposed": (nn.ConvTranspose1d(8, 8, 3), True),
        "of images": (nn.Conv2d(8, 8, (1, 3)), True),
        "of volumes": (nn.Conv3d(8, 8, (3, 1, 1)), True),
        "strided": (nn.Conv1d(8, 8, 3, 2), True),
        "grouped": (nn.Conv1d(16, 16, 3, groups=2), True),
        "few inputs": (nn.Conv1d(7, 8, 3), False),
        "few outputs": (nn.Conv1d(8, 7, 3), False),
        "few in groups": (nn.Conv1d(8, 8, 3, groups=2), False),
        "depthwise": (nn.Conv2d(16, 16, (3, 1), groups=16), False),
        "one tap": (nn.Conv1d(8, 8, 1), False),
        "strided and dilated": (nn.Conv1d(8, 8, 3, 2, dilation=2), True),  # the settings may change
        "two dimensions of volumes": (nn.Conv3d(8, 8, (3, 3, 1)), False),
    }
    model = nn.ModuleDict({name: layer for name, (layer, _) in layers.items()})
    report = igan_fast.fuse(model)
    assert {entry.name for entry in report.fused} == {name for name, (_, taken) in layers.items() if taken}


def test_unbatched_empty_and_wrong_inputs_are_pytorchs():
    net, x = made("3 taps", norm=False)
    fused, _ = made("3 taps", norm=False)
    igan_fast.fuse(fused)
    refused = []
    for _ in range(2):
        for given in (x[0], x[:0], x[..., ::2], x.transpose(1, 2)[:, :16], x[:, :7], x[None], x[..., :0]):
            try:
                expected = net(given)
            except RuntimeError as error:
                refused.append(given.shape)
                with pytest.raises(RuntimeError, match=re.escape(str(error)[:40])):
                    fused(given)
                continue
            assert torch.allclose(fused(given), expected, atol=1e-4)
            assert fused(given).stride() == expected.stride()
    assert len(refused) == 6  # the wrong channels, one dimension too many, and no values


@torch.no_grad()
def test_weights_that_change_between_the_calls_are_seen():
    (net, x), (fused, _) = made("3 taps", norm=False), made("3 taps", norm=False)
    igan_fast.fuse(fused.eval())
    for change in (lambda w: w.mul_(2), lambda w: w.data.add_(1), lambda w: w.detach().numpy().fill(0.5)) * 2:
        for _ in range(3):
            assert error(fused(x), net(x)) < 1e-5
        for each in (net, fused):
            change(each.conv.weight)


@pytest.mark.parametrize("needed", ["input", "weight", "bias"])
def test_only_one_tensor_needs_a_gradient(needed):
    found = []
    for is_fused in (False, True):
        net, x = made("3 taps", norm=False)
        if is_fused:
            igan_fast.fuse(net)
        tensor = {"input": x, "weight": net.conv.weight, "bias": net.conv.bias}[needed]
        net.requires_grad_(False)
        tensor.requires_grad_()
        for _ in range(2):
            tensor.grad = None
            forward(net, x).square().sum().backward()
        found.append(tensor.grad)
    assert error(*found[::-1]) < 1e-4


def test_autocast_and_a_compiler_get_pytorchs_functions():
    (net, x), (fused, _) = made("dilated", norm=False), made("dilated", norm=False)
    igan_fast.fuse(fused)
    compiled = torch.compile(fused, backend="eager")
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fused(x), net(x))
        assert error(compiled(x), net(x)) < 1e-5
    assert fused(x).dtype == torch.float32


def test_settings_that_are_changed_later():
    (net, x), (fused, _) = made("3 taps", norm=False), made("3 taps", norm=False)
    igan_fast.fuse(fused)
    for name, value in (("stride", 2), ("dilation", (3,)), ("stride", (1,)), ("padding", 0)):
        for each in (net, fused):
            setattr(each.conv, name, value)
        for _ in range(2):
            assert error(fused(x), net(x)) < 1e-5
    for each in (net, fused):
        each.conv.stride = 2
    igan_fast.fuse(fused)  # again
    assert error(fused(x), net(x)) < 1e-5


def test_a_lazy_layer_is_left_until_it_is_initialised():
    model = nn.Sequential(nn.LazyConv1d(16, 3))
    assert "not initialised yet" in igan_fast.fuse(model).left_alone[0].result
    model(torch.randn(2, 16, 40))
    assert [entry.name for entry in igan_fast.fuse(model).fused] == ["0"]
