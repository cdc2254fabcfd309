"""The kernel distance of two sets of images in the features of a network: the KID, if it is an Inception network's."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["KID", "kid"]

#: The most images in a subset (Bińkowski et al. 2018).
SUBSET_SIZE = 1000

#: The number of rows of a kernel matrix that are computed at once.
_ROWS = 512


class KID(NamedTuple):
    """What ``kid`` returns."""

    value: float
    """The mean over the subsets; NaN if a set has fewer than two images."""
    low: float
    """The interval in which 95 % of the subsets' values are, from ``low`` to ``high``; NaN if there is only one subset,
    or if each has all the images of a set."""
    high: float
    subset_size: int
    """The number of images in each subset."""


def kid(
    features: NDArray[np.floating[Any]],
    others: NDArray[np.floating[Any]],
    *,
    subsets: int = 100,
    subset_size: int | None = None,
    seed: int = 0,
) -> KID:
    """Return the kernel distance of two sets of features (Bińkowski et al., "Demystifying MMD GANs", ICLR 2018).

    It is the squared maximum mean discrepancy with the kernel k(x, y) = (xᵀy / F + 1)³, by the unbiased estimate, as a
    mean over random subsets of both sets. Unlike the Fréchet distance it does not depend on the number of images. Two
    samples of the same distribution have a distance of 0 on average, so a single value can be negative. Only with the
    features of an Inception network is it the KID. With those of another network it is not comparable with the KID.

    The interval is that of the subsets' values. By default a subset is half of the set. The values of such subsets
    scatter about their mean as a value of all the images does about the true one (the delete-half jackknife, Shao and
    Wu 1989). Where more than 2,000 images limit a subset to 1,000, the interval is wider than that.

    Args:
        features: (N, F).
        others: (M, F).
        subsets: the number of subsets.
        subset_size: the number of images in each, at most min(N, M). By default half of min(N, M), at least 2 and at
            most 1,000.
        seed: the same seed gives the same subsets.

    Raises:
        ValueError: the shapes do not fit, a feature is not finite, or ``subsets`` or ``subset_size`` is out of range.
    """
    first, second = np.asarray(features, np.float64), np.asarray(others, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.shape[1]:
        raise ValueError(f"found features of shapes {first.shape} and {second.shape}; expected (N, F) and (M, F)")
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        raise ValueError("features: found NaN or infinite, expected finite numbers")
    if subsets < 1:
        raise ValueError(f"subsets: found {subsets}, expected at least 1")
    least = min(len(first), len(second))
    if subset_size is None:
        subset_size = min(max(least // 2, 2), SUBSET_SIZE)
        if least < 2:
            return KID(float("nan"), float("nan"), float("nan"), subset_size)
    if not 2 <= subset_size <= least:
        raise ValueError(f"subset_size: found {subset_size}, expected from 2 to {least}, the size of the smaller set")
    rng = np.random.default_rng(seed)
    chosen, chosen_others = (_subsets(len(rows), subset_size, subsets, rng) for rows in (first, second))
    within = sum(
        _kernel_sums(rows, rows, mask, mask) - mask @ _kernel_diagonal(rows)
        for rows, mask in ((first, chosen), (second, chosen_others))
    )
    between = _kernel_sums(first, second, chosen, chosen_others)
    values = within / (subset_size * (subset_size - 1)) - 2 * between / subset_size**2
    low, high = np.quantile(values, [0.025, 0.975])
    if subset_size == least or subsets == 1:
        low = high = float("nan")
    return KID(float(values.mean()), float(low), float(high), subset_size)


def _subsets(count: int, size: int, subsets: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return (subsets, count): 1 where a subset has the image, else 0."""
    mask = np.zeros((subsets, count))
    for row in mask:
        row[rng.choice(count, size, replace=False)] = 1
    return mask


def _kernel_sums(
    x: NDArray[np.float64], y: NDArray[np.float64], mask: NDArray[np.float64], other_mask: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return for each subset the sum of k(xᵢ, yⱼ) over its rows i of ``x`` and j of ``y``.

    The kernel is computed once for all subsets, a few rows at a time.
    """
    sums = np.zeros(len(mask))
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        sums += ((mask[:, rows] @ kernel) * other_mask).sum(axis=1)
    return sums


def _kernel_diagonal(x: NDArray[np.float64]) -> NDArray[np.float64]:
    diagonal: NDArray[np.float64] = ((x * x).sum(axis=1) / x.shape[1] + 1) ** 3
    return diagonal
