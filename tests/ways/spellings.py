"""Ways of calling the activation, and of combining the three modules and their results."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ways.calls import normed, on_result


def _set(module: nn.Module, **attributes) -> nn.Module:
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def plain_forward(norm: nn.Module, x: Tensor) -> Tensor:
    kind = nn.BatchNorm2d if isinstance(norm, nn.BatchNorm2d) else nn.InstanceNorm2d
    return kind.forward(norm, x)


class _Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


def _plus(a, b):
    a += b
    return a


def released(net, x):
    """Frees the normalisation's input before the activation; its memory may then be allocated again."""
    h = net.conv(x)
    y = net.norm(h)
    del h
    torch.full((4, 16, 32, 32), 9.0, dtype=torch.float64)
    return net.act(y)


def inner_gradient(net, x):
    """A gradient with respect to the normalisation's result."""
    y = normed(net, x)
    z = net.act(y)
    if not z.requires_grad:
        return z
    return z, torch.autograd.grad(z.square().sum(), y, retain_graph=True)


def gradient_of_the_hidden(net, x):
    h = net.conv(x)
    z = net.act(net.norm(h))
    return (z, torch.autograd.grad(z.square().sum(), h, retain_graph=True)) if z.requires_grad else z


def retained(net, x):
    y = normed(net, x)
    z = net.act(y)
    if y.requires_grad:
        y.retain_grad()
        z.square().sum().backward(retain_graph=True)
        return z, y.grad
    return z


