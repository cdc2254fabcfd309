"""Results of a fused model that wait for what comes next.

A normalisation that a ReLU usually follows computes both at once. What it returns is a ``Deferred`` tensor: it has the
shape, the dtype and the place in autograd's graph of the normalisation's result, and no data. Who uses it next decides:

* the (Leaky)ReLU that was expected, as a module, a function or a method, gets what is computed already;
* anything else gets the normalisation's plain result, computed then. ``__torch_function__`` sees what Python calls;
  ``__torch_dispatch__`` sees what C++ calls (custom autograd functions, views, checkpointing).

What to expect is learnt from an ordinary tensor: a module's first result is ``Watched`` until its first use. Nothing is
ever assumed about a network's source, and a place where no activation follows returns ordinary tensors from then on.

One call followed, ``relu(bn(x))`` in training, at a place where a ReLU is expected: ``bn`` computes ``relu(bn(x))`` in
one pass, moves its running statistics, and returns a Deferred ``h`` that holds it. ``relu(h)`` arrives at
``Deferred.__torch_function__``, which hands it out. ``h + 1`` instead would arrive there too: ``settle`` computes
``bn(x)`` from the statistics at hand, and ``h`` becomes an ordinary tensor before the addition runs.
"""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from igan_fast.fusion.place import Place
from igan_fast.fusion.nodes import apply
from igan_fast.ops.transforms import transformed

__all__ = ["Deferred", "Result", "guard", "learn", "parts_of", "settle", "watch"]


class Result:
    """What a Deferred tensor stands for.

    Args:
        place: of the module that returns it; it learns from what happens.
        inputs: every tensor that the plain result is computed from.
        compute: gives the plain result, outside of autograd's sight.
        activated: the result with the expected activation behind it, computed at the module's call.
        slope: of the expected activation; None where a normalisation is expected.
        expects: whether this module, as it is now, is what ``activated`` was computed with; None: an activation is
            expected.
        autocast: the dtype that autocast had at the call, where it was on.
        lean: whether an activation's backward pass finds the plain result again instead of keeping ``activated``.
    """

    __slots__ = (
        "activated",
        "autocast",
        "compute",
        "consumed",
        "expects",
        "inference",
        "inputs",
        "kept",
        "lean",
        "place",
        "slope",
        "value",
        "versions",
        "__weakref__",
    )

    def __init__(
        self,
        place: Place,
        inputs: tuple[Tensor | None, ...],
        compute: Callable[[], Tensor],
        activated: Tensor,
        slope: float | None,
        *,
        expects: Callable[[Any], bool] | None = None,
        lean: bool = True,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.place, self.inputs, self.compute, self.slope = place, inputs, compute, slope
        self.activated: Tensor | None = activated
        self.expects, self.lean, self.autocast = expects, lean, autocast
        self.consumed, self.value = False, None
        self.kept: tuple[Tensor, int] | None = None
        self.inference = torch.is_inference_mode_enabled()
        self.versions = [_version(t) for t in inputs]

    def take(self) -> Tensor:
        """The activated result; it is handed out once."""
        y, self.activated, self.consumed = self.activated, None, True
        if y is None:
            raise AssertionError("an activated result was asked for twice")
        return y

    def plain(self) -> Tensor:
        """The plain result, in memory of its own.

        Raises:
            RuntimeError: what it is to be computed from was changed in place since.
        """
        if self.value is not None:
            return self.value.clone()
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            if self.versions != [_version(t) for t in self.inputs]:
                raise RuntimeError(
                    "a tensor was changed in place between a fused module's call and the first use of its result, which "
                    "was not the use that earlier calls had taught; call the model again, or igan_fast.unfuse(model)"
                )
            device = next(t for t in self.inputs if t is not None).device.type
            with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
                return self.compute()

    def side(self) -> Tensor:
        """A tensor with the signs of the plain result: the activated one, where that was kept and is what it was."""
        if self.kept is not None:
            y, version = self.kept
            if y._version == version:
                return y
        return self.plain()


def _version(t: Tensor | None) -> int:
    """How often a tensor was changed in place; inference tensors do not count (see ``Guarded``)."""
    return -1 if t is None or t.is_inference() else t._version


class _Ours(Tensor):
    """A tensor that this room looks after: its next use is seen first."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        parse = _ACTIVATIONS.get(func)
        if parse is not None and args and isinstance(args[0], _Ours):
            slope, in_place = parse(args, kwargs)
            y = activate(args[0], slope, in_place)
            if y is not None:
                return y
        elif func in _METADATA and args:
            return _metadata(func, args, kwargs)
        elif func in _NODE:
            return _at_its_node(func, args, kwargs)
        elif func in _DERIVATIVES:
            return _differentiate(func, args, kwargs)
        args, kwargs = tree_map_only(_Ours, settle, (args, kwargs))
        return func(*args, **kwargs)


class Watched(_Ours):
    """An ordinary tensor whose first use its module learns from."""

    _place: Place


class Guarded(_Ours):
    """An inference tensor that a Deferred is computed from. Such tensors do not count their changes: before anything
    happens to this one, what depends on it is computed."""

    _dependents: list[weakref.ref[Result]]


class Deferred(_Ours):
    """A module's result without data, of the shape, strides, dtype and device of ``like``."""

    _result: Result
    #: What C++ was given.
    _value: Tensor | None
    #: What is used instead, where the tensor itself could not become an ordinary one.
    _instead: Tensor | None
    _instead_version: int
    #: Something holds on to this very node of the graph: a hook, retain_grad, a gradient asked for.
    _pinned: bool

    @staticmethod
    def __new__(cls, like: Tensor, result: Result) -> Deferred:
        made: Deferred = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=like.device
        )
        return made

    def __init__(self, like: Tensor, result: Result) -> None:
        self._result, self._value, self._instead, self._pinned = result, None, None, False

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default and args[0]._instead is None and args[0]._value is None:
            return type(args[0])._again(args[0])
        values: dict[int, Tensor] = {}

        def value(t: Deferred) -> Tensor:
            values[id(t)] = found = t._data()
            return found

        plain_args, plain_kwargs = tree_map_only(Deferred, value, (args, kwargs or {}))
        result = func(*plain_args, **plain_kwargs)
        if not values:
            return result
        # What writes into its argument returns it: the argument that was given, not what stands behind it.
        given = {id(values[id(t)]): t for t in _tensors((args, kwargs)) if id(t) in values}
        return tree_map_only(Tensor, lambda t: given.get(id(t), t), result)

    def _again(self) -> Deferred:
        with torch._C.DisableTorchFunctionSubclass():
            return Deferred(self, self._result)

    def _data(self) -> Tensor:
        """What stands behind it, for what C++ does with it."""
        if self._instead is None:
            if self._value is None:
                self._value = self._result.plain()
            return self._value
        if not self._instead.is_inference() and self._instead._version != self._instead_version:
            raise RuntimeError(
                "a fused module's result was changed in place after an activation had taken it, and now goes to a custom "
                "autograd function or to C++; use what the in-place call returned, or igan_fast.unfuse(model)"
            )
        return self._instead.detach()


