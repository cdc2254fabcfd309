"""Tensors with data whose next use is intercepted, to learn from it or to compute dependent results before it."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from igan_fast.fusion.deferred import Deferred, Intercepted, to_ordinary
from igan_fast.fusion.expectation import Expectation
from igan_fast.fusion.result import Result
from igan_fast.ops.transforms import transformed

__all__ = ["Guarded", "Watched", "guard", "to_ordinary_for_norm", "watch"]


class Watched(Intercepted):
    """The plain result of a fused module. The Expectation of the module learns from its first use."""

    _expectation: Expectation

    def to_ordinary(self) -> Tensor:
        self._expectation.expect_nothing()
        return self._drop_class()

    def used_by_activation(self, slope: float | None) -> None:
        """The first use is a (Leaky)ReLU of this slope; None: a slope that the fused operators do not support."""
        self._expectation.expect_activation(slope)
        self._drop_class()


def watch(y: Tensor, expectation: Expectation) -> Tensor:
    """Make y, a module's plain result, Watched if the module still has to learn how its result is used. Returns y."""
    if expectation.unknown and type(y) is Tensor and not transformed():
        watched: Any = y
        watched.__class__, watched._expectation = Watched, expectation
    return y


def to_ordinary_for_norm(x: Tensor, norm: Any) -> Tensor:
    """``to_ordinary(x)`` for the fused normalisation ``norm``, whose input is x. The module that returned x learns that
    ``norm`` follows it."""
    if type(x) is not Watched:
        return to_ordinary(x)
    if not getattr(norm, "_is_replica", False):  # a replica of nn.DataParallel lives for one call only
        x._expectation.expect_norm(norm)
    return x._drop_class()


class Guarded(Intercepted):
    """An inference tensor from which the data of a Deferred may be computed later. An inference tensor has no version
    counter, so an in-place change would not be detected. The next use of this tensor therefore first computes the plain
    result of the Deferred.

    _dependents: the Results of those Deferred tensors.
    """

    _dependents: list[weakref.ref[Result]]

    def to_ordinary(self) -> Tensor:
        for reference in self._dependents:
            dependent = reference()
            if dependent is not None and not dependent.consumed:
                dependent.value = dependent.plain()
        return self._drop_class()


def guard(deferred: Deferred) -> Deferred:
    """Make Guarded the inference tensors from which ``deferred`` may be computed later. Returns ``deferred``."""
    if not deferred.result.inference_mode:
        return deferred
    for t in deferred.result.inputs:
        if type(t) in (Tensor, Guarded) and t.is_inference():
            guarded: Any = t
            if type(t) is Tensor:
                guarded.__class__, guarded._dependents = Guarded, []
            guarded._dependents.append(weakref.ref(deferred.result))
    return deferred
