"""Each way of calling a convolution, a normalisation and an activation gives what plain PyTorch gives."""

from __future__ import annotations

import copy
import io
import pickle
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_and_fused import Net, assert_alike, images, varied
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Through(torch.autograd.Function):
    """Gives its input itself back."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * 3


def normed(net, x: Tensor) -> Tensor:
    return net.norm(net.conv(x))


def written(change, use=lambda net, y: net.act(y)):
    """The normalisation's result is written into, then used."""

    def way(net, x):
        y = normed(net, x)
        change(y)
        return use(net, y), y

    return way


def on_result(function):
    return lambda net, x: function(normed(net, x))


def under(context, part):
    """One of the three calls within a context."""

    def way(net, x):
        for name in ("conv", "norm", "act"):
            if name in part.split():
                with context():
                    x = getattr(net, name)(x)
            else:
                x = getattr(net, name)(x)
        return x

    return way


def checkpointed(part, **options):
    def way(net, x):
        if part == "all":
            return checkpoint(net, x, **options)
        if part == "norm and act":
            return checkpoint(lambda h: net.act(net.norm(h)), net.conv(x), **options)
        if part == "conv and norm":
            return net.act(checkpoint(lambda h: net.norm(net.conv(h)), x, **options))
        for name in ("conv", "norm", "act"):
            module = getattr(net, name)
            x = checkpoint(module, x, **options) if name == part else module(x)
        return x

    return way


def without_names(text: str) -> str:
    """A node may have a name of our own; a subclass of our own may print its name."""
    return re.sub(r"grad_fn=<\w+>", "grad_fn", text)