class _Reveal(torch.autograd.Function):
    """From a Deferred to an ordinary tensor with the plain result."""

    @staticmethod
    def forward(ctx: Any, deferred: Deferred) -> Tensor:
        value = deferred._value
        return deferred._result.plain() if value is None else value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def settle(x: Tensor) -> Tensor:
    """An ordinary tensor in x's place: x itself wherever that is possible."""
    if type(x) is Watched:
        x._place.alone()
        return _ordinary(x)
    if type(x) is Guarded:
        for reference in x._dependents:
            dependent = reference()
            if dependent is not None and not dependent.consumed:
                dependent.value = dependent.plain()
        return _ordinary(x)
    if not isinstance(x, Deferred):
        return x
    if x._instead is not None:
        return x._instead
    with torch._C.DisableTorchFunctionSubclass():
        if isinstance(x, _DeferredGradient):
            x._instead = x._plain()
            return x._instead
        result = x._result
        if not result.consumed:
            result.place.missed()
        with _as_at_its_call(result):
            plain: Tensor = _Reveal.apply(x)  # type: ignore[no-untyped-call]
        if not result.consumed and _take_over(x, plain):
            return x
        x._instead, x._instead_version = plain, _version(plain)
        return plain


def learn(x: Tensor, norm: Any) -> Tensor:
    """``settle`` for a fused normalisation that is given x: the module before it learns what follows."""
    if type(x) is not Watched:
        return settle(x)
    if not getattr(norm, "_is_replica", False):  # nn.DataParallel's live for one call
        x._place.precedes(norm)
    return _ordinary(x)


def _ordinary(x: Any) -> Tensor:
    """x is an ordinary tensor already, with a class of ours."""
    vars(x).pop("_place", None), vars(x).pop("_dependents", None)
    x.__class__ = Tensor
    plain: Tensor = x
    return plain


def _take_over(x: Deferred, plain: Tensor) -> bool:
    """Make the tensor that the caller holds, x, the ordinary one; False where something else holds on to x."""
    if x._pinned or x._use_count() != 1 or plain._use_count() != 1:  # type: ignore[attr-defined]
        return False
    for name in ("_result", "_value", "_instead", "_pinned"):
        vars(x).pop(name)
    torch._C._swap_tensor_impl(x, plain)  # type: ignore[attr-defined]
    x.__class__ = Tensor
    return True


