"""The weights that losses are given: checked once, and kept as floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

__all__ = ["finite", "number", "per_entry"]


def number(name: str, value: object) -> float:
    """``value`` as a float.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not finite.
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a number")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number")
    return float(value)


def finite(name: str, values: object) -> tuple[float, ...]:
    """``values`` as floats.

    Raises:
        TypeError: they are not a sequence, or one is not a number.
        ValueError: one is not finite.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} is a {type(values).__name__}; expected a sequence of numbers")
    return tuple(number(f"{name}[{index}]", value) for index, value in enumerate(values))


def per_entry(name: str, values: object, count: int, entries: str) -> list[float]:
    """``values`` as floats, one each for ``count`` entries of a kind.

    Raises:
        TypeError, ValueError: as ``finite``; or their number is another one.
    """
    if len(weights := finite(name, values)) != count:
        raise ValueError(f"{name} has {len(weights)} numbers for {count} {entries}")
    return list(weights)
