"""What modules are to those who read or record a network instead of running it."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn
from torch.fx import Proxy

__all__ = ["Piece", "Unscriptable", "exporting", "is_proxy", "recording"]


class Unscriptable(nn.Module):
    """A module that ``torch.jit.script`` refuses in one line."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"torch.jit.script cannot compile igan_fast's {type(self).__name__}; use torch.jit.trace or torch.export"
        )


class Piece(Unscriptable):
    """A layer that ``torch.fx.symbolic_trace`` takes as one piece, as it takes those of ``torch.nn``."""

    def place_in_graph(self, x: Any) -> Any:
        """The layer's call as one node of the graph that the proxy x belongs to. Looked into, what the layer does to
        its buffers would happen while it is traced, and never again.

        Raises:
            TypeError: it is the layer alone that is traced.
        """
        path = x.tracer.path_of_module(self)
        if not path:
            raise TypeError(
                f"torch.fx takes a {type(self).__name__} as one piece and cannot trace it alone; put it into a module"
            )
        return x.tracer.create_proxy("call_module", path, (x,), {})


def is_proxy(x: object) -> bool:
    """Whether x stands for a tensor while ``torch.fx`` traces a network."""
    return isinstance(x, Proxy)


def recording() -> bool:
    """Whether the run is recorded for batches of other sizes: by ``torch.jit.trace``, ``torch.export`` or ONNX."""
    return bool(torch.jit.is_tracing()) or exporting()  # type: ignore[attr-defined, no-untyped-call]


def exporting() -> bool:
    """Whether ``torch.export`` is at work."""
    return torch.compiler.is_exporting()


# What ``torch.compiler.assume_constant_result`` does: Dynamo calls the function instead of tracing into it. Up to torch
# 2.12 it would return True in every compilation if it were traced.
exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]
