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
``__torch_function__``, which hands it out (``activation.py``). ``h + 1`` instead would arrive there too: ``settle``
computes ``bn(x)`` from the statistics at hand, and ``h`` becomes an ordinary tensor before the addition runs.
"""

from __future__ import annotations

import contextlib
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from igan_fast.fusion.expectation import Place
from igan_fast.fusion.result import Result, version_of
from igan_fast.ops.transforms import transformed

__all__ = ["HANDLERS", "Deferred", "Pending", "Wrapper", "guard", "learn", "ordinary_list", "settle", "watch"]

#: What some functions do with tensors of ours instead of settling them, by function: a handler that is called with the
#: function, its arguments and its keyword arguments. It returns NotImplemented where it has nothing to do.
HANDLERS: dict[Any, Callable[[Any, Any, Any], Any]] = {}


class Pending(Tensor):
    """A tensor whose next use is seen first."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        if handler is not None:
            result = handler(func, args, kwargs)
            if result is not NotImplemented:
                return result
        given: list[Deferred] = []

        def ordinary(t: Pending) -> Tensor:
            if isinstance(t, Deferred):
                given.append(t)
            return t.settled()

        def ordinary_leaf(found: Any) -> Any:
            if isinstance(found, Pending):
                return ordinary(found)
            return tree_map_only(Pending, ordinary, ordinary_list(found))

        args, kwargs = tree_map_only((Pending, list, tuple), ordinary_leaf, (args, kwargs))
        result = func(*args, **kwargs)
        written = {id(t.instead): t for t in given if type(t) is Deferred and t.was_written_into()}
        for t in written.values():
            t.become_written(t.instead)
        return tree_map_only(Tensor, lambda r: written.get(id(r), r), result) if written else result

    @abstractmethod
    def settled(self) -> Tensor:
        """An ordinary tensor in its place: itself wherever that is possible."""

    def as_subclass(self, cls: Any) -> Any:
        """PyTorch's does not ask ``__torch_function__``."""
        return self.settled().as_subclass(cls)

    def _as_ordinary(self: Any) -> Tensor:
        """Itself, which is an ordinary tensor but for its class."""
        for name in ("_place", "_dependents"):
            vars(self).pop(name, None)
        self.__class__ = Tensor
        ordinary: Tensor = self
        return ordinary


def ordinary_list(derived: Any) -> Any:
    """A list or a tuple of a derived class, into which pytree does not look, as a list where it has tensors of ours."""
    return [*derived] if any(isinstance(t, Pending) for t in derived) else derived


def settle(x: Tensor) -> Tensor:
    """x, or an ordinary tensor in its place."""
    return x.settled() if isinstance(x, Pending) else x


class Watched(Pending):
    """An ordinary tensor whose first use its module learns from."""

    _place: Place

    def settled(self) -> Tensor:
        self._place.alone()
        return self._as_ordinary()

    def activated(self, slope: float | None) -> None:
        """A (Leaky)ReLU is its first use."""
        self._place.follows(slope)
        self._as_ordinary()


def watch(y: Tensor, place: Place) -> Tensor:
    """y, the plain result of a module of whom it is not known yet what follows."""
    if place.unknown and type(y) is Tensor and not transformed():
        watched: Any = y
        watched.__class__, watched._place = Watched, place
    return y


def learn(x: Tensor, norm: Any) -> Tensor:
    """``settle`` for a fused normalisation that is given x: the module before it learns what follows."""
    if type(x) is not Watched:
        return settle(x)
    if not getattr(norm, "_is_replica", False):  # nn.DataParallel's live for one call
        x._place.precedes(norm)
    return x._as_ordinary()


class Guarded(Pending):
    """An inference tensor that a Deferred is computed from. Such tensors do not count their changes: before anything
    happens to this one, what depends on it is computed."""

    _dependents: list[weakref.ref[Result]]

    def settled(self) -> Tensor:
        for reference in self._dependents:
            dependent = reference()
            if dependent is not None and not dependent.consumed:
                dependent.value = dependent.plain()
        return self._as_ordinary()


def guard(deferred: Deferred) -> Deferred:
    """Have what it is computed from guarded, where changes are not counted."""
    if not deferred.result.inference:
        return deferred
    for t in deferred.result.inputs:
        if type(t) in (Tensor, Guarded) and t.is_inference():
            guarded: Any = t
            if type(t) is Tensor:
                guarded.__class__, guarded._dependents = Guarded, []
            guarded._dependents.append(weakref.ref(deferred.result))
    return deferred


