"""What a fused module has learnt from its calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor

from igan_fast.ops.constant import sample

__all__ = ["Expectation"]

#: After this many unexpected uses of its results, a module no longer expects any operation.
_MAX_MISSES = 3

#: The number of kinds of calls that are remembered.
_MAX_KINDS = 256


class Expectation:
    """The operation that a fused module expects to use its next result. It is learnt from the uses of earlier results.

    slope: negative slope of the expected (Leaky)ReLU (0 for a ReLU); None if no activation is expected.
    norm: the expected fused normalisation; None if none is expected, or if it has been deleted.
    unknown: True while the next use of a result is still to be learnt. Until then results are Watched (``watched.py``).
    gains: whether a call was computed by operators of this package.
    left: the kinds of calls that are left to PyTorch (``kind_of_call``), while the expectation stays what it is.
    left_shape, left_stride: of the last input without gradients whose call was left to PyTorch; None if there was none.
    ways: of a convolution, how it is computed in evaluation, by kind of call (``ways.py``).
    kept: of a convolution, what evaluation keeps from call to call (``kept.py``), with a normalisation folded into it
        (False) and without (True).
    """

    __slots__ = (
        "_misses",
        "_norm",
        "_sample",
        "gains",
        "kept",
        "left",
        "left_shape",
        "left_stride",
        "slope",
        "unknown",
        "ways",
    )

    def __init__(self) -> None:
        self.slope: float | None = None
        self._norm: weakref.ref[Any] | None = None
        self.unknown, self._misses = True, 0
        self.gains = False
        self.left: set[Any] = set()
        self.left_shape: Any = None
        self.left_stride: Any = None
        self.ways: dict[Any, Any] = {}
        self.kept: dict[bool, Any] = {}
        self._sample: list[float] = []

    def __deepcopy__(self, _: Any) -> Expectation:
        """A new expectation, because other modules follow the copy of a module."""
        return Expectation()

    @property
    def norm(self) -> Any:
        return None if self._norm is None else self._norm()

    def expect_activation(self, slope: float | None) -> None:
        """A (Leaky)ReLU used the result: expect it again. ``slope`` is None if the operators do not support its slope:
        then expect nothing."""
        self._expect(slope, None)

    def expect_norm(self, norm: Any) -> None:
        """The fused normalisation ``norm`` used the result: expect it again."""
        self._expect(None, weakref.ref(norm))

    def expect_nothing(self) -> None:
        """Anything else used the result: return ordinary tensors from now on."""
        self._expect(None, None)

    def count_miss(self) -> None:
        """The use of the result was not the expected one. Learn from the next use, or, after ``_MAX_MISSES`` such uses,
        expect nothing any more."""
        self.expect_nothing()
        self._misses += 1
        self.unknown = self._misses < _MAX_MISSES

    def leave_to_pytorch(self, kind: Any) -> None:
        """Calls of this kind gain nothing; None is no kind."""
        if kind is None:
            return
        if len(self.left) >= _MAX_KINDS:  # inputs of ever new sizes
            self.left.clear()
        self.left.add(kind)

    def repeat_left(self, x: Tensor) -> None:
        """The next call without gradients on such an input may go to PyTorch at once."""
        self.left_shape, self.left_stride = x.shape, x.stride()

    def forget_left(self) -> None:
        """Nothing is known any more of the calls that are left to PyTorch."""
        self.left_shape = self.left_stride = None
        self.left.clear()

    def way_of(self, kind: Any, find: Callable[[], Any]) -> Any:
        """How evaluation computes calls of this kind: what ``find`` returned for the first of them."""
        try:
            way = self.ways.get(kind, self)
        except TypeError:  # not hashable: a setting of the module is a list
            return find()
        if way is self:
            if len(self.ways) >= _MAX_KINDS:
                self.ways.clear()
            way = self.ways[kind] = find()
        return way

    def repeats(self, weight: Tensor) -> bool:
        """Whether a weight is probably that of the last call of this function: a few of its values are compared."""
        before, self._sample = self._sample, sample(weight).flatten().tolist()
        return before == self._sample

    def _expect(self, slope: float | None, norm: weakref.ref[Any] | None) -> None:
        self.slope, self._norm, self.unknown = slope, norm, False
        self.forget_left()
        self.ways.clear()
        self.kept.clear()