@contextlib.contextmanager
def _as_at_its_call(result: Result) -> Iterator[None]:
    """In the modes of the call that gave a result, whatever is on now: it belongs to that call's graph."""
    with (
        temporarily_clear_interpreter_stack(),
        _disable_current_modes(),
        torch.inference_mode(result.inference),
        torch.enable_grad(),
    ):
        yield


def watch(y: Tensor, place: Place) -> Tensor:
    """y, the plain result of a module of whom it is not known yet what follows."""
    if place.unknown and type(y) is Tensor and not transformed():
        y.__class__ = Watched
        y._place = place  # type: ignore[attr-defined]
    return y


def guard(deferred: Deferred) -> Deferred:
    """Have what it is computed from watched, where changes are not counted."""
    if deferred._result.inference:
        for t in deferred._result.inputs:
            if t is None or not t.is_inference() or type(t) not in (Tensor, Guarded):
                continue
            held: Any = t
            if type(t) is Tensor:
                held.__class__, held._dependents = Guarded, []
            held._dependents.append(weakref.ref(deferred._result))
    return deferred


def activate(x: Any, slope: float | None, in_place: bool) -> Tensor | None:
    """The (Leaky)ReLU of x where it is at hand; None where it is to be computed as ever."""
    if type(x) is Watched:
        x._place.follows(slope)
        _ordinary(x)
        return None
    if type(x) is not Deferred or x._instead is not None:
        return None
    result = x._result
    if (
        result.activated is None
        or slope is None
        or result.slope != slope
        or result.expects is not None
        or torch.is_inference_mode_enabled() != result.inference
        or transformed()
    ):
        return None
    with torch._C.DisableTorchFunctionSubclass():
        recorded = x.requires_grad and torch.is_grad_enabled()
    # Not with __torch_function__ off: what a hook for saved tensors does here is somebody else's.
    y = apply(_Activate, x, slope) if recorded else result.take()
    if not in_place:
        return y
    with torch._C.DisableTorchFunctionSubclass():  # the caller may go on with x
        if _take_over(x, y):
            return x
        x._instead, x._instead_version = y, _version(y)
    return y


class _Activate(torch.autograd.Function):
    """The activation's place in the graph; its gradient waits to be computed with the normalisation's."""

    @staticmethod
    def forward(ctx: Any, x: Deferred, slope: float) -> Tensor:
        result = x._result
        y = result.take()
        # PyTorch's own saves one tensor of this shape too, so that a checkpoint meets the same number at each call.
        if not result.lean and slope:
            result.kept = (y.detach(), y._version)
        ctx.save_for_backward(Deferred(y, result) if result.lean or slope else y)
        ctx.slope, ctx.place = slope, result.place
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (side,) = ctx.saved_tensors
        if type(side) is Deferred:
            result = side._result
            if result.lean and type(grad) is Tensor and not torch.is_grad_enabled() and not transformed(grad):
                return _DeferredGradient(grad, side, ctx.slope, ctx.place), None
            side = result.side()
        return before_activation(grad, side.detach(), ctx.slope), None


def before_activation(grad: Tensor, side: Tensor, slope: float) -> Tensor:
    """The gradient before a (Leaky)ReLU, from that behind it; ``side`` has the sign of its input."""
    dx: Tensor = (
        torch.ops.aten.leaky_relu_backward(grad, side, slope, False)
        if slope
        else torch.ops.aten.threshold_backward(grad, side, 0)
    )
    return dx


class _DeferredGradient(Deferred):
    """The gradient of a normalisation's result, of which the normalisation's own backward pass takes the two parts: the
    gradient behind the activation and the slope. Whoever else looks at it gets the product."""

    _upstream: Tensor
    _side: Deferred
    _slope: float
    _place: Place

    @staticmethod
    def __new__(cls, upstream: Tensor, side: Deferred, slope: float, place: Place) -> _DeferredGradient:
        with torch._C.DisableTorchFunctionSubclass():
            made: _DeferredGradient = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, side.shape, strides=side.stride(), dtype=upstream.dtype, device=upstream.device
            )
        return made

    def __init__(self, upstream: Tensor, side: Deferred, slope: float, place: Place) -> None:
        self._upstream, self._side, self._slope, self._place = upstream, side, slope, place
        self._value, self._instead, self._pinned = None, None, False
        self._result = side._result

    def _again(self) -> _DeferredGradient:
        return _DeferredGradient(self._upstream, self._side, self._slope, self._place)

    def _plain(self) -> Tensor:
        with _disable_current_modes(), torch.no_grad():
            product = before_activation(self._upstream, self._result.plain(), self._slope)
            return product.contiguous() if product.stride() != self.stride() else product

    def _data(self) -> Tensor:
        if self._instead is None:
            self._instead = self._plain()
        return self._instead


