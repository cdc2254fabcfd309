"""Where only PyTorch's own functions give the right answer: function transforms, tracing, export, other tensors.

Our operators read numbers out of memory. Under ``torch.func`` and ``is_grads_batched`` a tensor stands for several,
under ``torch.jit.trace`` and ``torch.export`` for all that will ever be given, in a subclass for whatever that says;
and a dispatch mode (``FlopCounterMode``, ``make_fx``) looks at each of PyTorch's operators. PyTorch's own functions
know how, so ours stand back for them.
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
    """Whether a transform, a tracer, an exporter or a dispatch mode is at work, or a tensor is not an ordinary one.

    Asked by every call, so that it has to be quick: about half a microsecond.
    """
    if torch.compiler.is_compiling():  # which takes our operators as they are, unless it exports
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
    """Whether gradients that arrive in a backward pass may each stand for several: under a transform of ``torch.func``,
    or by ``is_grads_batched`` and ``jacobian(vectorize=True)``, which have batches of their own kind."""
    return in_functorch() or any(g is not None and _functorch.is_legacy_batchedtensor(g) for g in gradients)


def in_functorch() -> bool:
    """Whether a transform of ``torch.func`` is at work."""
    return _functorch.maybe_current_level() is not None


# What ``torch.compiler.assume_constant_result`` does, without the second that importing the compiler takes: it calls
# the function, instead of looking into it. Dynamo compiles again where another transform is at work.
in_functorch._dynamo_marked_constant = True  # type: ignore[attr-defined]


def forward_mode() -> bool:
    """Whether derivatives may be asked for in forward mode, which the reference alone has."""
    return forward_ad._current_level >= 0


def overridable(function: Callable[P, R]) -> Callable[P, R]:
    """An operator that tensor-like arguments may take over, as they may PyTorch's own functions
    (``__torch_function__``): ``torch.fx.symbolic_trace`` notes it down as one call, a subclass sees it."""

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