SPELLINGS = {
    "module after module": lambda net, x: net.act(normed(net, x)),
    "forward": lambda net, x: net(x),
    "F.relu": on_result(F.relu),
    "F.relu(input=)": on_result(lambda y: F.relu(input=y)),
    "torch.relu": on_result(torch.relu),
    "torch.relu(input=)": on_result(lambda y: torch.relu(input=y)),
    "method relu": on_result(lambda y: y.relu()),
    "Tensor.relu": on_result(Tensor.relu),
    "operator relu": on_result(torch.ops.aten.relu.default),
    "relu, name saved before": on_result(getattr(nn.functional, "relu")),  # noqa: B009
    "F.leaky_relu": on_result(F.leaky_relu),
    "F.leaky_relu(y, .3)": on_result(lambda y: F.leaky_relu(y, 0.3)),
    "F.leaky_relu(negative_slope=)": on_result(lambda y: F.leaky_relu(y, negative_slope=0.3)),
    "F.leaky_relu(input=)": on_result(lambda y: F.leaky_relu(input=y, negative_slope=0.3, inplace=False)),
    "F.leaky_relu, slope 0": on_result(lambda y: F.leaky_relu(y, 0)),
    "F.leaky_relu, slope 1": on_result(lambda y: F.leaky_relu(y, 1)),
    "F.leaky_relu, slope above 1": on_result(lambda y: F.leaky_relu(y, 1.5)),
    "F.leaky_relu, slope below 0": on_result(lambda y: F.leaky_relu(y, -0.5)),
    "F.leaky_relu, slope inf": on_result(lambda y: F.leaky_relu(y, float("inf"))),
    "F.leaky_relu, slope nan": on_result(lambda y: F.leaky_relu(y, float("nan"))),
    "F.leaky_relu, slope a tensor": on_result(lambda y: F.leaky_relu(y, torch.tensor(0.3))),
    "F.leaky_relu, slope a bool": on_result(lambda y: F.leaky_relu(y, True)),
    "F.leaky_relu, slope a string": on_result(lambda y: F.leaky_relu(y, "0.3")),
    "F.leaky_relu, slope None": on_result(lambda y: F.leaky_relu(y, None)),
    "torch._C._nn.leaky_relu": on_result(lambda y: torch._C._nn.leaky_relu(y, 0.3)),
    "relu_": on_result(lambda y: y.relu_()),
    "torch.relu_": on_result(torch.relu_),
    "F.relu_": on_result(F.relu_),
    "F.relu(inplace=True)": on_result(lambda y: F.relu(y, inplace=True)),
    "F.relu(y, True)": on_result(lambda y: F.relu(y, True)),
    "F.leaky_relu_": on_result(lambda y: F.leaky_relu_(y, 0.3)),
    "F.leaky_relu(y, .3, True)": on_result(lambda y: F.leaky_relu(y, 0.3, True)),
    "F.leaky_relu, in place, slope below 0": on_result(lambda y: F.leaky_relu(y, -0.3, inplace=True)),
    "module nn.ReLU(True)": on_result(nn.ReLU(True)),
    "module nn.LeakyReLU(.3, True)": on_result(nn.LeakyReLU(0.3, True)),
    "module nn.LeakyReLU(.3)": on_result(nn.LeakyReLU(0.3)),
    "module, in place set later": on_result(lambda y: _set(nn.ReLU(), inplace=True)(y)),
    "module, slope set later": on_result(lambda y: _set(nn.LeakyReLU(), negative_slope=0.7)(y)),
    "module of its own with F.relu": on_result(lambda y: _Own()(y)),
    "relu called with too much": on_result(lambda y: torch.relu(y, 1)),
    "called with a keyword": lambda net, x: net.act(input=net.norm(input=net.conv(input=x))),
    "forward called straight": lambda net, x: net.act.forward(net.norm.forward(net.conv.forward(x))),
    "class called": lambda net, x: net.act(type(net.norm).forward(net.norm, net.conv(x))),
    "plain class's forward": lambda net, x: net.act(plain_forward(net.norm, net.conv(x))),
    "clamp": on_result(lambda y: y.clamp(min=0)),
    "maximum": on_result(lambda y: torch.maximum(y, torch.zeros_like(y))),
    "times its sign": on_result(lambda y: y * (y > 0)),
    "where": on_result(lambda y: torch.where(y > 0, y, 0.2 * y)),
    **{f"F.{f.__name__}": on_result(f) for f in (F.relu6, F.gelu, F.elu, F.silu, F.selu, F.hardtanh, torch.sigmoid)},
    "F.rrelu": on_result(F.rrelu),
    "F.prelu": on_result(lambda y: F.prelu(y, torch.tensor([0.1], dtype=y.dtype))),
    "F.threshold": on_result(lambda y: F.threshold(y, 0.1, 20.0)),
    "F.dropout": on_result(lambda y: F.relu(F.dropout(y, 0.5))),
    "F.glu": on_result(lambda y: F.glu(y, 1)),
    "F.max_pool2d": on_result(lambda y: F.relu(F.max_pool2d(y, 2))),
    "F.interpolate": on_result(lambda y: F.relu(F.interpolate(y, scale_factor=2))),
}


