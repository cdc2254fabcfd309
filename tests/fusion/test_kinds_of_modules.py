"""Every kind of convolution, normalisation, activation, memory format, size and dtype, called in some ways each."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from oracles import error
from plain_and_fused import Net, assert_alike, images, pair, randomised
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore")

#: Few ways, each through other code: with the activation fused, without it, both, and after a view.
WAYS = {
    "forward": lambda net, x: net(x),
    "functional": lambda net, x: F.leaky_relu(net.norm(net.conv(x)), 0.3),
    "method": lambda net, x: net.norm(net.conv(x)).relu(),
    "in place": lambda net, x: F.relu_(net.norm(net.conv(x))),
    "norm only": lambda net, x: net.norm(net.conv(x)),
    "both": lambda net, x: (lambda y: (net.act(y), y))(net.norm(net.conv(x))),
    "viewed": lambda net, x: net.act(net.norm(net.conv(x)).flatten(1)),
    "frozen conv": lambda net, x: net.act(net.norm(net.conv(x).detach())),
    "no_grad at the norm": lambda net, x: net.act(torch.no_grad()(net.norm)(net.conv(x))),
}


def net(conv=None, norm=None, act=None):
    return lambda: Net(conv and conv(), norm and norm(), act and act())


def before(conv, *change):
    return lambda: nn.Sequential(*copy.deepcopy(change), conv())


class Reshaped(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)


NORMS = {
    "batch": lambda: nn.BatchNorm2d(16),
    "batch, eps": lambda: nn.BatchNorm2d(16, eps=0.37),
    "batch, eps 0": lambda: nn.BatchNorm2d(16, eps=0.0),
    "batch, momentum": lambda: nn.BatchNorm2d(16, momentum=0.77),
    "batch, momentum 0": lambda: nn.BatchNorm2d(16, momentum=0.0),
    "batch, momentum None": lambda: nn.BatchNorm2d(16, momentum=None),
    "batch, not affine": lambda: nn.BatchNorm2d(16, affine=False),
    "batch, not tracked": lambda: nn.BatchNorm2d(16, track_running_stats=False),
    "batch, not affine, not tracked": lambda: nn.BatchNorm2d(16, affine=False, track_running_stats=False),
    "batch, frozen": lambda: nn.BatchNorm2d(16).requires_grad_(False),
    "batch, weight frozen": lambda: _frozen(nn.BatchNorm2d(16), "weight"),
    "batch, bias frozen": lambda: _frozen(nn.BatchNorm2d(16), "bias"),
    "batch, without bias": lambda: _without_bias(nn.BatchNorm2d(16)),
    "instance": lambda: nn.InstanceNorm2d(16),
    "instance, affine": lambda: nn.InstanceNorm2d(16, affine=True),
    "instance, tracked": lambda: nn.InstanceNorm2d(16, track_running_stats=True),
    "instance, affine, tracked": lambda: nn.InstanceNorm2d(16, affine=True, track_running_stats=True, momentum=0.3),
    "instance, momentum None": lambda: nn.InstanceNorm2d(16, track_running_stats=True, momentum=None),
    "instance, frozen": lambda: nn.InstanceNorm2d(16, affine=True, eps=0.1).requires_grad_(False),
    "group": lambda: nn.GroupNorm(4, 16),
    "layer": lambda: nn.LayerNorm(32),
    "local response": lambda: nn.LocalResponseNorm(3),
    "sync batch": lambda: nn.SyncBatchNorm(16),
    "lazy, initialised": lambda: _initialised(nn.LazyBatchNorm2d()),
    "none": nn.Identity,
}


def _frozen(module, name):
    getattr(module, name).requires_grad_(False)
    return module


def _without_bias(module):
    module.bias = None
    return module


def _initialised(module):
    module(torch.ones(2, 16, 2, 2))
    return module


ACTS = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(True),
    "leaky": lambda: nn.LeakyReLU(0.2),
    "leaky in place": lambda: nn.LeakyReLU(0.2, True),
    "leaky, slope 0": lambda: nn.LeakyReLU(0.0),
    "leaky, slope 1": lambda: nn.LeakyReLU(1.0),
    "leaky, slope above 1": lambda: nn.LeakyReLU(3.0),
    "leaky, slope below 0": lambda: nn.LeakyReLU(-0.2),
    "leaky, in place, slope below 0": lambda: nn.LeakyReLU(-0.2, True),
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "prelu": nn.PReLU,
    "prelu per channel": lambda: nn.PReLU(16),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "silu in place": lambda: nn.SiLU(True),
    "rrelu": nn.RReLU,
    "dropout, relu": lambda: nn.Sequential(nn.Dropout2d(0.3), nn.ReLU()),
    "nothing": nn.Identity,
}

CONVS = {
    "3 by 3": net(lambda: nn.Conv2d(3, 16, 3, padding=1)),
    "without bias": net(lambda: nn.Conv2d(3, 16, 3, bias=False)),
    "strided": net(lambda: nn.Conv2d(3, 16, 4, 2, 1)),
    "dilated": net(lambda: nn.Conv2d(3, 16, 3, dilation=2)),
    "grouped": net(before(lambda: nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(3, 16, 1))),
    "depthwise": net(before(lambda: nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(3, 16, 1))),
    "reflected": net(lambda: nn.Conv2d(3, 16, 3, padding=1, padding_mode="reflect")),
    "circular": net(lambda: nn.Conv2d(3, 16, 3, padding=1, padding_mode="circular")),
    "same": net(lambda: nn.Conv2d(3, 16, 4, padding="same")),
    "valid": net(lambda: nn.Conv2d(3, 16, 3, padding="valid")),
    "transposed": net(lambda: nn.ConvTranspose2d(3, 16, 4, 2, 1)),
    "transposed, output padding": net(lambda: nn.ConvTranspose2d(3, 16, 3, 2, 1, output_padding=1)),
    "frozen": net(lambda: nn.Conv2d(3, 16, 3).requires_grad_(False)),
    "bias frozen": net(lambda: _frozen(nn.Conv2d(3, 16, 3), "bias")),
    "nothing": net(lambda: nn.Conv2d(3, 16, 1), lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.BatchNorm2d(16))),
    "1-D": net(before(lambda: nn.Conv1d(3, 16, 3, padding=1), Reshaped(3, -1)), lambda: nn.BatchNorm1d(16)),
    "1-D transposed": net(
        before(lambda: nn.ConvTranspose1d(3, 16, 4, 2, 1), Reshaped(3, -1)), lambda: nn.BatchNorm1d(16)
    ),
    "1-D instance": net(
        before(lambda: nn.Conv1d(3, 16, 3), Reshaped(3, -1)), lambda: nn.InstanceNorm1d(16, affine=True)
    ),
    "3-D": net(before(lambda: nn.Conv3d(3, 16, 3, padding=1), Reshaped(3, 4, 16, 16)), lambda: nn.BatchNorm3d(16)),
    "3-D transposed": net(
        before(lambda: nn.ConvTranspose3d(3, 16, 2, 2), Reshaped(3, 2, 16, 32)), lambda: nn.BatchNorm3d(16)
    ),
    "3-D instance": net(before(lambda: nn.Conv3d(3, 16, 1), Reshaped(3, 4, 16, 16)), lambda: nn.InstanceNorm3d(16)),
    "linear": net(
        before(lambda: nn.Linear(12, 16), nn.Flatten(0, 2), Reshaped(32), nn.Linear(32, 12)), lambda: nn.BatchNorm1d(16)
    ),
    "linear, unflattened": net(
        before(lambda: nn.Unflatten(1, (16, 32, 32)), nn.AdaptiveAvgPool2d(2), nn.Flatten(1), nn.Linear(12, 16384)),
    ),
    "few numbers a channel": net(
        before(lambda: nn.Linear(12, 4096), nn.AdaptiveAvgPool2d(2), nn.Flatten(1)), lambda: nn.BatchNorm1d(4096)
    ),
    "pixel shuffle": net(before(lambda: nn.PixelShuffle(2), nn.Conv2d(3, 64, 1))),
    "upsampled": net(before(lambda: nn.Conv2d(3, 16, 3), nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1))),
}

NETS = {
    **{f"norm {name}": net(norm=norm) for name, norm in NORMS.items()},
    **{f"norm {name}, leaky": net(norm=NORMS[name], act=ACTS["leaky"]) for name in ("instance", "batch, not affine")},
    **{f"act {name}": net(act=act) for name, act in ACTS.items()},
    **{f"conv {name}": conv for name, conv in CONVS.items()},
}

LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: x[:, :, ::2, 1::2],
    "transposed": lambda x: x.transpose(2, 3),
    "batch and channels changed": lambda x: x[:3].transpose(0, 1),
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "expanded over the image": lambda x: x[:, :, :1, :1].expand(-1, -1, 32, 32),
    "flipped": lambda x: x.flip(3),
    "offset": lambda x: x[1:],
    "one channel of channels_last": lambda x: x.contiguous(memory_format=torch.channels_last)[:, :, 1:],
    "height of one": lambda x: x[:, :, :1].contiguous(memory_format=torch.channels_last),
    "one image, channels_last": lambda x: x[:1].contiguous(memory_format=torch.channels_last),
    "one by one": lambda x: x[:, :, :1, :1],
    "two by two": lambda x: x[:2, :, :2, :2],
    "odd": lambda x: x[:3, :, :31, :29],
}


@pytest.mark.parametrize(("training", "context"), [(True, "grad"), (False, "grad"), (False, "no_grad")])
@pytest.mark.parametrize("way", ["forward", "functional", "norm only", "both"])
@pytest.mark.parametrize("name", NETS)
def test_every_kind(name, way, training, context):
    torch.manual_seed(0)
    assert_alike(randomised(NETS[name]()).train(training), WAYS[way], images(), context=context)


NETS_BY_LAYOUT = {
    "batch": net(),
    "batch, wide": net(lambda: nn.Conv2d(3, 16, 3, padding=1), act=ACTS["leaky"]),
    "batch, channels_last weights": lambda: Net(nn.Conv2d(3, 16, 3)).to(memory_format=torch.channels_last),
    "instance": net(norm=NORMS["instance, affine"]),
    "transposed": net(lambda: nn.ConvTranspose2d(3, 16, 2, 2)),
    "no conv": net(nn.Identity, lambda: nn.BatchNorm2d(3)),
    "no conv, instance": net(nn.Identity, lambda: nn.InstanceNorm2d(3, affine=True)),
}

VIEWS = {
    "forward": WAYS["forward"],
    "norm only": WAYS["norm only"],
    "in place": WAYS["in place"],
    "conv only": lambda net, x: net.conv(x),
    "view of conv": lambda net, x: net.conv(x).view(x.shape[0], -1),
    "view of conv and act": lambda net, x: F.relu(net.conv(x)).view(x.shape[0], -1),
    "view of norm": lambda net, x: net.act(net.norm(net.conv(x)).view(x.shape[0], -1)),
    "view of all": lambda net, x: net(x).view(x.shape[0], -1),
    "memory format": lambda net, x: (
        lambda y: [
            y.stride(),
            y.is_contiguous(),
            y.suggest_memory_format() if hasattr(y, "suggest_memory_format") else 0,
            net.act(y),
        ]
    )(net.norm(net.conv(x))),
    "like": lambda net, x: torch.zeros_like(net.norm(net.conv(x))),
}


@pytest.mark.parametrize(("training", "context"), [(True, "grad"), (False, "no_grad")])
@pytest.mark.parametrize("way", VIEWS)
@pytest.mark.parametrize("name", NETS_BY_LAYOUT)
def test_every_memory_format(name, way, training, context):
    for layout in LAYOUTS.values():
        torch.manual_seed(0)
        plain = randomised(NETS_BY_LAYOUT[name]()).train(training)
        assert_alike(plain, VIEWS[way], images(), layout=layout, context=context, calls="first taught")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "expanded", "odd"])
def test_memory_formats_in_float32_with_our_own_convolution_kernels(layout, training):
    """16 input and 16 output channels are enough for them."""

    def widened(x):
        return LAYOUTS[layout](x.repeat(2, 6, 1, 1)[:, :16])

    for way in VIEWS:
        for context in ("grad", "no_grad"):
            conv = nn.Conv2d(16, 16, 3, padding=1)
            plain = randomised(Net(conv, act=nn.LeakyReLU(0.2)), torch.float32).train(training)
            base = images(dtype=torch.float32)
            assert_alike(plain, VIEWS[way], base, layout=widened, context=context, calls="first taught", tolerance=2e-4)


@pytest.mark.parametrize("context", ["grad", "no_grad"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("way", ["forward", "functional", "norm only", "both", "in place"])
@pytest.mark.parametrize("net", ["norm batch", "norm instance, affine, tracked", "conv 3 by 3"])
def test_unbatched(net, way, training, context):
    """Modules that accept an image without a batch dimension still accept it; the others raise the same error."""
    assert_alike(randomised(NETS[net]()).train(training), lambda n, x: WAYS[way](n, x[0]), images(), context=context)


@pytest.mark.parametrize("context", ["grad", "no_grad"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("way", ["forward", "functional", "norm only", "both", "in place"])
def test_one_dimension_unbatched(way, training, context):
    """A Conv1d returns (C, L) for an unbatched input; to the normalisation that is a batch of C rows."""
    plain = randomised(Net(nn.Conv1d(3, 16, 3, padding=1), nn.BatchNorm1d(64))).train(training)
    assert_alike(plain, lambda n, x: WAYS[way](n, x[0, :, 0].repeat(1, 2)), images((4, 3, 32, 32)), context=context)
    plain = randomised(Net(nn.Conv1d(3, 16, 3, padding=1), nn.BatchNorm1d(16))).train(training)
    assert_alike(plain, lambda n, x: WAYS[way](n, x[0, :, 0, :16]), images(), context=context)
    plain = randomised(Net(nn.Conv1d(3, 16, 3, padding=1), nn.InstanceNorm1d(16, affine=True))).train(training)
    assert_alike(plain, lambda n, x: WAYS[way](n, x[0].flatten(1)), images(), context=context)


def in_every_precision(module: nn.Module, x: Tensor, way, dtype: torch.dtype) -> list[Tensor]:
    x = x.detach().to(dtype, copy=True).requires_grad_()
    result = way(module, x)
    results = result if isinstance(result, tuple) else (result,)
    sum(t.double().square().mean() for t in results).backward()
    return [*results, x.grad, *(p.grad for n, p in module.named_parameters() if n != "conv.bias"), *module.buffers()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("way", ["forward", "functional", "method", "in place", "norm only", "both", "viewed"])
@pytest.mark.parametrize("norm", ["batch", "instance, affine"])
def test_every_dtype(norm, way, training, dtype):
    """The error against float64 is at most twice plain PyTorch's; in float32, where both are noise, three times."""
    bound = 3 if dtype == torch.float32 else 2
    fused, plain = pair(randomised(Net(norm=NORMS[norm]()), dtype).train(training))
    exact = copy.deepcopy(plain).double()
    x = images().to(dtype)
    actual, expected, truth = (
        in_every_precision(m, x, WAYS[way], t) for m, t in ((fused, dtype), (plain, dtype), (exact, torch.float64))
    )
    for a, p, e in zip(actual, expected, truth, strict=True):
        assert a.dtype == p.dtype
        assert a.stride() == p.stride()
        assert error(a, e) <= max(bound * error(p, e), 2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("part", ["conv", "norm", "act", "conv norm", "norm act", "conv norm act", "conv act"])
@pytest.mark.parametrize("context", ["grad", "no_grad"])
def test_autocast_at_each_call(part, training, dtype, context):
    """Autocast around one call, two or all; compares the normalisation's result and the activation's."""
    fused, plain = pair(randomised(Net(act=nn.LeakyReLU(0.2)), torch.float32).train(training))
    exact = copy.deepcopy(plain).double()

    def run(module, x, on):
        results = []
        with torch.no_grad() if context == "no_grad" else torch.enable_grad():
            for name in ("conv", "norm", "act"):
                with torch.autocast("cpu", dtype, enabled=on and name in part.split()):
                    x = getattr(module, name)(x)
                    results.append(x.new_zeros(0)[:0] if name == "norm" else x)
        if x.requires_grad:
            module.zero_grad()
            x.double().square().mean().backward()
        return [*results, *(p.grad for p in module.parameters() if p.grad is not None)][: 3 + 4], [*module.buffers()]

    x = images(dtype=torch.float32)
    for _ in range(2):
        (a, a_buffers), (p, p_buffers), (e, e_buffers) = (
            run(fused, x, True),
            run(plain, x, True),
            run(exact, x.double(), False),
        )
        assert len(a) == len(p)
        for actual, expected, truth in zip([*a, *a_buffers], [*p, *p_buffers], [*e, *e_buffers], strict=True):
            assert actual.dtype == expected.dtype
            assert actual.stride() == expected.stride()
            scale = max(1e-3, truth.double().abs().max().item() if truth.numel() else 0.0)
            far = [
                (t.double() - truth.double()).abs().max().item() / scale if t.numel() else 0.0
                for t in (actual, expected)
            ]
            assert far[0] <= max(2 * far[1], torch.finfo(dtype).eps)
