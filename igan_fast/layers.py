"""The layers of G and D on the fused operators, with the same names as in ``igan_fast.reference.layers``.

Arguments, parameters, buffers and ``state_dict`` are those of the reference, and are documented there.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from igan_fast import ops
from igan_fast.ops.linear import linear
from igan_fast.reference import layers as reference
from igan_fast.reference.layers import normalised_apart, set_process_group

__all__ = ["ConvNormAct2d", "ConvTransposeNormAct2d", "Linear", "NormAct2d", "normalised_apart", "set_process_group"]


class NormAct2d(reference.NormAct2d):
    """``reference.layers.NormAct2d``, fused."""

    operators: ClassVar[Any] = ops


class ConvNormAct2d(reference.ConvNormAct2d):
    """``reference.layers.ConvNormAct2d``, fused."""

    operators: ClassVar[Any] = ops
    norm_type: ClassVar[type[reference.NormAct2d]] = NormAct2d


class ConvTransposeNormAct2d(reference.ConvTransposeNormAct2d):
    """``reference.layers.ConvTransposeNormAct2d``, fused."""

    operators: ClassVar[Any] = ops
    norm_type: ClassVar[type[reference.NormAct2d]] = NormAct2d


class Linear(nn.Linear):
    """``nn.Linear``, on a CPU in float32 by the faster of MKL and oneDNN."""

    def forward(self, input: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features)."""
        return linear(input, self.weight, self.bias)
