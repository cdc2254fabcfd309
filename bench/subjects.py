"""The inputs and baselines of the operators' benchmarks: D's four activations at 128², eager and compiled PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor

from bench.core import Peer
from igan_fast import ops
from igan_fast.reference import ops as reference

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OTHER = {"contiguous": "channels_last", "channels_last": "contiguous"}


def activations(batch: int, layout: str, dtype: str, device: torch.device) -> list[Tensor]:
    """h¹..h⁴ of the discriminator at image size 128 and width 64: (N, 64, 64, 64) to (N, 512, 8, 8)."""
    shapes = [(batch, 64 << i, 64 >> i, 64 >> i) for i in range(4)]
    return [
        torch.randn(shape, device=device).to(dtype=DTYPES[dtype], memory_format=LAYOUTS[layout]) for shape in shapes
    ]


def with_gradients(forward: Callable[..., Any], inputs: Sequence[Tensor], upstream: Any = None) -> Peer:
    """A peer with ``forward``, and a backward pass that computes the gradients with respect to ``inputs``."""

    def backward(outputs: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, inputs, upstream)

    return forward, backward


def peers(make: Callable[[Any, str, dict[str, Any]], Peer], layout: str, device: torch.device) -> dict[str, Peer]:
    """Ours and its baselines. ``make(module, layout, options)`` returns a peer that calls ``module``'s operator.

    "eager" and "compile" are the reference operator, in eager mode and compiled by ``torch.compile``. Both run in
    ``layout`` and, on a CPU, in the other layout too. On a GPU that would take too long, because of the compilation.
    """
    found = {"ours": make(ops, layout, {"impl": "auto"})}
    if device.type == "cuda":
        status = ops.backends()
        available = [
            impl for impl, name in (("native", "native-cuda"), ("triton", "triton")) if status[name] == "available"
        ]
        found |= {impl: make(ops, layout, {"impl": impl}) for impl in available}
    for name in (layout,) if device.type == "cuda" else (layout, OTHER[layout]):
        found[f"eager, {name}"] = make(reference, name, {})
        found[f"compile, {name}"] = make(_Compiled(), name, {})
    return found


class _Compiled:
    """The reference operators under ``torch.compile``. Each access compiles anew, so a peer has its own shapes."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return torch.compile(functools.partial(getattr(reference, name)), dynamic=False)
