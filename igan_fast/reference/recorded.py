"""The behaviour of modules when a network is scripted, traced or exported."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn
from torch.fx import Proxy

__all__ = ["FxLeaf", "Unscriptable", "exporting", "is_proxy", "is_tracing"]


class Unscriptable(nn.Module):
    """A module that ``torch.jit.script`` cannot compile. The error message says what to use instead."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"torch.jit.script cannot compile igan_fast's {type(self).__name__}; use torch.jit.trace or torch.export"
        )


class FxLeaf(Unscriptable):
    """A layer that is a leaf of a graph of ``torch.fx.symbolic_trace``, as the layers of ``torch.nn`` are."""

    def fx_node(self, *arguments: Any) -> Any:
        """Add a call of this layer to the graph of its arguments, as one node. At least one of them is a proxy.

        ``forward`` must not be traced: it would update the running statistics once, during the tracing, and the graph
        would not contain the update.

        Raises:
            TypeError: this layer is the whole traced model.
        """
        tracer = next(argument.tracer for argument in arguments if is_proxy(argument))
        path = tracer.path_of_module(self)
        if not path:
            raise TypeError(
                f"torch.fx treats a {type(self).__name__} as a leaf and cannot trace it alone; put it into a module"
            )
        return tracer.create_proxy("call_module", path, arguments, {})


def is_proxy(x: object) -> bool:
    """Whether x is a proxy, which stands for a tensor while ``torch.fx`` traces a model."""
    return isinstance(x, Proxy)


def is_tracing() -> bool:
    """Whether this call is traced by ``torch.jit.trace``, ``torch.export`` or an ONNX export. The graph may run on
    batches of other sizes later."""
    return bool(torch.jit.is_tracing()) or exporting()  # type: ignore[attr-defined, no-untyped-call]


def exporting() -> bool:
    """Whether ``torch.export`` is running."""
    return torch.compiler.is_exporting()


# ``torch.compiler.assume_constant_result`` sets this too: Dynamo calls the function instead of tracing into it. Up to
# torch 2.12, a traced call would return True in every compilation.
exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]
