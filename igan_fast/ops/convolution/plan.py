"""The base class of implementations of convolutions, and the problem for which one of them is chosen.

To add an implementation, write a file with a class derived from ``Implementation``, and add an instance of it to
``IMPLEMENTATIONS`` in ``choice.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from igan_fast.ops.convolution.settings import ConvSettings, InputSpec

__all__ = ["ActivationGradients", "Convolve", "Implementation", "InputGradient", "Plan", "Problem", "WeightGradient"]

#: Called with the input, the weight, the bias and the slope of the LeakyReLU after the convolution (1 for none).
Convolve: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]

#: Called with the gradient of the output, the weight, and the input's specification.
InputGradient: TypeAlias = Callable[[Tensor, Tensor, InputSpec], Tensor]

#: Called with the gradient of the output, and the input.
WeightGradient: TypeAlias = Callable[[Tensor, Tensor], Tensor]


#: Called with the gradient of the LeakyReLU's output, the signs of its input (of the same dtype), its slope, the input
#: (None where the weight needs no gradient), the weight, the input's specification, and whether the input, the weight
#: and the bias need a gradient. The bias needs none where the weight does not. Returns these gradients, or None.
ActivationGradients: TypeAlias = Callable[
    [Tensor, Tensor, float, Tensor | None, Tensor, InputSpec, tuple[bool, bool, bool]],
    tuple[Tensor | None, Tensor | None, Tensor | None],
]


class Problem(NamedTuple):
    """All that the choice of an implementation depends on. It is the key of a cached plan.

    Attributes:
        settings: of the convolution.
        native: whether the kernels of the C++ extension are available, and may be used.
        input_shape, weight_shape: as PyTorch's convolutions take them.
        input_dtype, weight_dtype: their data types.
        device: the input's device type, such as "cpu".
        weight_contiguous: whether the weight is contiguous; it may be channels_last instead.
        bias: whether a bias is added. False where gradients are computed.
        activation: whether a LeakyReLU follows. False where gradients are computed.
        differentiable: whether autograd or a compiler has to record the single functions of the computation.
        triton: whether the user asks for Triton's kernels.
        measured: where the user asks for Triton's kernels where they are faster, the flags on which that depends
            (``tuning.flags``); else empty.
        constant: whether results that depend on the weight alone are kept (``igan_fast.ops.constant``).
        input_contiguous: whether the input is contiguous; it may be channels_last instead.
    """

    settings: ConvSettings
    native: bool
    input_shape: torch.Size
    weight_shape: torch.Size
    input_dtype: torch.dtype
    weight_dtype: torch.dtype
    device: str
    weight_contiguous: bool
    bias: bool
    activation: bool
    differentiable: bool
    triton: bool = False
    measured: str = ""
    constant: bool = False
    input_contiguous: bool = False


class Implementation:
    """One way to compute convolutions.

    Each method returns a function that solves a problem. All values that depend only on shapes are computed before. A
    method returns None if this implementation cannot solve the problem, or is not faster than the next one.

    Attributes:
        name: for tests and reports.
        purpose: what it computes, for a reader.
        devices: the device types on which it can run.
        own_kernels: whether kernels of this package compute the convolution, and not PyTorch's.
        composite: whether it consists of several of PyTorch's differentiable functions. Autograd and compilers then
            record these functions, and autograd computes the gradients. For the other implementations,
            ``dispatch.gradients`` computes the gradients.
        contiguous: whether kernels of this package compute contiguous feature maps, and not copies in channels_last.
        on_demand: whether it is taken only where the user asks for it, or where it was measured to be faster.
    """

    name: ClassVar[str]
    purpose: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    own_kernels: ClassVar[bool] = False
    composite: ClassVar[bool] = False
    contiguous: ClassVar[bool] = False
    on_demand: ClassVar[bool] = False

    def convolve(self, problem: Problem) -> Convolve | None:
        """The convolution, the bias and the LeakyReLU."""
        return None

    def input_gradient(self, problem: Problem) -> InputGradient | None:
        """The gradient of the input, in the memory format of the input."""
        return None

    def weight_gradient(self, problem: Problem) -> WeightGradient | None:
        """The gradient of the weight."""
        return None

    def why(self, problem: Problem, computation: str, *, taken: bool) -> str:
        """Why it is taken for a problem, or why not, for a reader.

        Args:
            computation: the name of one of the methods above.
        """
        return self.purpose if taken else f"only for {self.purpose}"

    def seconds(self, problem: Problem, computation: str) -> tuple[float, float] | None:
        """The predicted times on one core, by this implementation and by PyTorch; None where they are not predicted.

        Args:
            computation: "convolve", "input_gradient" or "weight_gradient".
        """
        return None

    def activation_gradients(self, problem: Problem) -> ActivationGradients | None:
        """The gradients of input, weight and bias of a convolution with a LeakyReLU, from that of the LeakyReLU's
        output, without a pass over it."""
        return None


class Plan(NamedTuple):
    """The choice for a problem: an implementation, and its function that computes the convolution with ``settings``."""

    settings: ConvSettings
    implementation: Implementation
    run: Convolve
