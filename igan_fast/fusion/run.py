"""What belongs together in a fused model, and who computes what: decided anew whenever it is called."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from igan_fast.fusion.conditions import Condition

__all__ = ["MARK", "Place", "Run", "slope_of"]


class Place:
    """Where a module is in a tree: its parent and the name that it has there."""

    def __init__(self, parent: nn.Module, name: str) -> None:
        self.parent, self.name = parent, name

    @property
    def module(self) -> nn.Module | None:
        """What is there now."""
        return self.parent._modules.get(self.name)

    @property
    def key(self) -> tuple[int, str]:
        """The same for the same place."""
        return id(self.parent), self.name


class Run:
    """A normalisation, with the convolution before it and the activation behind it where these are fused to it; or a
    convolution that has no normalisation behind it, with its activation.

    acts: the activation's places; one, unless it is shared.
    shared: the activation is called on other results too, and has to tell them apart.
    conditions: what has to hold for the modules to be called one after another; where one does not, each is by itself.
    writable: somebody may write into the result, as plain PyTorch allows it after an activation that is not in place.
    """

    def __init__(
        self,
        conv: Place | None,
        norm: Place | None,
        acts: Sequence[Place],
        shared: bool,
        conditions: Sequence[Condition] = (),
        *,
        writable: bool = False,
    ) -> None:
        self.conditions, self.writable = tuple(conditions), writable
        self.places = [place for place in (conv, norm) if place is not None]
        self.acts, self.shared = list(acts), shared
        self.conv = conv.module if conv is not None else None
        self.norm = norm.module if norm is not None else None
        self.slope = slope_of(acts[0].module) if acts else 1.0

    def activates(self) -> bool:
        """Whether the module before it applies the activation: nothing looks at what is between them."""
        before = self.conv if self.norm is None else self.norm
        return (
            bool(self.acts)
            and self.places[-1].module is before
            and not _sees_output(before)
            and all(_is_fused(act.module) and not _sees_input(act.module) for act in self.acts)
            and not (self.shared and torch.compiler.is_compiling())  # a compiler joins them itself
            and all(condition.holds() for condition in self.conditions)
        )

    def joined(self) -> bool:
        """Whether the convolution computes the normalisation too (and the activation where ``activates``)."""
        return (
            self.conv is not None
            and self.norm is not None
            and self.places[0].module is self.conv
            and self.places[1].module is self.norm
            and not _sees_output(self.conv)
            and not _sees_input(self.norm)
            and all(condition.holds() for condition in self.conditions)
        )

    def activation_slope(self) -> float:
        """That of what is applied with the rest: 1 where it is nothing."""
        return self.slope if self.activates() else 1.0

    def marked(self, y: Tensor) -> Tensor:
        """The run's result, marked for an activation that is shared."""
        if self.shared and self.activates():
            setattr(y, MARK, True)
        return y


#: On a tensor: the activation has been applied. It is taken off by the activation, before anybody else sees the tensor.
MARK = "_igan_fast_activated"


def _is_fused(activation: nn.Module | None) -> bool:
    """Whether what is at its place now is an activation that leaves the work to the module before it."""
    return getattr(activation, "_original", None) is not None


def _sees_output(module: nn.Module | None) -> bool:
    """Whether something looks at what a module returns."""
    return module is not None and bool(module._forward_hooks or module._backward_hooks or module._backward_pre_hooks)


def _sees_input(module: nn.Module | None) -> bool:
    """Whether something looks at what a module is given, as a forward hook does too."""
    return (module is not None and bool(module._forward_pre_hooks)) or _sees_output(module)


def slope_of(activation: nn.Module | None) -> float:
    """LeakyReLU's below zero; a ReLU's is 0."""
    return float(activation.negative_slope) if isinstance(activation, nn.LeakyReLU) else 0.0
