"""The sizes of linear layers from which on oneDNN is faster than MKL, for each instruction set.

They are data in ``linear_limits.json``, which ``python -m bench.linear_limits`` measures and writes. Nothing is timed
in a running process, and the number of threads does not count: the same layer is always computed in the same way.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

import torch

__all__ = ["COMPUTATIONS", "FILE", "IS_AVAILABLE", "NEVER", "Limits", "gains", "instruction_set", "limits_of", "pays"]

COMPUTATIONS = ("forward", "input_gradient", "weight_gradient")
#: Whether this PyTorch has oneDNN's linear layers.
IS_AVAILABLE = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")

FILE = Path(__file__).with_name("linear_limits.json")


class Limits(NamedTuple):
    """The sizes from which on oneDNN is faster.

    Attributes:
        batch: the number of rows of the input.
        weights: the number of weights.
        side: the smaller of the numbers of input and of output features.
        wide: the number of weights for fewer rows than ``batch``, in a layer with no fewer output than input features.
        memory: the same in any layer. So many weights are read from memory, and oneDNN reads them on all threads.
    """

    batch: int
    weights: int
    side: int
    wide: int
    memory: int = 1 << 62


#: oneDNN computes no layer.
NEVER = Limits(1 << 62, 1 << 62, 1 << 62, 1 << 62)


def pays(batch: int, inputs: int, outputs: int, limits: Limits) -> bool:
    """Whether oneDNN is faster for a batch of so many rows and a layer of so many input and output features."""
    if batch >= limits.batch:
        return inputs * outputs >= limits.weights and min(inputs, outputs) >= limits.side
    return batch > 0 and inputs * outputs >= (min(limits.wide, limits.memory) if outputs >= inputs else limits.memory)


@functools.cache
def limits_of(computation: str) -> Limits:
    """The measured limits of one of ``COMPUTATIONS`` on this machine's instruction set; ``NEVER`` if it was not
    measured, or if there is no oneDNN."""
    measured = json.loads(FILE.read_text(encoding="utf-8")).get(instruction_set()) if IS_AVAILABLE else None
    return NEVER if measured is None else Limits(**measured[computation])


@functools.cache
def gains(inputs: int, outputs: int) -> bool:
    """Whether oneDNN is faster for a layer of so many features with some batch, forward or for a gradient."""
    return any(
        pays(batch, inputs, outputs, limits_of(computation)) for computation in COMPUTATIONS for batch in (1, 1 << 30)
    )


def instruction_set() -> str:
    """The instruction set that PyTorch uses: "AVX2", "AVX512" or another name."""
    return torch.backends.cpu.get_cpu_capability()