USES = {
    "conv only": lambda net, x: net.conv(x),
    "norm only": normed,
    "norm and act without conv": lambda net, x: net.act(net.norm(x.repeat(1, 6, 1, 1)[:, :16])),
    "act only": lambda net, x: net.act(x),
    "result used before and after": lambda net, x: (lambda y: y + net.act(y) + y)(normed(net, x)),
    "result used twice": lambda net, x: (lambda y: [net.act(y), F.leaky_relu(y, 0.3), y * 1])(normed(net, x)),
    "the same activation twice": lambda net, x: (lambda y: net.act(y) * net.act(y))(normed(net, x)),
    "result after an in-place activation": lambda net, x: (lambda y: (F.relu_(y), y))(normed(net, x)),
    "used, activated in place, used": lambda net, x: (lambda y: (y * 2, F.relu_(y), y + 1))(normed(net, x)),
    "activated, written": lambda net, x: (lambda y: (net.act(y), y.add_(1)))(normed(net, x)),
    "activation's result written": lambda net, x: net.act(normed(net, x)).add_(1).mul(3),
    "norm of a norm": lambda net, x: net.act(net.norm(normed(net, x))),
    "norm twice of one result": lambda net, x: (lambda h: net.act(net.norm(h)) + net.norm(h))(net.conv(x)),
    "norm on two inputs": lambda net, x: (lambda a, b: (net.act(b), net.act(a)))(normed(net, x), normed(net, x * 2)),
    "convolution twice": lambda net, x: net.act(net.norm(net.conv(x) + net.conv(x * 2))),
    "convolution's result used twice": lambda net, x: (lambda h: net.act(net.norm(h)) + h)(net.conv(x)),
    "convolution's result written": lambda net, x: net.act(net.norm(net.conv(x).mul_(2))),
    "convolution then activation": lambda net, x: net.act(net.conv(x)),
    "activation twice": lambda net, x: net.act(net.act(normed(net, x))),
    "activation then norm": lambda net, x: net.norm(net.act(net.conv(x))),
    "residual": lambda net, x: net.act(normed(net, x) + net.conv(x)),
    "residual in place": lambda net, x: (lambda y: net.act(y.add_(net.conv(x))))(normed(net, x)),
    "residual, +=": lambda net, x: net.act(_plus(normed(net, x), net.conv(x))),
    "added to in place": lambda net, x: net.act(_plus(net.conv(x), normed(net, x))),
    "unused": lambda net, x: (normed(net, x), net.conv(x))[1],
    "in a list, used later": lambda net, x: [net.act(y) for y in [normed(net, x + i) for i in range(3)]],
    "in reverse": lambda net, x: [net.act(y) for y in reversed([normed(net, x + i) for i in range(3)])],
    "released": released,
    "gradient of the result": inner_gradient,
    "gradient of the hidden": gradient_of_the_hidden,
    "retain_grad": retained,
    "input without gradient": lambda net, x: net.act(normed(net, x.detach())),
    "detached before the norm": lambda net, x: net.act(net.norm(net.conv(x).detach())),
    "detached before the activation": lambda net, x: net.act(normed(net, x).detach()),
    "integers": lambda net, x: net.act(normed(net, x.long())),
    "wrong number of channels": lambda net, x: net.act(net.norm(x)),
    "wrong number of dimensions": lambda net, x: net.act(net.norm(net.conv(x).flatten(2))),
    "unbatched": lambda net, x: net.act(net.norm(net.conv(x[0]))),
    "empty": lambda net, x: net.act(normed(net, x[:0])),
    "one value a channel": lambda net, x: net.act(normed(net, x[:1, :, :1, :1])),
    "one image": lambda net, x: net.act(normed(net, x[:1])),
    "two by two": lambda net, x: net.act(normed(net, x[:2, :, :2, :2])),
    "sizes that change": lambda net, x: [net.act(normed(net, x[:n, :, :s, :s])) for n, s in ((4, 32), (2, 3), (3, 32))],
    "another dtype": lambda net, x: net.act(normed(net, x.float())),
    "another dtype at the norm": lambda net, x: net.act(net.norm(net.conv(x).float())),
    "meta": lambda net, x: copy.deepcopy(net).to("meta")(x.to("meta")).shape,
    "not a tensor": lambda net, x: net.act(net.norm(None)),
    "nan": lambda net, x: net.act(normed(net, x.masked_fill(x > 2.5, float("nan")))),
    "inf": lambda net, x: net.act(normed(net, x.masked_fill(x > 2.5, float("inf")))),
    "-inf": lambda net, x: F.leaky_relu(normed(net, x.masked_fill(x > 2.5, float("-inf"))), 0.3),
    "constant input": lambda net, x: net.act(normed(net, x * 0)),
    "huge values": lambda net, x: net.act(normed(net, x * 1e100)),
    "tiny values": lambda net, x: net.act(normed(net, x * 1e-100)),
    "a large mean": lambda net, x: net.act(normed(net, x + 1e3)) * 1e-3,
}
