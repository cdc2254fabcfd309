"""First and higher derivatives of fused networks, with incoming gradients of every memory format and dtype."""

from __future__ import annotations

import copy

import pytest
import torch
from plain_and_fused import Net, assert_alike, images, pair, randomised
from torch import Tensor, nn
from ways.nets import NETS, NETS_AND_MODES

pytestmark = pytest.mark.filterwarnings("ignore")


def second(net, x):
    """Second derivatives with respect to the input and all parameters."""
    y = net(x)
    if not y.requires_grad:
        return y
    (grad,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    grad.square().sum().backward()
    return grad.detach()


def second_alone(net, x):
    """The second derivative with respect to the bias is zero, and not None."""
    y = net(x)
    if not y.requires_grad:
        return y
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    inputs = [*net.norm.parameters(), net.conv.weight]
    return grad.detach(), torch.autograd.grad(grad.square().sum(), inputs, allow_unused=True)


def penalty(net, x):
    """WGAN-GP's gradient penalty, of the normalisation's result and of the activation's."""
    h = net.norm(net.conv(x))
    if not h.requires_grad:
        return h
    y = net.act(h)
    (grad,) = torch.autograd.grad(y.sum() + h.tanh().sum(), x, create_graph=True)
    return (grad.flatten(1).norm(2, dim=1) - 1).square().mean() + y.square().mean()


def to_hidden(net, x):
    h = net.norm(net.conv(x))
    if not h.requires_grad:
        return h
    (grad,) = torch.autograd.grad(net.act(h).sin().sum(), h, create_graph=True)
    return grad, h


def only_some(net, x):
    y = net(x)
    if not y.requires_grad:
        return y
    inputs = [net.norm.bias, x, net.conv.weight]
    return torch.autograd.grad(y.square().sum(), inputs)


def backward_into(net, x):
    y = net(x)
    if not y.requires_grad:
        return y
    y.backward(torch.ones_like(y).transpose(2, 3), inputs=[net.norm.weight])
    return net.norm.weight.grad.clone()


def gradient_of(change):
    """A way whose backward pass starts from a gradient made by the given function."""

    def way(net, x):
        y = net(x)
        if y.requires_grad:
            y.backward(change(images(y.shape, seed=8)))
        return y.detach()

    return way


def anomaly(net, x):
    with torch.autograd.set_detect_anomaly(True):
        y = net(x)
        if y.requires_grad:
            y.square().sum().backward()
        return y.detach()


def anomaly_found(net, x):
    with torch.autograd.set_detect_anomaly(True):
        y = net(x)
        y.register_hook(lambda g: g * float("nan"))
        return y.sum()


WAYS = {
    "second derivatives": second,
    "second derivatives alone": second_alone,
    "gradient penalty": penalty,
    "second derivatives to the hidden": to_hidden,
    "some gradients": only_some,
    "into one parameter": backward_into,
    "gradient transposed": gradient_of(lambda g: g.transpose(2, 3)),
    "gradient channels_last": gradient_of(lambda g: g.contiguous(memory_format=torch.channels_last)),
    "gradient expanded": gradient_of(lambda g: g[:1, :1, :1, :1].expand_as(g)),
    "gradient sliced": gradient_of(lambda g: torch.stack([g, g], -1)[..., 0]),
    "gradient 0": gradient_of(lambda g: g * 0),
    "gradient nan": gradient_of(lambda g: g.masked_fill(g > 3, float("nan"))),
    "gradient of another dtype": gradient_of(lambda g: g.float()),
    "gradient of another shape": gradient_of(lambda g: g[:1]),
    "anomaly mode": anomaly,
    "anomaly found": anomaly_found,
}


@NETS_AND_MODES
@pytest.mark.parametrize("way", WAYS)
def test_derivatives(way, net, training, context):
    assert_alike(randomised(NETS[net]()).train(training), WAYS[way], images(), context=context, tolerance=1e-8)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
@pytest.mark.parametrize("last", [nn.Identity, lambda: nn.Conv2d(16, 4, 1), nn.Tanh])
def test_second_derivatives_are_absent_where_pytorchs_are(last, norm, training):
    """Without an activation a penalty depends neither on a normalisation's bias nor, in evaluation, on its input."""
    net = randomised(nn.Sequential(nn.Conv2d(3, 16, 3), norm(16, affine=True), last())).train(training)

    def way(net, x):
        y = net(x)
        if not y.requires_grad:
            return y
        (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return grad.detach(), torch.autograd.grad(grad.square().sum(), [x, *net.parameters()], allow_unused=True)

    assert_alike(net, way, images())


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_the_second_derivative_by_a_convolutions_bias_is_zero(slope):
    """One of our own kernels computes the convolution and the activation."""
    fused, plain = pair(randomised(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.LeakyReLU(slope)), torch.float32))
    for net in (fused, plain):
        for _ in range(3):
            net.zero_grad(set_to_none=True)
            x = images((8, 16, 32, 32), torch.float32).requires_grad_()
            (grad,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
            grad.square().sum().backward()
            assert net[0].bias.grad is not None
            assert not net[0].bias.grad.any()
    difference = (fused[0].weight.grad - plain[0].weight.grad).abs().max()
    assert difference < 1e-4 * plain[0].weight.grad.abs().max()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("net", NETS)
def test_gradcheck(net, training):
    """First and second derivatives against numerical ones."""
    fused, _ = pair(randomised(NETS[net]()).train(training))
    for shape in ((2, 3, 2, 2), (3, 3, 3, 2)):
        x = images(shape).requires_grad_()
        fused.norm.momentum = 0.0  # many calls
        assert torch.autograd.gradcheck(fused, x, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda x: fused(x).sin(), x, fast_mode=True, atol=1e-4)
        assert torch.autograd.gradcheck(lambda x: fused.norm(fused.conv(x)), x, fast_mode=True)
    fused.norm.momentum = 0.0
    x = images().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fused(x).sin().sum(), x, fast_mode=True, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_directional_derivatives_agree_with_differences(training):
    """For parameters and input of large feature maps, against a central difference along one direction."""
    fused, _ = pair(randomised(Net(act=nn.LeakyReLU(0.2))).train(training))
    x = images().requires_grad_()
    tensors = [x, *fused.parameters()]
    directions = [images(t.shape, seed=9 + i) for i, t in enumerate(tensors)]

    def value():
        return fused(x).sin().sum()

    exact = sum((g * d).sum() for g, d in zip(torch.autograd.grad(value(), tensors), directions, strict=True))
    ends = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for t, d in zip(tensors, directions, strict=True):
                t.add_(d, alpha=step)
            ends.append(value())
    assert abs((ends[0] - ends[1]) / 2e-6 - exact) < 1e-3 * max(1.0, abs(exact))


class Explicit(nn.Module):
    """Batch normalisation in elementary functions."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, (0, 2, 3), unbiased=False, keepdim=True)
        weight, bias = (t[:, None, None] for t in (self.norm.weight, self.norm.bias))
        return (x - mean) / (var + self.norm.eps).sqrt() * weight + bias


def test_third_derivatives():
    """Against elementary functions, because the third derivatives of PyTorch's batch normalisation are wrong."""
    fused, plain = pair(randomised(Net(act=nn.LeakyReLU(0.2))))
    explicit = copy.deepcopy(plain)
    explicit.norm = Explicit(explicit.norm)
    results = []
    for net in (fused, explicit):
        for _ in range(2):
            x = images().requires_grad_()
            y = net(x)
            for _ in range(2):
                (y,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
            (y,) = torch.autograd.grad(y.sin().sum(), x)
        results.append(y)
    assert (results[0] - results[1]).abs().max() < 1e-9 * results[1].abs().max()
