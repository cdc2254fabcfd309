"""Results of fused modules whose data are computed at their first use.

A normalisation that expects a ReLU computes both in one operator. It returns a ``Deferred`` tensor, which has the
shape, the dtype and the autograd node of the normalisation's result, but no data. Its first use decides:

* the expected (Leaky)ReLU, called as a module, a function or a method, returns the activated result that is already
  computed;
* any other operation gets the plain result of the normalisation, which is computed at that moment.

``__torch_function__`` intercepts uses in Python; ``__torch_dispatch__`` intercepts uses in C++ (custom autograd
functions, views, checkpointing). The source code of a network does not matter.

Example: ``F.relu(bn(x))`` in training, called several times.

1. *First call.* ``bn`` expects nothing yet. It returns its plain result as a ``Watched`` tensor: an ordinary tensor
   with another class. ``F.relu`` calls its ``__torch_function__``, which records in the ``Expectation`` of ``bn`` that
   a ReLU followed, and makes the tensor ordinary. PyTorch computes the ReLU.
2. *Second call.* ``bn`` computes ``relu(bn(x))`` in one operator, updates its running statistics, and returns a
   Deferred ``h`` that holds this activated result (``Result``). ``F.relu(h)`` calls ``h.__torch_function__``, which
   finds a handler for ``F.relu`` in ``HANDLERS`` (``activation.py``). The handler returns the activated result with a
   new autograd node. In the backward pass this node passes its gradient and the slope to the node of ``bn``, which
   computes the gradient of both operations in one operator.
3. *Another call, where* ``h + 1`` *follows.* ``HANDLERS`` has no handler for an addition, so ``to_ordinary(h)``
   computes ``bn(x)`` from ``x``. It does not update the running statistics again. ``h`` becomes an ordinary tensor with
   this value, and the addition runs. The Expectation counts a miss, and the next result is Watched again. After three
   misses ``bn`` returns only ordinary tensors.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from igan_fast.fusion.result import Result, version_of

__all__ = ["HANDLERS", "Deferred", "Intercepted", "Wrapper", "ordinary_list", "to_ordinary"]

#: Functions that can use an Intercepted tensor as it is, each with the handler that is called instead of it, as
#: ``handler(function, args, kwargs)``. A handler returns NotImplemented if the tensor has to become ordinary first.
HANDLERS: dict[Any, Callable[[Any, Any, Any], Any]] = {}


class Intercepted(Tensor):
    """A tensor whose next use calls ``__torch_function__`` below. If the function has a handler, the handler is called.
    Otherwise the tensor becomes an ordinary tensor, and the function is called with that."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        if handler is not None:
            result = handler(func, args, kwargs)
            if result is not NotImplemented:
                return result
        deferred: list[Deferred] = []

        def ordinary(t: Intercepted) -> Tensor:
            if isinstance(t, Deferred):
                deferred.append(t)
            return t.to_ordinary()

        def ordinary_leaf(leaf: Any) -> Any:
            if isinstance(leaf, Intercepted):
                return ordinary(leaf)
            return tree_map_only(Intercepted, ordinary, ordinary_list(leaf))

        args, kwargs = tree_map_only((Intercepted, list, tuple), ordinary_leaf, (args, kwargs))
        result = func(*args, **kwargs)
        # If an in-place function has changed the replacement of a Deferred, the Deferred object becomes that tensor and
        # is returned in its place.
        written = {id(t.replacement): t for t in deferred if type(t) is Deferred and t.was_written()}
        for t in written.values():
            t.become_written(t.replacement)
        return tree_map_only(Tensor, lambda r: written.get(id(r), r), result) if written else result

    @abstractmethod
    def to_ordinary(self) -> Tensor:
        """An ordinary tensor of the same value and autograd node: this object itself wherever that is possible."""

    def as_subclass(self, cls: Any) -> Any:
        """PyTorch's ``as_subclass`` does not call ``__torch_function__``, so the tensor is made ordinary here."""
        return self.to_ordinary().as_subclass(cls)

    def _drop_class(self: Any) -> Tensor:
        """Set the class of this object to ``torch.Tensor``; its data and its autograd node stay."""
        for name in ("_expectation", "_dependents"):
            vars(self).pop(name, None)
        self.__class__ = Tensor
        ordinary: Tensor = self
        return ordinary


def ordinary_list(leaf: Any) -> Any:
    """Return ``leaf``, a list or tuple, as a plain list if it holds an Intercepted tensor; otherwise ``leaf`` itself.
    Its class may be a derived one, which pytree would not look into."""
    return [*leaf] if any(isinstance(t, Intercepted) for t in leaf) else leaf


def to_ordinary(x: Tensor) -> Tensor:
    """x as an ordinary tensor: computed, where it has no data yet."""
    return x.to_ordinary() if isinstance(x, Intercepted) else x


