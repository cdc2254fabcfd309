"""Fused linear layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # torch.jit.script reads PyTorch's forward, which needs this name, too
from torch import Tensor, nn

from igan_fast.fusion.deferred import to_ordinary
from igan_fast.fusion.fused_module import FusedModule, is_left_again
from igan_fast.ops import few_rows
from igan_fast.ops.linear import linear
from igan_fast.ops.linear_limits import gains, limits_of, pays

__all__ = ["FusedLinear"]

#: In a layer with fewer weights, what few rows gain is less than a training iteration loses by the Python of a fused
#: module.
MIN_WEIGHTS = 1 << 18


class FusedLinear(FusedModule):
    """A linear layer, on a CPU by the fastest of MKL, oneDNN and, for few rows, a kernel of this package."""

    in_features: int
    out_features: int
    weight: Tensor
    bias: Tensor | None

    may_be_parametrised = True

    @classmethod
    def gains_for(cls, module: nn.Module) -> bool:
        if not isinstance(module, nn.Linear):
            return False
        inputs, outputs = module.in_features, module.out_features
        return gains(inputs, outputs) or (inputs * outputs >= MIN_WEIGHTS and few_rows.gains(inputs * outputs))

    def forward(self, input: Tensor) -> Tensor:
        own = vars(self)
        expectation, parameters = own.get("_expectation"), own["_parameters"]
        # nn.Module finds tensors slowly, and in a network no cache holds Python's work.
        if expectation is not None and type(self) is self.fused_class and is_left_again(expectation, input):
            return F.linear(input, parameters["weight"], parameters["bias"])
        if type(input) is Tensor and self._is_by_pytorch(input):
            if expectation is not None:
                expectation.repeat_left(input)
            return self.plain_class.forward(self, input)  # type: ignore[no-any-return]
        x = to_ordinary(input)
        if not self.is_fused():
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        return linear(x, self.weight, self.bias)

    def _is_by_pytorch(self, x: Tensor) -> bool:
        """Whether PyTorch computes the layer: without gradients, where neither oneDNN nor our kernel is faster."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or x.is_nested:
            return False
        rows = x.numel() // self.in_features
        if few_rows.are_few(x, self.in_features) and few_rows.gains(self.in_features * self.out_features):
            return False
        return not pays(rows, self.in_features, self.out_features, limits_of("forward"))
