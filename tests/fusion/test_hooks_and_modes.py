"""Hooks and modes see the same on a fused network as on a plain one."""

from __future__ import annotations

import contextlib
import pickle

import pytest
import torch
import torch.nn.functional as F
from plain_and_fused import Net, assert_alike, differences, images, metadata, pair, randomised, record, snapshot
from torch import Tensor
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from ways.nets import NETS, NETS_AND_MODES

pytestmark = pytest.mark.filterwarnings("ignore")

PARTS = ("conv", "norm", "act")


def seen_by(values) -> list:
    if isinstance(values, Tensor):
        return [values.detach().clone(), tuple(values.stride()), values.requires_grad]
    if isinstance(values, dict):
        values = list(values.values())
    return [leaf for value in values for leaf in seen_by(value)] if isinstance(values, list | tuple) else []


class Wrong(Exception):
    pass


def hooked(register, *, changes=False):
    """A way that registers hooks by ``register(net, hook)``, which returns handles, and also returns what they see."""

    def way(net, x):
        seen: list = []

        def hook(_, *values):
            seen.extend(seen_by(values))
            if changes:
                return changes(*values)

        handles = register(net, hook)
        try:
            y = net(x)
            if y.requires_grad:
                y.square().sum().backward(retain_graph=True)
        finally:
            for handle in handles if isinstance(handles, list) else [handles]:
                handle.remove()
        return y, seen, net(x)

    return way


def hooks_of(part):
    def on(net):
        return net if part == "whole" else getattr(net, part)

    return {
        f"forward of {part}": hooked(lambda net, hook: on(net).register_forward_hook(hook)),
        f"forward of {part}, prepended": hooked(lambda net, hook: on(net).register_forward_hook(hook, prepend=True)),
        f"forward of {part}, with keywords": hooked(
            lambda net, hook: on(net).register_forward_hook(lambda m, a, k, y: hook(m, a, k, y), with_kwargs=True)
        ),
        f"forward of {part}, always": hooked(lambda net, hook: on(net).register_forward_hook(hook, always_call=True)),
        f"forward of {part}, changing": hooked(
            lambda net, hook: on(net).register_forward_hook(hook), changes=lambda inputs, y: y * 2 - 0.1
        ),
        f"forward of {part}, in place": hooked(
            lambda net, hook: on(net).register_forward_hook(lambda m, i, y: _in_place(y))
        ),
        f"forward of {part}, to a tuple": hooked(
            lambda net, hook: [
                on(net).register_forward_hook(lambda m, i, y: (y,)),
                on(net).register_forward_hook(lambda m, i, y: y[0]),
            ]
        ),
        f"before {part}": hooked(lambda net, hook: on(net).register_forward_pre_hook(hook)),
        f"before {part}, changing": hooked(
            lambda net, hook: on(net).register_forward_pre_hook(hook), changes=lambda inputs: inputs[0] * 3
        ),
        f"before {part}, with keywords": hooked(
            lambda net, hook: on(net).register_forward_pre_hook(lambda m, a, k: hook(m, a, k), with_kwargs=True)
        ),
        f"backward of {part}": hooked(lambda net, hook: on(net).register_full_backward_hook(hook)),
        f"backward of {part}, changing": hooked(
            lambda net, hook: on(net).register_full_backward_hook(hook),
            changes=lambda inner, outer: tuple(None if g is None else g * 2 for g in inner),
        ),
        f"before the backward of {part}": hooked(lambda net, hook: on(net).register_full_backward_pre_hook(hook)),
        f"backward of {part}, old": hooked(lambda net, hook: on(net).register_backward_hook(hook)),
    }


def _in_place(y: Tensor) -> None:
    with torch.no_grad():
        y.mul_(0.5)


def globally(name: str):
    """A hook on all modules; it also records the order and the classes of what it sees."""

    def register(net, hook):
        return getattr(module_hooks, name)(lambda m, *values: hook(m, *values))

    return hooked(register)


def raising(part: str, kind: str):
    """A call with an error in a hook, and then an ordinary call, which the first must not influence."""

    def way(net, x):
        def hook(*_):
            raise Wrong

        handle = getattr(getattr(net, part), kind)(hook)
        with contextlib.suppress(Wrong):
            net(x).square().sum().backward()
        handle.remove()
        net.zero_grad(set_to_none=True)
        return net(x)

    return way


def on_tensor(use):
    """A hook on the normalisation's result, registered before the activation is called."""

    def way(net, x):
        seen = []
        y = net.norm(net.conv(x))
        if y.requires_grad:
            use(y, seen)
        z = net.act(y)
        if z.requires_grad:
            z.square().sum().backward(retain_graph=True)
        return z, seen, y.grad if y.retains_grad else None

    return way


def accumulated(net, x):
    seen: list = []
    handles = [
        p.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
        for p in net.parameters()
        if p.requires_grad
    ]
    y = net(x)
    if y.requires_grad:
        y.square().sum().backward()
    for handle in handles:
        handle.remove()
    seen.sort(key=lambda g: (tuple(g.shape), g.sum().item()))  # autograd does not define their order
    return seen


def saved(pack, unpack):
    def way(net, x):
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return net(x)

    return way


