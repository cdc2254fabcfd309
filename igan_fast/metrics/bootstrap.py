"""How far a mean over photos may be off: bootstrap intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_interval"]

#: The most numbers that are drawn at once.
_DRAWN = 1 << 21


def bootstrap_interval(
    values: NDArray[np.floating[Any]], *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return an interval for the mean of ``values``: the percentile bootstrap (Efron 1979).

    The values are drawn again, with replacement, as often as there are values; the mean of the draw is noted. Of all
    these means, a share (1 − ``level``) / 2 is below the interval and as many are above it.

    Args:
        values: (N,), one for each photo. The photos should be independent of each other.
        level: the share of the means in the interval, between 0 and 1.
        resamples: how often the values are drawn again.
        seed: the same seed gives the same interval.

    Returns:
        The lower and the upper end. Both are NaN if N < 2, as a single photo does not show how photos differ, and if a
        value is not finite.

    Raises:
        ValueError: ``values`` has other dimensions, or ``level`` or ``resamples`` is out of its range.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not 0 < level < 1 or resamples < 1:
        raise ValueError(
            f"found values of shape {values.shape}, level {level}, resamples {resamples}; expected (N,), a level "
            "between 0 and 1, and at least one resample"
        )
    count = len(values)
    if count < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    at_once = max(1, _DRAWN // count)
    for start in range(0, resamples, at_once):
        part = means[start : start + at_once]
        part[:] = values[rng.integers(count, size=(len(part), count))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
