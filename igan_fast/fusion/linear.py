"""Fused linear layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # torch.jit.script reads PyTorch's forward, which needs this name, too
from torch import Tensor, nn

from igan_fast.fusion.deferred import to_ordinary
from igan_fast.fusion.fused_module import FusedModule, is_left_again
from igan_fast.ops.linear import linear
from igan_fast.ops.linear_limits import gains, limits_of, pays

__all__ = ["FusedLinear"]


class FusedLinear(FusedModule):
    """A linear layer, on a CPU in float32 by the faster of MKL and oneDNN."""

    in_features: int
    out_features: int
    weight: Tensor
    bias: Tensor | None

    may_be_parametrised = True

    @classmethod
    def gains_for(cls, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and gains(module.in_features, module.out_features)

    def forward(self, input: Tensor) -> Tensor:
        own = vars(self)
        expectation, parameters = own.get("_expectation"), own["_parameters"]
        # nn.Module finds tensors slowly, and in a network no cache holds Python's work.
        if expectation is not None and type(self) is self.fused_class and is_left_again(expectation, input):
            return F.linear(input, parameters["weight"], parameters["bias"])
        if type(input) is Tensor and self._is_by_mkl(input):
            if expectation is not None:
                expectation.repeat_left(input)
            return self.plain_class.forward(self, input)  # type: ignore[no-any-return]
        x = to_ordinary(input)
        if not self.is_fused():
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        return linear(x, self.weight, self.bias)

    def _is_by_mkl(self, x: Tensor) -> bool:
        """Whether MKL computes the layer anyway: without gradients, and with few rows."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or x.is_nested:
            return False
        rows = x.numel() // self.in_features
        return not pays(rows, self.in_features, self.out_features, limits_of("forward"))
