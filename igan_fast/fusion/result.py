"""What a result that is not computed yet stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from igan_fast.fusion.place import Place

__all__ = ["Result", "copies", "version_of"]


class Result:
    """What a Deferred tensor stands for.

    Args:
        place: of the module that returns it; it learns from what happens.
        inputs: the tensors that the plain result is computed from, but for what ``compute`` has copies of.
        compute: gives the plain result, outside of autograd's sight, whatever became of its module since.
        activated: the result with the expected activation behind it, computed at the module's call.
        slope: of the expected activation; None where a normalisation is expected.
        expects: whether this module, as it is now, is what ``activated`` was computed with; None: an activation is
            expected.
        autocast: the dtype that autocast had at the call, where it was on.
        lean: whether an activation's backward pass finds the plain result again instead of keeping ``activated``.

    ``anchor`` is an empty tensor at the node of autograd's graph that the plain result is at, where there is one.
    """

    __slots__ = (
        "__weakref__",
        "activated",
        "anchor",
        "autocast",
        "compute",
        "consumed",
        "expects",
        "inference",
        "inputs",
        "kept",
        "lean",
        "place",
        "slope",
        "value",
        "versions",
    )

    def __init__(
        self,
        place: Place,
        inputs: tuple[Tensor, ...],
        compute: Callable[[], Tensor],
        activated: Tensor,
        slope: float | None,
        *,
        expects: Callable[[Any], bool] | None = None,
        lean: bool = True,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.place, self.inputs, self.compute, self.slope = place, inputs, compute, slope
        self.activated: Tensor | None = activated
        self.expects, self.lean, self.autocast = expects, lean, autocast
        self.consumed = False
        self.value: Tensor | None = None
        self.anchor: Tensor | None = None
        self.kept: tuple[Tensor, int] | None = None
        self.inference = torch.is_inference_mode_enabled()
        self.versions = [version_of(t) for t in inputs]

    def take(self) -> Tensor:
        """The activated result; it is handed out once."""
        y, self.activated, self.consumed = self.activated, None, True
        if y is None:
            raise AssertionError("an activated result was asked for twice")
        return y

    def plain(self) -> Tensor:
        """The plain result, in memory of its own.

        Raises:
            RuntimeError: what it is to be computed from was changed in place since.
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

    def side(self) -> Tensor:
        """A tensor with the signs of the plain result: the activated one, where that was kept and is what it was."""
        if self.kept is not None:
            y, version = self.kept
            if y._version == version:
                return y
        return self.plain()


def version_of(t: Tensor) -> int:
    """How often a tensor was changed in place; −1 for an inference tensor, which does not count."""
    return -1 if t.is_inference() else t._version


def copies(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Parameters and statistics as they are now: they change by ``.data`` too, and in inference mode, uncounted."""
    return tuple(None if t is None else t.clone() for t in tensors)