def saved_around(part):
    """Saved-tensor hooks around one of the calls: each tensor is put into a list and its index is saved."""

    def way(net, x):
        store: list[Tensor] = []
        for name in PARTS:
            if name in part.split():
                with torch.autograd.graph.saved_tensors_hooks(
                    lambda t: (store.append(t.clone()), len(store) - 1)[1], store.__getitem__
                ):
                    x = getattr(net, name)(x)
            else:
                x = getattr(net, name)(x)
        return x

    return way


def on_cpu(net, x):
    with torch.autograd.graph.save_on_cpu():
        return net(x)


class Counting(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Doubling(TorchDispatchMode):
    """Changes the result of an operator: it must see the result of relu once, however that is computed."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func is torch.ops.aten.relu.default else result


class Passing(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Replacing(TorchFunctionMode):
    """Replaces the activation by another function."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.relu, F.relu, Tensor.relu):
            return torch.tanh(args[0])
        return func(*args, **(kwargs or {}))


def around(context, parts):
    def way(net, x):
        for name in PARTS:
            if name in parts.split():
                with context():
                    x = getattr(net, name)(x)
            else:
                x = getattr(net, name)(x)
        return x

    return way


WAYS = {
    **{name: way for part in (*PARTS, "whole") for name, way in hooks_of(part).items()},
    **{
        f"every module's {name}": globally(name)
        for name in (
            "register_module_forward_hook",
            "register_module_forward_pre_hook",
            "register_module_full_backward_hook",
            "register_module_full_backward_pre_hook",
        )
    },
    **{
        f"an error, {kind} of {part}": raising(part, kind)
        for part in PARTS
        for kind in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook")
    },
    "tensor hook": on_tensor(lambda y, seen: y.register_hook(lambda g: seen.append(g.clone()))),
    "tensor hook, changing": on_tensor(lambda y, seen: y.register_hook(lambda g: g * 2)),
    "retain_grad": on_tensor(lambda y, seen: y.retain_grad()),
    "node's hook": on_tensor(lambda y, seen: y.grad_fn.register_hook(lambda *g: seen.extend(seen_by(g[1])))),
    "node's hook before": on_tensor(lambda y, seen: y.grad_fn.register_prehook(lambda g: seen.extend(seen_by(g)))),
    "post-accumulate hooks": accumulated,
    "saved tensors as they are": saved(lambda t: t, lambda t: t),
    "saved tensors as copies": saved(lambda t: t.clone(), lambda t: t),
    "saved tensors as bytes": saved(lambda t: pickle.dumps(t.detach()), pickle.loads),
    "saved tensors in numpy": saved(lambda t: t.detach().numpy().copy(), torch.from_numpy),
    "saved on the CPU": on_cpu,
    **{f"saved tensors around {p}": saved_around(p) for p in (*PARTS, "conv norm", "norm act", "conv norm act")},
    **{
        f"{mode.__name__} around {parts}": around(mode, parts)
        for mode in (Counting, Doubling, Passing, Replacing)
        for parts in (*PARTS, "conv norm", "norm act", "conv norm act")
    },
}


@NETS_AND_MODES
@pytest.mark.parametrize("way", WAYS)
def test_hooks_and_modes_see_the_same(way, net, training, context):
    if way == "backward of norm, old" and net.startswith("instance"):
        pytest.skip("such a hook sees the node, and an instance normalisation of PyTorch's has another one")
    assert_alike(randomised(NETS[net]()).train(training), WAYS[way], images(), context=context, tolerance=1e-8)


@pytest.mark.parametrize("net", NETS)
def test_global_hooks_see_the_same_modules_in_the_same_order(net):
    orders = []
    for module in pair(randomised(NETS[net]())):
        seen: list = []
        names = {m: n for n, m in module.named_modules()}
        handles = [
            module_hooks.register_module_forward_pre_hook(lambda m, x, t=seen, n=names: t.append(("in", n[m]))),
            module_hooks.register_module_forward_hook(
                lambda m, x, y, t=seen, n=names: t.append(("out", n[m], snapshot(y)))
            ),
        ]
        module(images())
        for handle in handles:
            handle.remove()
        orders.append(seen)
    assert [t[:2] for t in orders[0]] == [t[:2] for t in orders[1]]
    for a, e in zip(*orders, strict=True):
        assert len(a) == 2 or (a[2] - e[2]).abs().max() < 1e-9


def test_the_types_and_flags_of_the_tensors_that_hooks_get():
    """A hook on the normalisation gets a tensor with the same class, requires_grad and other flags."""
    seen = []
    for module in pair(randomised(Net())):
        handle = module.norm.register_forward_hook(lambda m, i, y: seen.append((metadata(i[0]), metadata(y))))
        module(images().requires_grad_())
        handle.remove()
    assert seen[0] == seen[1]


def test_a_hook_that_is_registered_after_many_calls():
    """What a module has learnt from earlier calls hides nothing from a hook."""

    def way(net, x):
        for _ in range(3):
            net(x)
        seen = []
        handle = net.norm.register_forward_hook(lambda m, i, y: seen.append(y.detach().clone()))
        y = net(x)
        handle.remove()
        return y, seen

    for training in (True, False):
        fused, plain = pair(randomised(Net()).train(training))
        expected = record(way, plain, images())
        assert not differences(record(way, fused, images()), expected)
