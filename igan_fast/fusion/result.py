"""The two results that a Deferred tensor can turn into: with the expected activation, or plain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from igan_fast.fusion.expectation import Expectation

__all__ = ["FoldedNorm", "Result", "clones", "version_of"]


class FoldedNorm(Protocol):
    """A normalisation that a convolution has computed together with itself."""

    def is_still(self, norm: Any) -> bool:
        """Whether a module is this normalisation, and its parameters and statistics have not changed since."""

    @property
    def copies(self) -> tuple[Tensor | None, ...]:
        """Weight, bias, running mean and running variance, as they were then."""


class Result:
    """The result of one call of a fused module, before its first use decides which of two forms is needed.

    *Activated*: with the expected activation applied. It is computed during the call. *Plain*: the result of PyTorch's
    module. It is computed only if another operation than the expected one uses the result.

    Args:
        expectation: of the module that was called. It counts the unexpected uses.
        inputs: the tensors that ``compute`` reads and has not cloned. Their version counters are saved to detect
            in-place changes.
        compute: returns the plain result, outside of autograd. It must not read the module, which may change later.
        activated: the result with the expected activation, or with the expected normalisation (and its activation).
        slope: negative slope of the expected activation. Where a normalisation is expected: of the activation that is
            expected after it, or None.
        folded_norm: the expected normalisation, which ``activated`` includes. None where an activation is expected.
        recompute: whether the activation's backward pass recomputes the plain result. If False, ``activated`` is saved
            for it.
        autocast: the dtype of autocast during the call; None where autocast was off.

    Attributes:
        anchor: an empty tensor with the autograd node of the plain result; None where autograd does not record.
        consumed: ``activated`` has been returned to the caller.
        value: the plain result, if it was computed before its first use (``Guarded``); else None.
        saved: ``activated`` and its version counter, for the activation's backward pass.
        inference_mode: the call was made in inference mode.
    """

    __slots__ = (
        "__weakref__",
        "activated",
        "anchor",
        "autocast",
        "compute",
        "consumed",
        "expectation",
        "folded_norm",
        "inference_mode",
        "inputs",
        "recompute",
        "saved",
        "slope",
        "value",
        "versions",
    )

    def __init__(
        self,
        expectation: Expectation,
        inputs: tuple[Tensor, ...],
        compute: Callable[[], Tensor],
        activated: Tensor,
        slope: float | None,
        *,
        folded_norm: FoldedNorm | None = None,
        recompute: bool = True,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.expectation, self.inputs, self.compute, self.slope = expectation, inputs, compute, slope
        self.activated: Tensor | None = activated
        self.folded_norm, self.recompute, self.autocast = folded_norm, recompute, autocast
        self.consumed = False
        self.anchor: Tensor | None = None
        self.value: Tensor | None = None
        self.saved: tuple[Tensor, int] | None = None
        self.inference_mode = torch.is_inference_mode_enabled()
        self.versions = [version_of(t) for t in inputs]

    def take_activated(self) -> Tensor:
        """Return the activated result, once. No reference to it is kept, because the caller may change it in place."""
        y, self.activated, self.consumed = self.activated, None, True
        if y is None:
            raise AssertionError("an activated result was taken twice")
        return y

    def plain(self) -> Tensor:
        """The plain result, in new memory.

        Raises:
            RuntimeError: an input was changed in place since the call.
        """
        if self.value is not None:
            return self.value.clone()
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            if self.versions != [version_of(t) for t in self.inputs]:
                raise RuntimeError(
                    "a tensor was changed in place between a fused module's call and the first use of its result, and "
                    "that use is another than at earlier calls; call the model again, or igan_fast.unfuse(model)"
                )
            with torch.autocast(self.inputs[0].device.type, self.autocast, enabled=self.autocast is not None):
                return self.compute()

    def with_signs(self) -> Tensor:
        """A tensor with the signs of the plain result, from which the gradient of a (Leaky)ReLU is computed.

        It is the saved activated result, unless that was changed in place; then it is the plain result.
        """
        if self.saved is not None:
            y, version = self.saved
            if y._version == version:
                return y
        return self.plain()


def version_of(t: Tensor) -> int:
    """The version counter of t, which counts in-place changes; −1 for an inference tensor, which has none."""
    return -1 if t.is_inference() else t._version


def clones(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Clones of parameters and statistics. Their version counters do not show every later change: they do not count
    writes through ``.data`` and in inference mode."""
    return tuple(None if t is None else t.clone() for t in tensors)
