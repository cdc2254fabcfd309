"""The operators under transforms, vectorised derivatives, tracing, export and modes: always PyTorch's result."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operator_samples import CALLS, tensors
from oracles import error
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from igan_fast import ops
from igan_fast.ops import backend, conv_act, transforms
from igan_fast.ops.convolution import ConvSettings, convolve
from igan_fast.reference import ops as reference


def plain_conv_act(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 2, padding: int = 2) -> Tensor:
    return F.leaky_relu(F.conv2d(x, weight, bias, stride, padding), 0.2)


TO_FEW_CHANNELS = ConvSettings(2, transposed=True, stride=2, padding=2, output_padding=1)


def to_few_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return convolve(x, weight, bias, TO_FEW_CHANNELS, differentiable=True)


def plain_to_few_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv_transpose2d(x, weight, bias, 2, 2, 1)


#: Each operator as ours and as PyTorch has it, of an image (4, 16, 8, 8), weights (16, 16, 5, 5) and a vector (16,).
OPERATORS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    name: (functools.partial(call, ops), functools.partial(call, reference)) for name, call in CALLS.items()
} | {
    "conv_act": tuple((lambda x, w, b, f=f: f(x, w, b)) for f in (conv_act.conv_act, plain_conv_act)),
    "conv_act, image": tuple(
        (lambda x, w, b, f=f: f(x[:, :3], w[:, :3], b)) for f in (conv_act.conv_act, plain_conv_act)
    ),
    "convolve, to few channels": tuple(
        (lambda x, w, b, f=f: f(x, w[:, :3], b[:3])) for f in (to_few_channels, plain_to_few_channels)
    ),
}


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
    """First derivatives one by one, and several second derivatives of them at once."""
    given = [t.clone().requires_grad_() for t in (x, w, b)]
    y = f(*given)
    first = torch.autograd.grad(y, given, torch.ones_like(y), create_graph=True, allow_unused=True)
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
    """Within 1e-4 of the exact result, or as close to it as plain PyTorch."""
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


def traced(f: Callable[..., Tensor], *t: Tensor) -> Tensor:
    return torch.jit.trace(Module(f, *t), t[0], check_trace=False)(t[0].flip(0))


def exported(f: Callable[..., Tensor], *t: Tensor, strict: bool) -> Tensor:
    program = torch.export.export(Module(f, *t), (t[0],), strict=strict)
    assert not [n.target for n in program.graph.nodes if "igan_fast" in str(n.target)]
    return program.module()(t[0].flip(0))


def exported_for_any_batch(f: Callable[..., Tensor], *t: Tensor) -> Tensor:
    batch = torch.export.Dim("batch", min=2)
    return torch.export.export(Module(f, *t), (t[0],), dynamic_shapes=[{0: batch}]).module()(
        torch.cat([t[0], t[0] * 2])
    )


def run_in_script(f: Callable[..., Tensor], *t: Tensor) -> Tensor:
    """Saved as TorchScript and loaded, as by somebody who does not have this package."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(Module(f, *t).eval(), t[0], check_trace=False), buffer)
    assert b"igan_fast::" not in buffer.getvalue()
    return torch.jit.load(io.BytesIO(buffer.getvalue()))(t[0])


RECORDERS: dict[str, Callable[..., Any]] = {
    "torch.jit.trace": traced,
    "torch.jit.save": run_in_script,
    "torch.export": functools.partial(exported, strict=False),
    "torch.export, strict": functools.partial(exported, strict=True),
    "make_fx": lambda f, *t: make_fx(lambda x, w, b: f(x, w, b))(*t)(*(each.flip(0) for each in t)),
}