class Wrapper(Pending):
    """A tensor without data: what C++ is given instead is computed when it asks.

    instead: what is used in its place once it was computed, where it could not become an ordinary tensor itself.
    """

    instead: Tensor | None

    @staticmethod
    def __new__(cls, like: Tensor, *_: Any) -> Any:
        """With the shape, the strides, the dtype and the device of ``like``."""
        return Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=like.device
        )

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default and not args[0].is_computed():
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].again()
        values: dict[int, Tensor] = {}

        def value(t: Wrapper) -> Tensor:
            values[id(t)] = found = t.data_for_cpp()
            return found

        plain_args, plain_kwargs = tree_map_only(Wrapper, value, (args, kwargs or {}))
        result = func(*plain_args, **plain_kwargs)
        # What writes into its argument returns it: the argument that was given, not what stands behind it.
        given = {id(values[id(t)]): t for t in tree_leaves((args, kwargs)) if id(t) in values}
        return tree_map_only(Tensor, lambda t: given.get(id(t), t), result)

    @abstractmethod
    def is_computed(self) -> bool:
        """Whether there are data by now."""

    @abstractmethod
    def again(self) -> Wrapper:
        """Another one of the same."""

    @abstractmethod
    def data_for_cpp(self) -> Tensor:
        """What stands behind it: the same tensor at each call."""


class Deferred(Wrapper):
    """A module's result without data.

    result: what it stands for.
    pinned: something holds on to this very node of the graph: a hook, retain_grad, a gradient that is asked for.
    """

    result: Result
    pinned: bool
    _value: Tensor | None
    _instead_version: int

    def __init__(self, like: Tensor, result: Result) -> None:
        self.result, self.pinned = result, False
        self._value = self.instead = None

    def is_computed(self) -> bool:
        return self._value is not None or self.instead is not None

    def again(self) -> Deferred:
        return Deferred(self, self.result)

    def data_for_cpp(self) -> Tensor:
        if self.instead is not None:
            return self.instead.detach()
        if self._value is None:
            with _disable_current_modes():
                self._value = self.result.plain()
        return self._value

    def was_written_into(self) -> bool:
        """Whether what is used in its place was changed in place: its own node in the graph knows nothing of that."""
        return self.instead is not None and version_of(self.instead) != self._instead_version

    def become_written(self, written: Tensor | None) -> None:
        """Have its owner go on with what was written, which has a node of its own, as plain PyTorch's would have: hooks
        stay with the node that they were registered at.

        Raises:
            RuntimeError: something else holds on to it.
        """
        self.pinned = False
        with torch._C.DisableTorchFunctionSubclass():
            if written is None or not self.become(written):
                raise RuntimeError(
                    "a fused module's result is changed in place while something else holds it (retain_grad, a custom "
                    "autograd function); use what a function that is not in place returns, or igan_fast.unfuse(model)"
                )

    def settled(self) -> Tensor:
        if self.instead is not None:
            return self.instead
        with torch._C.DisableTorchFunctionSubclass():
            self.result.place.missed()  # also beside the activation: it would be computed twice at each call
            with _as_at_its_call(self.result):
                plain: Tensor = _Reveal.apply(self)  # type: ignore[no-untyped-call]
            if not self.result.consumed and self.become(plain):
                return self
            return self.replaced_by(plain)

    def become(self, plain: Tensor) -> bool:
        """Make the tensor that its owner holds, this one, the ordinary ``plain``; False where more hold on to it."""
        if self.pinned or self._use_count() != 1 or plain._use_count() != 1:  # type: ignore[attr-defined]
            return False
        try:
            torch._C._swap_tensor_impl(self, plain)
        except RuntimeError:  # it has weak references of C++
            return False
        for name in ("result", "pinned", "_value", "instead"):
            vars(self).pop(name)
        self._as_ordinary()
        return True

    def replaced_by(self, plain: Tensor) -> Tensor:
        """``plain``, to be used in its place from now on."""
        self.instead, self._instead_version = plain, version_of(plain)
        return plain


class _Reveal(torch.autograd.Function):
    """From a Deferred to an ordinary tensor with the plain result."""

    @staticmethod
    def forward(ctx: Any, deferred: Deferred) -> Tensor:
        value = deferred._value
        return deferred.result.plain() if value is None else value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


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
