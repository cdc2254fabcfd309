"""What all modules of a fused model have in common."""

from __future__ import annotations

import functools
import inspect
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: F401  torch.jit.script reads a forward of PyTorch here
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from igan_fast.fusion.expectation import Place

__all__ = ["Twin", "derived", "is_shared", "is_small", "layout_of", "records"]

#: Values from which on there is something to be gained (measured); below, PyTorch computes.
SMALLEST = 1 << 17

#: As ``SMALLEST``, of the values that are normalised together.
SMALLEST_INSTANCE = 1 << 8

_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Twin(nn.Module):
    """A module that is PyTorch's own but for its ``forward``."""

    #: PyTorch's class, which ``unfuse`` gives back.
    plain: ClassVar[type[nn.Module]]
    #: The class itself: a module of a class that was derived since (parametrisation) is computed by PyTorch.
    own: ClassVar[type[Twin]]

    _place: Place

    def begin(self) -> None:
        """Nothing is known yet of what follows."""
        vars(self)["_place"] = Place()
        # torch.fx takes modules of torch.nn as they are, by where they say that they are defined; so is this one taken.
        vars(self)["__module__"] = self.plain.__module__

    def end(self) -> None:
        """As it was before it was fused."""
        vars(self).pop("_place", None), vars(self).pop("__module__", None)
        if type(self) is self.own:
            self.__class__ = self.plain  # type: ignore[assignment]

    def active(self) -> bool:
        """Whether it is not PyTorch's alone: compiled, parametrised since, or unfused meanwhile."""
        return not torch.compiler.is_compiling() and type(self) is self.own and "_place" in self.__dict__

    def observed(self) -> bool:
        """Whether gradients pass through hooks on the way, which want an ordinary tensor."""
        return bool(
            self._backward_hooks
            or self._backward_pre_hooks
            or torch_module._global_backward_hooks
            or torch_module._global_backward_pre_hooks
        )

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: what a module has learnt is about its own neighbours."""
        state = vars(self).copy()
        if "_place" in state:
            state["_place"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if "_place" in state:
            self.begin()


def is_small(x: Tensor) -> bool:
    """Whether x has so few values that PyTorch is as fast."""
    return x.numel() < max(SMALLEST, 1)


def is_shared(x: Tensor) -> bool:
    """Whether x may change uncounted and unseen: it is an inference tensor, on whose memory there is another one."""
    if not x.is_inference():
        return False
    uses: int = torch._C._storage_Use_Count(x.untyped_storage()._cdata)
    return uses > 2  # x, and the storage that was asked for


def records(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is done with these tensors."""
    return (
        torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and any(t is not None and t.requires_grad for t in tensors)
    )


def layout_of(x: Tensor) -> torch.memory_format | None:
    """The memory format of a dense x that can have one only; None where PyTorch has to say what a result's is."""
    last = _LAST.get(x.dim())
    contiguous = x.is_contiguous()
    if last is None:
        return torch.contiguous_format if contiguous else None
    if contiguous == x.is_contiguous(memory_format=last):
        return None
    return torch.contiguous_format if contiguous else last


def derived(twin: type[Twin], plain: type[nn.Module], module: str) -> type[Twin]:
    """A class of ``plain``'s name that is it with ``twin``'s forward, defined in ``module``."""

    @functools.wraps(plain.forward)  # which is what torch.jit.script then reads
    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        return twin.forward(self, *args, **kwargs)  # type: ignore[no-any-return]

    namespace = {
        "__doc__": f"``nn.{plain.__name__}`` of a fused model.",
        "__module__": module,
        "__annotations__": next(filter(None, map(inspect.get_annotations, plain.__mro__)), {}),  # which it reads too
        "plain": plain,
        "forward": forward,
    }
    made: Any = type(plain.__name__, (twin, plain), namespace)
    made.own = made
    return made  # type: ignore[no-any-return]