class Wrapper(Intercepted):
    """A tensor without data (PyTorch calls it a *wrapper subclass*). The data are computed when C++ code needs them.

    replacement: the ordinary tensor that is used in place of this one; None until it is computed.
    """

    replacement: Tensor | None

    @staticmethod
    def __new__(cls, like: Tensor, *_: Any) -> Any:
        """A tensor with the shape, the strides, the dtype and the device of ``like``."""
        return Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=like.device
        )

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default and not args[0].is_computed():
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].detached()
        values: dict[int, Tensor] = {}

        def value(t: Wrapper) -> Tensor:
            values[id(t)] = data = t.data_for_cpp()
            return data

        plain_args, plain_kwargs = tree_map_only(Wrapper, value, (args, kwargs or {}))
        result = func(*plain_args, **plain_kwargs)
        # An in-place operator returns its argument. Return the Wrapper that was passed, not the tensor with its data.
        wrappers = {id(values[id(t)]): t for t in tree_leaves((args, kwargs)) if id(t) in values}
        return tree_map_only(Tensor, lambda t: wrappers.get(id(t), t), result)

    @abstractmethod
    def is_computed(self) -> bool:
        """Whether the data exist."""

    @abstractmethod
    def detached(self) -> Wrapper:
        """Another Wrapper of the same value, which is not computed either."""

    @abstractmethod
    def data_for_cpp(self) -> Tensor:
        """The tensor that C++ works on: the same one at each call."""


class Deferred(Wrapper):
    """The result of a fused module, without data.

    result: computes the data (``Result``).
    node_in_use: a hook, ``retain_grad`` or the computation of a gradient refers to its autograd node.
    """

    result: Result
    node_in_use: bool
    _value: Tensor | None
    _replacement_version: int
    _replaces_written: bool  # the replacement is what an in-place function has written

    def __init__(self, like: Tensor, result: Result) -> None:
        self.result, self.node_in_use, self._replaces_written = result, False, False
        self._value = self.replacement = None

    def is_computed(self) -> bool:
        return self._value is not None or self.replacement is not None

    def detached(self) -> Deferred:
        return Deferred(self, self.result)

    def data_for_cpp(self) -> Tensor:
        if self.replacement is not None:
            if self._replaces_written and self.requires_grad:  # autograd would miss what has been written
                raise RuntimeError(
                    "a fused module's result that was changed in place is given to a custom autograd function, and "
                    "PyTorch's profiler records its shape; profile with record_shapes=False, or use what a function "
                    "that is not in place returns"
                )
            return self.replacement.detach()
        if self._value is None:
            with _disable_current_modes():
                self._value = self.result.plain()
        return self._value

    def was_written(self) -> bool:
        """Whether the replacement was changed in place. Only the autograd node of the replacement includes the change,
        not the node of this tensor."""
        if self.replacement is None:
            return False
        return self._replaces_written or version_of(self.replacement) != self._replacement_version

    def become_written(self, written: Tensor | None) -> None:
        """Make this object the tensor that an in-place function has written, with that tensor's autograd node. Hooks
        stay at the node where they were registered, as in plain PyTorch.

        Raises:
            RuntimeError: something else refers to this tensor.
        """
        self.node_in_use = False
        with torch._C.DisableTorchFunctionSubclass():
            if written is not None and self.become(written):
                return
            if written is None or self._use_count() != 1 or self.retains_grad:  # type: ignore[attr-defined]
                raise RuntimeError(
                    "a fused module's result is changed in place while something else holds it (retain_grad, a custom "
                    "autograd function); use what a function that is not in place returns, or igan_fast.unfuse(model)"
                )
        # Only a weak reference, as PyTorch's profiler holds to each tensor of which it records the shape.
        self.replace_by(written)
        self._replaces_written = True

    def to_ordinary(self) -> Tensor:
        if self.replacement is not None:
            return self.replacement
        with torch._C.DisableTorchFunctionSubclass():
            # Count a miss even if the activation has already used the result: each such call computes it twice.
            self.result.expectation.count_miss()
            with _modes_of_call(self.result):
                plain: Tensor = _ToPlain.apply(self)  # type: ignore[no-untyped-call]
            if not self.result.consumed and self.become(plain):
                return self
            return self.replace_by(plain)

    def become(self, plain: Tensor) -> bool:
        """Make this object the ordinary tensor ``plain``. Do nothing and return False if this object has more than one
        owner in C++ (``_use_count``), or if its autograd node is in use."""
        if self.node_in_use or self._use_count() != 1 or plain._use_count() != 1:  # type: ignore[attr-defined]
            return False
        try:
            torch._C._swap_tensor_impl(self, plain)
        except RuntimeError:  # C++ holds a weak reference to it
            return False
        for name in ("result", "node_in_use", "_value", "replacement", "_replaces_written"):
            vars(self).pop(name)
        self._drop_class()
        return True

    def replace_by(self, plain: Tensor) -> Tensor:
        """Use ``plain`` in place of this tensor from now on."""
        self.replacement, self._replacement_version = plain, version_of(plain)
        return plain


class _ToPlain(torch.autograd.Function):
    """The plain result of a Deferred, as an ordinary tensor."""

    @staticmethod
    def forward(ctx: Any, deferred: Deferred) -> Tensor:
        value = deferred._value
        return deferred.result.plain() if value is None else value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


@contextlib.contextmanager
def _modes_of_call(result: Result) -> Iterator[None]:
    """Inside the block, PyTorch's modes are those of the call that returned ``result``, not the present ones: tensors
    computed here belong to the autograd graph of that call."""
    with (
        temporarily_clear_interpreter_stack(),
        _disable_current_modes(),
        torch.inference_mode(result.inference_mode),
        torch.enable_grad(),
    ):
        yield
