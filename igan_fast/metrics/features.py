"""How far apart two sets of images are, in the features of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["frechet_distance"]


def frechet_distance(features: NDArray[np.floating[Any]], others: NDArray[np.floating[Any]]) -> float:
    """Return the Fréchet distance of two Gaussians that have the means and covariances of two sets of features.

    |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½, in the square of the features' unit (Dowson and Landau 1982). With the
    features of an Inception network it is the FID (Heusel et al. 2017); with those of any other network it is not
    comparable with it. The fewer images there are, the larger it is: compare it only between sets of equal size.

    Args:
        features: (N, F). N may be smaller than F.
        others: (M, F).

    Returns:
        The distance, at least 0. NaN if a set has fewer than two rows, as it has no covariance then.

    Raises:
        ValueError: the shapes do not fit, or a feature is not finite.
    """
    first, second = np.asarray(features, np.float64), np.asarray(others, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"found features of shapes {first.shape} and {second.shape}; expected (N, F) and (M, F)")
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        raise ValueError("features: found NaN or infinite, expected finite numbers")
    if min(len(first), len(second)) < 2:
        return float("nan")
    mean, root = _gaussian(first)
    other_mean, other_root = _gaussian(second)
    # With Σ₁ = RᵀR and Σ₂ = SᵀS, the eigenvalues of Σ₁Σ₂ that are not 0 are the squares of the singular values of RSᵀ.
    # Unlike a square root of Σ₁Σ₂ itself, this needs no complex numbers and works for singular covariances.
    trace = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    apart = np.sum((mean - other_mean) ** 2) + np.sum(root**2) + np.sum(other_root**2) - 2 * trace
    return max(float(apart), 0.0)


def _gaussian(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean (F,), and a matrix R (·, F) such that RᵀR is the unbiased covariance."""
    mean = features.mean(axis=0)
    return mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1)
