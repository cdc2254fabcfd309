"""Ways of using a normalisation's result: reading it, or writing into it in place."""

from __future__ import annotations

import copy
import io
import pickle
import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ways.calls import normed, on_result


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Through(torch.autograd.Function):
    """Returns a view of its input."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * 3


def written(change, use=lambda net, y: net.act(y)):
    """A way that changes the normalisation's result in place with ``change``, and then uses it."""

    def way(net, x):
        y = normed(net, x)
        change(y)
        return use(net, y), y

    return way


def without_names(text: str) -> str:
    """``text`` without the names of autograd nodes: ours have other names than PyTorch's."""
    return re.sub(r"\s+", " ", re.sub(r"grad_fn=<\w+>", "grad_fn", text))


def stored(y: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(y.detach(), file)
    file.seek(0)
    return torch.load(file)


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
    "numpy of a tensor that requires grad": on_result(lambda y: torch.from_numpy(y.numpy().copy())),
    "numpy.asarray": on_result(lambda y: torch.from_numpy(np.array(y.detach()))),
    "numpy function": on_result(lambda y: float(np.sum(y.detach().numpy()))),
    "dlpack": on_result(lambda y: torch.from_dlpack(y.detach())),
    "sizes": on_result(
        lambda y: [y.numel(), y.dim(), y.size(1), y.ndim, y.nelement(), y.element_size(), y.itemsize, y.nbytes]
    ),
    "kind of tensor": on_result(
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
    "deepcopy of a tensor that requires grad": on_result(lambda y: copy.deepcopy(y)),
    "pickled": on_result(lambda y: pickle.loads(pickle.dumps(y.detach()))),
    "pickled with its gradient": on_result(lambda y: pickle.loads(pickle.dumps(y))),
    "saved": on_result(stored),
    "custom function": on_result(lambda y: F.relu(Square.apply(y))),
    "custom function that returns its input": on_result(lambda y: F.relu(Through.apply(y))),
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
    "view taken before, changed after": lambda net, x: (lambda y: (lambda v: (y.mul_(2.0), v, net.act(v)))(y.view(-1)))(
        normed(net, x)
    ),
}
