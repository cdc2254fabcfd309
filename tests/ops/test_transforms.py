"""The operators under function transforms, vectorised derivatives, tracing, export and modes: always PyTorch's result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import error
from torch import Tensor
from torch.autograd import forward_ad

from igan_fast import ops
from igan_fast.ops import backend, conv_act, subpixel, transforms
from igan_fast.reference import ops as reference

CHANNELS = 16  # wide enough for our own convolution


def plain_conv_act(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 2, padding: int = 2) -> Tensor:
    return F.leaky_relu(F.conv2d(x, weight, bias, stride, padding), 0.2)


def plain_transposed(x: Tensor, weight: Tensor, stride: int, padding: int, extra: int, *, bias: Tensor) -> Tensor:
    return F.conv_transpose2d(x, weight, bias, stride, padding, extra)


#: Each operator as ours and as PyTorch has it, of an image (4, 16, 8, 8), weights (16, 16, 5, 5) and a vector (16,).
OPERATORS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "feature_l1": tuple(
        (lambda x, w, b, m=module: m.feature_l1([x * 2, [x.square()]], [x.flip(0), [b.view(-1, 1, 1) + x]], [1, 2]))
        for module in (ops, reference)
    ),
    "norm_act": tuple((lambda x, w, b, m=m: m.norm_act(x, b, b.cos(), groups=2)) for m in (ops, reference)),
    "norm_act, eval": tuple(
        (lambda x, w, b, m=m: m.norm_act(x, b, b, b.new_zeros(CHANNELS), b.new_ones(CHANNELS), training=False))
        for m in (ops, reference)
    ),
    "conv_norm_act": tuple((lambda x, w, b, m=m: m.conv_norm_act(x, w, b, None)) for m in (ops, reference)),
    "conv_norm_act, transposed": tuple(
        (lambda x, w, b, m=m: m.conv_norm_act(x, w, b, b, transposed=True, output_padding=1, conv_bias=b))
        for m in (ops, reference)
    ),
    "conv_norm_act, eval": tuple(
        (lambda x, w, b, m=m: m.conv_norm_act(x, w, b, b, b.new_zeros(CHANNELS), b.new_ones(CHANNELS), training=False))
        for m in (ops, reference)
    ),
    "conv_act": tuple((lambda x, w, b, f=f: f(x, w, b)) for f in (conv_act.conv_act, plain_conv_act)),
    "conv_act, image": tuple(
        (lambda x, w, b, f=f: f(x[:, :3], w[:, :3], b)) for f in (conv_act.conv_act, plain_conv_act)
    ),
    "subpixel": tuple(
        (lambda x, w, b, f=f: f(x, w[:, :3], 2, 2, 1, bias=b[:3])) for f in (subpixel.conv_transpose2d, plain_transposed)
    ),
}


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(4, CHANNELS, 8, 8), torch.randn(CHANNELS, CHANNELS, 5, 5) * 0.1, torch.rand(CHANNELS) + 0.5


def several(t: Tensor) -> Tensor:
    return torch.stack([t, t * 0.5, t.flip(0)])


def gradient_penalty(f: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    given = [t.clone().requires_grad_() for t in (x, w, b)]
    y = f(*given)
    first = torch.autograd.grad(y, given, torch.ones_like(y), create_graph=True, allow_unused=True)
    total = (y * y.detach().cos()).mean() + sum(g.square().mean() for g in first if g is not None)
    return torch.autograd.grad(total, given, allow_unused=True)


def batched_gradients(f: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor, **options: Any) -> list[Tensor]:
    given = [t.clone().requires_grad_() for t in (x, w, b)]
    y = f(*given)
    upstream = several(torch.linspace(-1, 1, y.numel()).to(y).view(y.shape))
    return torch.autograd.grad(y, given, upstream, is_grads_batched=True, allow_unused=True, **options)


def batched_then_again(f: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor) -> list[Tensor]:
    """Several first derivatives at once, and the second derivatives of all of them."""
    given = [t.clone().requires_grad_() for t in (x, w, b)]
    y = f(*given)
    upstream = several(torch.linspace(-1, 1, y.numel()).to(y).view(y.shape)).requires_grad_()
    first = torch.autograd.grad(y, given, upstream, is_grads_batched=True, allow_unused=True, create_graph=True)
    total = sum((g * g.detach().cos()).sum() for g in first if g is not None)
    return torch.autograd.grad(total, [*given, upstream], allow_unused=True)


def once_then_batched(f: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor) -> list[Tensor]:
    """First derivatives as usual, and several second derivatives of them at once."""
    given = [t.clone().requires_grad_() for t in (x, w, b)]
    y = f(*given)
    first = [g for g in torch.autograd.grad(y, given, torch.ones_like(y), create_graph=True, allow_unused=True)]
    wanted = [g for g in first if g is not None and g.requires_grad]
    if not wanted:
        return []
    upstream = [several(torch.linspace(-1, 1, g.numel()).to(g).view(g.shape)) for g in wanted]
    return torch.autograd.grad(wanted, given, upstream, is_grads_batched=True, allow_unused=True)


def hessian(f: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor) -> Any:
    def of(b: Tensor) -> Tensor:
        return f(x, w, b).square().mean()

    return torch.autograd.functional.hessian(of, b, vectorize=True)


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "grad": lambda f, *t: torch.func.grad(lambda *t: f(*t).square().mean(), argnums=(0, 1, 2))(*t),
    "grad of grad": lambda f, *t: torch.func.grad(
        lambda b: torch.func.grad(lambda b: f(*t[:2], b).square().mean())(b).square().sum()
    )(t[2]),
    "vjp": lambda f, *t: (lambda y, pull: pull(torch.ones_like(y)))(*torch.func.vjp(f, *t)),
    "jvp": lambda f, *t: torch.func.jvp(f, t, t),
    "vmap": lambda f, *t: torch.vmap(f)(*map(several, t)),
    "vmap of grad": lambda f, *t: torch.vmap(torch.func.grad(lambda x: f(x, *t[1:]).square().mean()))(several(t[0])),
    "jacrev": lambda f, *t: torch.func.jacrev(lambda b: f(*t[:2], b).mean((0, -1, -2)) if f(*t).dim() else f(*t))(t[2]),
    "jacfwd": lambda f, *t: torch.func.jacfwd(lambda b: f(*t[:2], b).sum())(t[2]),
    "jacobian, vectorised": lambda f, *t: torch.autograd.functional.jacobian(
        lambda *t: f(*t).flatten()[:3] if f(*t).dim() else f(*t), t, vectorize=True
    ),
    "jacobian, forward": lambda f, *t: torch.autograd.functional.jacobian(
        lambda b: f(*t[:2], b).sum(), t[2], vectorize=True, strategy="forward-mode"
    ),
    "hessian, vectorised": hessian,
    "is_grads_batched": batched_gradients,
    "is_grads_batched, twice": batched_then_again,
    "is_grads_batched, of a gradient": once_then_batched,
    "functional_call": lambda f, *t: torch.func.grad(
        lambda p: torch.func.functional_call(Module(f, *t), p, (t[0],)).square().mean()
    )({"w": t[1], "b": t[2]}),
    "gradient penalty": gradient_penalty,
}


class Module(torch.nn.Module):
    def __init__(self, f: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.f, self.w, self.b = f, torch.nn.Parameter(w), torch.nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x, self.w, self.b)


def flat(found: Any) -> list[Tensor | None]:
    return torch.utils._pytree.tree_leaves(found, is_leaf=lambda t: t is None)


def assert_same(actual: Any, plain: Any, exact: Any) -> None:
    """Within 1e-4 of the exact result, or as near to it as plain PyTorch."""
    for a, p, e in zip(flat(actual), flat(plain), flat(exact), strict=True):
        if a is None or e is None:  # no gradient and a gradient of 0 are one
            assert not any(t is not None and t.any() for t in (a, e))
        else:
            assert error(a, e) <= max(1e-4, error(p, e)) or (a - e).abs().max() < 1e-6


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_transforms(operator: str, transform: str) -> None:
    ours, plain = OPERATORS[operator]
    given, apply = tensors(), TRANSFORMS[transform]
    exact = apply(plain, *(t.double() for t in given))
    assert_same(apply(ours, *given), apply(plain, *given), exact)


class Count(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = [*getattr(self, "seen", ()), func]
        return func(*args, **kwargs or {})