@pytest.mark.parametrize("recorder", RECORDERS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_recorders(operator: str, recorder: str) -> None:
    """The recorded program needs PyTorch alone."""
    ours, plain = OPERATORS[operator]
    given, record = tensors(), RECORDERS[recorder]
    assert_same(record(ours, *given), record(plain, *given), record(plain, *(t.double() for t in given)))


@pytest.mark.parametrize(
    "operator", ["feature_l1", "conv_norm_act", "conv_norm_act, eval", "conv_act", "convolve, to few channels"]
)
def test_export_for_any_batch(operator: str) -> None:
    ours, plain = OPERATORS[operator]
    given = tensors()
    assert_same(*(exported_for_any_batch(f, *given) for f in (ours, plain, plain)))


@pytest.mark.parametrize("function", [ops.norm_act, ops.conv_norm_act, ops.feature_l1, conv_act.conv_act])
def test_torch_jit_script_is_refused_in_one_line(function: Any) -> None:
    with pytest.raises(RuntimeError, match=r"igan_fast's \w+; use torch.jit.trace or torch.export$"):
        torch.jit.script(function)


@pytest.mark.parametrize("operator", ["norm_act", "feature_l1", "conv_norm_act"])
def test_torch_fx_records_an_operator_as_one_call(operator: str) -> None:
    f = OPERATORS[operator][0]
    given = tensors()
    graph = torch.fx.symbolic_trace(Module(f, *given))
    assert operator in [getattr(node.target, "__name__", "") for node in graph.graph.nodes]
    for g in (graph, copy.deepcopy(graph)):
        assert torch.equal(g(given[0].flip(0)), f(given[0].flip(0), *given[1:]))


class Named(Tensor):
    """A subclass that overrides nothing."""


class Logged(Tensor):
    """A subclass without memory of its own, that sees each of PyTorch's operators."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.namespace in ("aten", "prims"), func
        args, kwargs = torch.utils._pytree.tree_map_only(Logged, lambda t: t.inner, (args, kwargs or {}))
        return torch.utils._pytree.tree_map_only(Tensor, Logged, func(*args, **kwargs))


@pytest.mark.parametrize("operator", OPERATORS)
def test_subclasses(operator: str) -> None:
    ours, plain = OPERATORS[operator]
    given = tensors()
    expected = plain(*given)
    named = ours(given[0].as_subclass(Named), *given[1:])
    assert type(named) is Named
    assert error(named.as_subclass(Tensor), expected) < 1e-5
    with torch.no_grad():
        assert error(ours(*map(Logged, given)).inner, expected) < 1e-5


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_dispatch_mode_sees_pytorchs_operators(operator: str) -> None:
    counts = []
    for f in OPERATORS[operator]:
        given = [t.requires_grad_() for t in tensors()]
        with FlopCounterMode(display=False) as counter:
            f(*given).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_a_function_mode_sees_the_operators() -> None:
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **kwargs or {})

    x, _, b = tensors()
    with Watch():
        y = ops.norm_act(x, b, b)
    assert ops.norm_act in seen
    assert torch.equal(y, ops.norm_act(x, b, b))


def test_sparse_tensors_are_left_to_pytorch() -> None:
    x = tensors()[0].to_sparse()
    assert backend.plain_only(x)
    with pytest.raises((RuntimeError, NotImplementedError)) as theirs:
        reference.norm_act(x, None, None)
    with pytest.raises(type(theirs.value)):
        ops.norm_act(x, None, None)


@pytest.mark.parametrize("impl", ["native", "triton"])
def test_an_implementation_that_is_named_says_where_it_cannot_run(impl: str) -> None:
    x = tensors()[0]
    for apply in (torch.vmap, torch.func.grad, lambda f: torch.jit.trace(f, x)):
        with pytest.raises(RuntimeError, match=rf"impl='{impl}' takes ordinary tensors, outside .*"):
            apply(lambda x: ops.norm_act(x, None, None, impl=impl).sum())(x)


def test_transformed() -> None:
    x = torch.randn(3)
    asked: list[bool] = []

    def ask(t: Tensor) -> Tensor:
        asked.append(backend.plain_only(t))
        return t.sum()

    ask(x), ask(x.requires_grad_()), ask(torch.nn.Parameter(x.detach()))
    assert asked == [False] * 3
    torch.vmap(ask)(several(x)), torch.func.grad(ask)(x), torch.jit.trace(ask, x.detach(), check_trace=False)
    ask(x.as_subclass(Named))
    with forward_ad.dual_level():
        ask(x)
    assert asked[3:] == [True] * (len(asked) - 3)
    assert not transforms.batched(x)
    assert not backend.plain_only(None)


def test_a_compiled_transform() -> None:
    x, w, b = tensors()

    def f(module: Any) -> Callable[[Tensor], Tensor]:
        return torch.func.grad(lambda x: module.conv_norm_act(x, w, b, b).square().sum())

    torch._dynamo.reset()
    compiled = torch.compile(f(ops), backend="aot_eager", fullgraph=True)(x)
    assert error(compiled, f(reference)(x)) < 1e-4


def test_a_compiled_backward_keeps_the_operator() -> None:
    """The tensors of a compiler are subclasses too, and our kernels are not left for them."""
    kept = []

    def look(graph: Any, inputs: Any) -> Any:
        kept.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    x, _, b = tensors()
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: ops.norm_act(x, b, b), backend=aot_autograd(fw_compiler=look, bw_compiler=look), fullgraph=True
    )
    compiled(x.requires_grad_()).sum().backward()
    name = backend.namespace("auto", x.device, (x.dtype,))
    if name is None:
        pytest.skip("there are no kernels here")
    assert {f"{name}.norm_act.default", f"{name}.norm_act_backward.default"} <= set(kept)
