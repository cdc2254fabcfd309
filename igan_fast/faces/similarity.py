"""Similarity transforms of the plane: scale, rotation and shift; and the one that maps landmarks onto others best."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Similarity", "fit_similarity"]


@dataclass(frozen=True)
class Similarity:
    """Maps a point z = x + iy to ``factor`` · z + ``shift``, without reflection.

    Coordinates are in pixels, x to the right and y down. They are continuous: the first pixel of an image covers x and
    y from 0 to 1, and its centre is (0.5, 0.5).
    """

    factor: complex = 1
    shift: complex = 0

    @property
    def scale(self) -> float:
        """By how much lengths grow."""
        return abs(self.factor)

    @property
    def angle(self) -> float:
        """The rotation in degrees, from −180 to 180; clockwise where it is positive, as y points down."""
        return math.degrees(cmath.phase(self.factor))

    def __call__(self, points: ArrayLike) -> NDArray[np.float64]:
        """Map points (..., 2)."""
        array = np.asarray(points, np.float64)
        mapped = self.factor * (array[..., 0] + 1j * array[..., 1]) + self.shift
        return np.stack([mapped.real, mapped.imag], axis=-1)

    def after(self, first: Similarity) -> Similarity:
        """The transform that applies ``first``, then this one."""
        return Similarity(self.factor * first.factor, self.factor * first.shift + self.shift)

    def inverse(self) -> Similarity:
        """The transform that undoes this one. Raises ``ZeroDivisionError`` if the scale is 0."""
        return Similarity(1 / self.factor, -self.shift / self.factor)

    def affine(self) -> tuple[float, float, float, float, float, float]:
        """The coefficients (a, b, c, d, e, f) of (x, y) ↦ (ax + by + c, dx + ey + f), as Pillow takes them."""
        cos, sin = self.factor.real, self.factor.imag
        return cos, -sin, self.shift.real, sin, cos, self.shift.imag


def fit_similarity(source: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None) -> Similarity:
    """Return the transform T that minimises Σ wᵢ · |T(sourceᵢ) − targetᵢ|².

    Args:
        source: points (K, 2), K at least 2.
        target: points (K, 2).
        weights: (K,), none negative; all 1 by default.

    Raises:
        ValueError: the shapes differ, fewer than two different points of ``source`` have a weight, a number is not
            finite, or T would map all points to one.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    w = np.ones(len(source)) if weights is None else np.asarray(weights, np.float64)
    if source.ndim != 2 or source.shape[1:] != (2,) or source.shape != target.shape or w.shape != source.shape[:1]:
        raise ValueError(f"found points {source.shape} and {target.shape} and weights {w.shape}, expected (K, 2), (K,)")
    if not w.sum() > 0:
        raise ValueError(f"weights: found a sum of {w.sum():g}, expected a positive one")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("source, target: found NaN or infinity, expected finite numbers")
    p, q = source[:, 0] + 1j * source[:, 1], target[:, 0] + 1j * target[:, 1]
    p_mean, q_mean = (w @ p) / w.sum(), (w @ q) / w.sum()
    spread = float(w @ np.abs(p - p_mean) ** 2)
    if not spread > 0:
        raise ValueError("source: found one point, expected at least two different points")
    factor = complex((w * np.conj(p - p_mean)) @ (q - q_mean) / spread)
    if abs(factor) < 1e-9:
        raise ValueError("target: found one point, expected at least two different points")
    return Similarity(factor, complex(q_mean - factor * p_mean))
