"""Where only PyTorch's own functions give the right answer: function transforms, tracing, export, other tensors.

Our operators read numbers out of memory. Under ``torch.func`` and ``is_grads_batched`` a tensor stands for several,
under ``torch.jit.trace`` and ``torch.export`` for all that will ever be given, in a subclass for whatever that says, and
a dispatch mode (``FlopCounterMode``, ``make_fx``) looks at each of PyTorch's operators. PyTorch's own functions know
how; ours stand back for them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

__all__ = ["batched", "forward_mode", "transformed"]

_PLAIN = (Tensor, torch.nn.Parameter)


def transformed(*tensors: Tensor | None) -> bool:
    """Whether a transform, a tracer, an exporter or a dispatch mode is at work, or one of the tensors is not an ordinary
    one in memory. Asked by every call, so that it has to be quick: about half a microsecond.
    """
    if torch.compiler.is_compiling():  # which takes our operators as they are, unless it exports
        return torch.compiler.is_exporting() or batched() or forward_mode()
    if (
        _functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
    ):
        return True
    for tensor in tensors:
        if tensor is not None and (type(tensor) not in _PLAIN or tensor.layout is not torch.strided):
            return True
    return False


def batched() -> bool:
    """Whether a transform of ``torch.func`` is at work, or a backward pass of several gradients at once
    (``is_grads_batched``, ``jacobian(vectorize=True)``)."""
    return _functorch.maybe_current_level() is not None


# What ``torch.compiler.assume_constant_result`` does, without the second that importing the compiler takes: it calls
# the function, instead of looking into it. Dynamo compiles again where another transform is at work.
batched._dynamo_marked_constant = True  # type: ignore[attr-defined]


def forward_mode() -> bool:
    """Whether derivatives may be asked for in forward mode, which the reference alone has."""
    return forward_ad._current_level >= 0
