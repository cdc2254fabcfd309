"""Fused linear layers."""

from __future__ import annotations

from torch import Tensor, nn

from igan_fast.fusion.deferred import to_ordinary
from igan_fast.fusion.fused_module import FusedModule
from igan_fast.ops.linear import linear
from igan_fast.ops.linear_limits import gains

__all__ = ["FusedLinear"]


class FusedLinear(FusedModule):
    """A linear layer, on a CPU in float32 by the faster of MKL and oneDNN."""

    weight: Tensor
    bias: Tensor | None

    may_be_parametrised = True

    @classmethod
    def gains_for(cls, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and gains(module.in_features, module.out_features)

    def forward(self, input: Tensor) -> Tensor:
        x = to_ordinary(input)
        if not self.is_fused():
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        return linear(x, self.weight, self.bias)