def parts_of(grad: Tensor, place: Place) -> tuple[Tensor, float]:
    """A normalisation's gradient as its backward pass takes it: what is behind the activation, and the slope.

    The slope is 1, and the gradient that of the normalisation's own result, where somebody has looked at it: who looks
    may write.
    """
    if type(grad) is _DeferredGradient and grad._place is place and grad._instead is None:
        return grad._upstream, grad._slope
    return settle(grad), 1.0


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def _metadata(func: Any, args: Any, kwargs: Any) -> Any:
    """What can be told of a Deferred without its data."""
    if isinstance(args[0], Deferred) and args[0]._instead is not None:
        args = (args[0]._instead, *args[1:])
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _at_its_node(func: Any, args: Any, kwargs: Any) -> Any:
    """What is about a Deferred's node of the graph, where an activation may hang on it already, and not about data."""
    for t in _tensors((args, kwargs)):
        if isinstance(t, Deferred):
            t._pinned = True
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*args, **kwargs)
    return tree_map_only(_DeferredGradient, settle, result)


def _differentiate(func: Any, args: Any, kwargs: Any) -> Any:
    """torch.autograd.grad and backward: what they differentiate is settled; what they differentiate by is the node."""
    bound = inspect.signature(func).bind(*args, **kwargs)
    inputs = bound.arguments.pop("inputs", None)
    bound.arguments.update(tree_map_only(_Ours, settle, dict(bound.arguments)))
    if inputs is not None:
        bound.arguments["inputs"] = tree_map_only(Deferred, _edge, inputs)
    return tree_map_only(_DeferredGradient, settle, func(*bound.args, **bound.kwargs))


def _edge(x: Deferred) -> Any:
    """The node of x in the graph."""
    with torch._C.DisableTorchFunctionSubclass():
        if not x.requires_grad:
            return settle(x)
        if x._instead is not None:
            x._data()  # raises where x is no more what its node stands for
        x._pinned = True
        return torch.autograd.graph.get_gradient_edge(x)


def _number(value: Any) -> float | None:
    """A slope that the fused operators take."""
    if type(value) in (int, float) and 0 <= value < float("inf") and value != 1:
        return float(value)
    return None


def _relu(args: Any, kwargs: Any) -> tuple[float | None, bool]:
    return 0.0, bool(args[1] if len(args) > 1 else kwargs.get("inplace", False))


def _leaky_relu(args: Any, kwargs: Any) -> tuple[float | None, bool]:
    slope = args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01)
    return _number(slope), bool(args[2] if len(args) > 2 else kwargs.get("inplace", False))


_ACTIVATIONS: dict[Any, Callable[[Any, Any], tuple[float | None, bool]]] = {
    F.relu: _relu,
    torch.relu: lambda args, kwargs: (0.0, False),
    Tensor.relu: lambda args, kwargs: (0.0, False),
    torch.relu_: lambda args, kwargs: (0.0, True),
    Tensor.relu_: lambda args, kwargs: (0.0, True),
    F.leaky_relu: _leaky_relu,
    torch._C._nn.leaky_relu: lambda args, kwargs: (_leaky_relu(args, kwargs)[0], False),
    F.leaky_relu_: lambda args, kwargs: (_leaky_relu(args, kwargs)[0], True),
}


def _getters(*names: str) -> set[Any]:
    return {getattr(Tensor, name).__get__ for name in names}


#: What a Deferred answers without its data.
_METADATA = {
    *_getters("shape", "ndim", "dtype", "device", "layout", "is_cuda", "is_cpu", "is_meta", "itemsize", "nbytes"),
    *_getters("is_sparse", "is_quantized", "is_nested", "requires_grad", "is_mps"),
    *(Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement, Tensor.stride, Tensor.is_contiguous),
    *(Tensor.is_floating_point, Tensor.is_complex, Tensor.get_device, Tensor.__len__, Tensor.element_size),
    *(torch.is_floating_point, torch.is_complex, torch.numel),
}

#: What is about a tensor's node in the graph.
_NODE = {
    *_getters("grad", "grad_fn", "is_leaf", "output_nr", "retains_grad"),
    *(Tensor.register_hook, Tensor.retain_grad),
}

#: What takes tensors to differentiate by.
_DERIVATIVES = {torch.autograd.grad, torch.autograd.backward, Tensor.backward}