def stored(y: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(y.detach(), file)
    file.seek(0)
    return torch.load(file)


def released(net, x):
    """The input of the normalisation is freed, and its memory perhaps used again, before the activation."""
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


def _plus(a, b):
    a += b
    return a


LOOKS = {
    "cat": lambda net, x: torch.cat([normed(net, x), x], 1),
    "stack": on_result(lambda y: torch.stack([y, y])),
    "indexed": on_result(lambda y: F.relu(y[:, :3])),
    "indexed by a number": on_result(lambda y: F.relu(y[0])),
    "indexed by a mask": on_result(lambda y: y[y > 0.5]),
    "indexed by numbers": on_result(lambda y: y[[1, 0]]),
    "ellipsis": on_result(lambda y: F.relu(y[..., None])),
    "viewed": on_result(lambda y: F.relu(y.view(y.shape[0], -1))),
    "reshaped": on_result(lambda y: F.relu(y.reshape(-1))),
    "flattened": on_result(lambda y: F.relu(y.flatten(1))),
    "permuted": on_result(lambda y: F.relu(y.permute(0, 2, 3, 1))),
    "transposed": on_result(lambda y: F.leaky_relu(y.transpose(0, 1), 0.3)),
    "mT": on_result(lambda y: F.relu(y.mT)),
    "squeezed": on_result(lambda y: F.relu(y.unsqueeze(0).squeeze(0))),
    "detached": on_result(lambda y: F.relu(y.detach())),
    "cloned": on_result(lambda y: F.relu(y.clone())),
    "contiguous": on_result(lambda y: F.relu(y.contiguous())),
    "channels_last": on_result(lambda y: F.relu(y.contiguous(memory_format=torch.channels_last))),
    "chunked": on_result(lambda y: [F.relu(c) for c in y.chunk(2, 1)]),
    "split": on_result(lambda y: [F.relu(c) for c in torch.split(y, 3, 1)]),
    "unbound": on_result(lambda y: torch.unbind(y)),
    "iterated": on_result(lambda y: [F.relu(row) for row in y]),
    "unpacked": on_result(lambda y: (lambda a, b, c, d: a * b * c * d)(*y)),
    "to float": on_result(lambda y: F.relu(y.float())),
    "to the same": on_result(lambda y: F.relu(y.to(y.dtype))),
    "double": on_result(lambda y: y.double().relu()),
    "type": on_result(lambda y: (y.type(), y.type(torch.float32))),
    "item": on_result(lambda y: y[0, 0, 0, 0].item()),
    "item of many": on_result(lambda y: y.item()),
    "sum": on_result(lambda y: (y.sum(), y.mean((0, 2, 3)), y.var(), y.max(), y.amax(1), y.norm())),
    "tolist": on_result(lambda y: y[0, :2, 0, :3].tolist()),
    "printed": on_result(lambda y: without_names(str(y))),
    "repr": on_result(lambda y: without_names(repr(y))),
    "formatted": on_result(lambda y: f"{y.sum():.5f} {y.detach().mean():.5f}"),
    "len": on_result(len),
    "bool": on_result(bool),
    "bool of one": on_result(lambda y: bool(y.sum() > 0)),
    "float of one": on_result(lambda y: float(y.sum())),
    "contains": on_result(lambda y: 1e9 in y),
    "numpy": on_result(lambda y: torch.from_numpy(y.detach().numpy().copy())),
    "numpy of what has a gradient": on_result(lambda y: torch.from_numpy(y.numpy().copy())),
    "numpy.asarray": on_result(lambda y: torch.from_numpy(np.array(y.detach()))),
    "numpy function": on_result(lambda y: float(np.sum(y.detach().numpy()))),
    "dlpack": on_result(lambda y: torch.from_dlpack(y.detach())),
    "asked for": on_result(
        lambda y: [y.numel(), y.dim(), y.size(1), y.ndim, y.nelement(), y.element_size(), y.itemsize, y.nbytes]
    ),
    "told apart": on_result(
        lambda y: [y.is_floating_point(), torch.is_tensor(y), y.is_complex(), y.is_sparse, y.layout]
    ),
    "storage": on_result(
        lambda y: [y.untyped_storage().nbytes(), len(y.storage()), y.data_ptr() == y.detach().data_ptr()]
    ),
    "data": on_result(lambda y: F.relu(y.data)),
    "gradient and version": on_result(lambda y: [y.grad is None, y.output_nr, y._version]),
    "like": on_result(
        lambda y: [torch.zeros_like(y), torch.ones_like(y), y.new_ones(3), y.new_zeros(2), torch.full_like(y, 2.0)]
    ),
    "compared": on_result(lambda y: [y == y, y > 0, torch.equal(y, y.clone()), torch.allclose(y, y), y.eq(0).sum()]),
    "arithmetic": on_result(lambda y: 2 * y - 1 + y**2 / 3 - (-y) + abs(y) % 2 + (1 - y) * y),
    "matrix product": on_result(lambda y: y @ y.mT),
    "einsum": on_result(lambda y: torch.einsum("nchw,ndhw->ncd", y, y)),
    "identity": on_result(lambda y: nn.Identity()(y)),
    "sequential": on_result(lambda y: nn.Sequential(nn.Identity(), nn.ReLU())(y)),
    "hash and set": on_result(lambda y: (hash(y) == hash(y), y in {y: 1}, len({y, y}))),
    "copy.copy": on_result(lambda y: F.relu(copy.copy(y.detach()))),
    "deepcopy": on_result(lambda y: F.relu(copy.deepcopy(y.detach()))),
    "deepcopy of what has a gradient": on_result(lambda y: copy.deepcopy(y)),
    "pickled": on_result(lambda y: pickle.loads(pickle.dumps(y.detach()))),
    "pickled with its gradient": on_result(lambda y: pickle.loads(pickle.dumps(y))),
    "saved": on_result(stored),
    "custom function": on_result(lambda y: F.relu(Square.apply(y))),
    "custom function that gives its input": on_result(lambda y: F.relu(Through.apply(y))),
    "custom function of the activation": lambda net, x: Square.apply(net.act(normed(net, x))),
    "requires_grad switched off": on_result(lambda y: y.requires_grad_(False)),
    "requires_grad switched on": on_result(lambda y: F.relu(y.requires_grad_())),
    "detach_": on_result(lambda y: F.relu(y.clone().detach_())),
    "requires grad again": on_result(lambda y: F.relu(y.detach().requires_grad_())),
    "as a parameter": on_result(lambda y: F.relu(nn.Parameter(y.detach()))),
    "as a buffer": on_result(lambda y: nn.BatchNorm2d(16).register_buffer("kept", y)),
    "as an index": on_result(lambda y: torch.arange(3)[(y[0, 0, 0, :2] > 0).long()]),
    "next convolution": on_result(lambda y: F.conv2d(y, y.new_ones(1, 16, 1, 1))),
    "next norm by function": on_result(lambda y: F.relu(F.batch_norm(y, None, None, training=True))),
    "multinomial": on_result(lambda y: torch.multinomial(y.detach()[0, 0].abs(), 2)),
    "unfold": on_result(lambda y: y.unfold(2, 2, 2)),
    "as_strided": on_result(lambda y: y.as_strided((2, 3), (5, 1))),
    "expand": on_result(lambda y: F.relu(y.unsqueeze(1).expand(-1, 2, -1, -1, -1))),
    "real": on_result(lambda y: F.relu(y.real)),
    "map": on_result(lambda y: y.detach().apply_(lambda v: v + 1)[:1, :1]),
}

WRITES = {
    "add_": written(lambda y: y.add_(1.0)),
    "mul_": written(lambda y: y.mul_(-1.0)),
    "zero_": written(lambda y: y.zero_()),
    "fill_": written(lambda y: y.fill_(0.5)),
    "copy_": written(lambda y: y.copy_(torch.ones_like(y))),
    "clamp_": written(lambda y: y.clamp_(-0.1, 0.1)),
    "item set": written(lambda y: y.__setitem__(0, 0.3)),
    "items set by a mask": written(lambda y: y.__setitem__(y > 0.2, -1.0)),
    "through a view": written(lambda y: y.view(-1)[7:99].zero_()),
    "through a column": written(lambda y: y[:, 3].fill_(2.0)),
    "through detach": written(lambda y: y.detach().mul_(-2.0)),
    "through data": written(lambda y: y.data.mul_(-2.0)),
    "data set": written(lambda y: setattr(y, "data", torch.ones_like(y) * 0.5)),
    "through numpy": written(lambda y: y.detach().numpy().__setitem__(..., 0.25)),
    "through dlpack": written(lambda y: torch.from_dlpack(y.detach()).fill_(0.25)),
    "by out=": written(lambda y: torch.add(torch.ones_like(y), 1.0, out=y)),
    "without gradient": written(lambda y: torch.no_grad()(lambda: y.add_(1.0))()),
    "dropout in place": written(lambda y: F.dropout(y, 0.5, True, True)),
    "another activation in place": written(lambda y: F.elu_(y)),
    "transposed in place": written(lambda y: y.t_() if y.dim() == 2 else y.transpose_(1, 2)),
    "unsqueezed in place": written(lambda y: y.unsqueeze_(0)),
    "resized in place": written(lambda y: y.detach().resize_(2, 3)),
    "random in place": written(lambda y: y.normal_()),
    "after the activation": lambda net, x: (lambda y: (lambda z: (y.add_(1.0), z))(net.act(y)))(normed(net, x)),
    "the view before, the write after": lambda net, x: (lambda y: (lambda v: (y.mul_(2.0), v, net.act(v)))(y.view(-1)))(
        normed(net, x)
    ),
}

MODES = {
    **{
        f"{part} under no_grad": under(torch.no_grad, part) for part in ("conv", "norm", "act", "conv norm", "norm act")
    },
    **{f"{part} under enable_grad": under(torch.enable_grad, part) for part in ("conv", "norm", "act", "conv norm")},
    **{f"{part} under inference": under(torch.inference_mode, part) for part in ("conv", "norm", "act", "norm act")},
    **{
        f"{part} under set_grad_enabled(False)": under(lambda: torch.set_grad_enabled(False), part)
        for part in ("conv", "norm", "act")
    },
    "norm and activation one after another under no_grad": under(torch.no_grad, "norm act"),
    "no longer in inference": under(lambda: torch.inference_mode(False), "norm act"),
    "switched off for good between": lambda net, x: _switched(net, x),
    **{
        f"checkpoint of {part}, {'' if reentrant else 'not '}reentrant": checkpointed(part, use_reentrant=reentrant)
        for part in ("conv", "norm", "act", "conv and norm", "norm and act", "all")
        for reentrant in (True, False)
    },
    "checkpoint within a checkpoint": lambda net, x: checkpoint(
        lambda h: checkpoint(net.act, checkpoint(normed, net, h, use_reentrant=False), use_reentrant=False),
        x,
        use_reentrant=False,
    ),
    "checkpoint of a sequential": lambda net, x: torch.utils.checkpoint.checkpoint_sequential(
        [net.conv, net.norm, net.act], 2, x, use_reentrant=False
    ),
}


def _switched(net, x):
    before = torch.is_grad_enabled()
    y = normed(net, x)
    torch.set_grad_enabled(not before)
    try:
        return net.act(y)
    finally:
        torch.set_grad_enabled(before)


WAYS = {
    f"{table}: {name}": way
    for table, ways in (
        ("spelling", SPELLINGS),
        ("use", USES),
        ("look", LOOKS),
        ("write", WRITES),
        ("mode", MODES),
    )
    for name, way in ways.items()
}

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
    assert_alike(varied(NETS[net]()).train(training == "train"), WAYS[way], images(), context=context)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_one_way_after_another_on_one_network(seed, training):
    """What a place has learnt from some calls must not change the result of others."""
    names = random.Random(seed).sample(sorted(WAYS), 8)
    turn = iter(range(1000))

    def way(net, x):
        return WAYS[names[next(turn) % 8]](net, x)

    def either(net, x):
        nonlocal turn
        if net is not getattr(either, "net", None):
            either.net, turn = net, iter(range(1000))
        return way(net, x)

    assert_alike(
        varied(Net()).train(training), either, images(), turns="first second third fourth fifth sixth seventh eighth"
    )
