"""What is compared: D's four activations at 128², as every benchmark of an operator takes them."""

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
    """h¹..h⁴ of D at image size 128 and width 64: (N, 64, 64, 64) to (N, 512, 8, 8)."""
    shapes = [(batch, 64 << i, 64 >> i, 64 >> i) for i in range(4)]
    return [
        torch.randn(shape, device=device).to(dtype=DTYPES[dtype], memory_format=LAYOUTS[layout]) for shape in shapes
    ]


def with_gradients(forward: Callable[..., Any], inputs: Sequence[Tensor], upstream: Any = None) -> Peer:
    """forward(), then the gradients of its outputs to the inputs, freshly allocated as in training."""

    def backward(outputs: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, inputs, upstream)

    return forward, backward


def peers(make: Callable[[Any, str, dict[str, Any]], Peer], layout: str, device: torch.device) -> dict[str, Peer]:
    """Ours and what there is besides. ``make(module, layout, options)``: a peer that calls ``module``'s operator.

    "eager" and "compile" are the reference as PyTorch runs and as ``torch.compile`` compiles it, each in the layout at
    hand and, on a CPU, in the other one: on a GPU to compile takes longer than to measure.
    """
    found = {"ours": make(ops, layout, {"impl": "native" if _native(device) else "auto"})}
    if device.type == "cuda":
        found["triton"] = make(ops, layout, {"impl": "triton"})
    for name in (layout,) if device.type == "cuda" else (layout, OTHER[layout]):
        found[f"eager, {name}"] = make(reference, name, {})
        found[f"compile, {name}"] = make(_Compiled(), name, {})
    return found


def _native(device: torch.device) -> bool:
    return ops.backends()[f"native-{device.type}"] == "available"


class _Compiled:
    """The reference's operators under torch.compile, each use compiled for its own shapes."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return torch.compile(functools.partial(getattr(reference, name)), dynamic=False)
