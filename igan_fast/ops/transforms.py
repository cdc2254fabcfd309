"""Function transforms, tracing, export and tensor subclasses, for which only PyTorch's own functions give the result.

Our operators read numbers from a tensor's memory. That is wrong for a tensor that represents something else: a batch of
tensors under ``torch.func`` and ``is_grads_batched``, all later inputs under ``torch.jit.trace`` and ``torch.export``,
or the data of a subclass. A dispatch mode (``FlopCounterMode``, ``make_fx``) has to intercept each of PyTorch's
operators. In all these cases our operators call PyTorch's own functions, which support them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function

from igan_fast.reference.recorded import exporting

__all__ = ["batched", "forward_mode", "in_functorch", "overridable", "transformed"]

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN = (Tensor, torch.nn.Parameter)


def transformed(*tensors: Tensor | None) -> bool:
    """Whether a function transform, tracing, export or a dispatch mode is active, or a tensor is not an ordinary one:
    a subclass, sparse, or a batch of tensors.

    Every operator call calls this, so it has to be fast. It takes about half a microsecond.
    """
    if torch.compiler.is_compiling():  # torch.compile supports our operators; torch.export must not record them
        return exporting() or in_functorch() or forward_mode()
    if (
        _functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
    ):
        return True
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in _PLAIN
            or tensor.layout is not torch.strided
            or _functorch.is_legacy_batchedtensor(tensor)
        ):
            return True
    return False


def batched(*gradients: Tensor | None) -> bool:
    """Whether the gradients that a backward pass receives may represent batches of gradients. They may under
    ``torch.func``'s transforms, ``is_grads_batched`` and ``jacobian(vectorize=True)``. The latter two use batched
    tensors of another kind."""
    return in_functorch() or any(g is not None and _functorch.is_legacy_batchedtensor(g) for g in gradients)


def in_functorch() -> bool:
    """Whether a transform of ``torch.func`` is active."""
    return _functorch.maybe_current_level() is not None


# ``torch.compiler.assume_constant_result`` sets this too, but imports the compiler, which takes a second. Dynamo calls
# the function instead of tracing into it. It compiles again when another transform is active.
in_functorch._dynamo_marked_constant = True  # type: ignore[attr-defined]


def forward_mode() -> bool:
    """Whether forward-mode differentiation is active, which only the reference supports."""
    return forward_ad._current_level >= 0


def overridable(function: Callable[P, R]) -> Callable[P, R]:
    """Make an operator overridable by ``__torch_function__``, as PyTorch's functions are. A tensor subclass can then
    override it, and ``torch.fx.symbolic_trace`` records each call as one node."""

    @functools.wraps(function)
    def operator(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (*args, *kwargs.values())
        if given and isinstance(given[0], list | tuple):
            given = tuple(_leaves(given))
        if has_torch_function(given):
            result: R = handle_torch_function(operator, given, *args, **kwargs)
            return result
        return function(*args, **kwargs)

    refusal = f"torch.jit.script cannot compile igan_fast's {function.__name__}; use torch.jit.trace or torch.export"
    setattr(operator, "__script_unsupported", refusal)
    return operator


def _leaves(nested: Iterable[object]) -> Iterator[object]:
    for part in nested:
        if isinstance(part, list | tuple):
            yield from _leaves(part)
        else:
            yield part
