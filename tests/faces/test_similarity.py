"""Similarity transforms against cases computed by hand and NumPy's least squares."""

from __future__ import annotations

import numpy as np
import pytest

from igan_fast.faces import Similarity, fit_similarity
from igan_fast.faces.detector import Detection, placement

SQUARE = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])


def test_a_quarter_turn_by_hand() -> None:
    turn = Similarity(3j, complex(10, 20))  # 3 times larger, x to where y was: clockwise on a screen
    np.testing.assert_allclose(turn([[0, 0], [1, 0], [0, 1]]), [[10, 20], [10, 23], [7, 20]])
    assert turn.scale == 3
    assert turn.angle == pytest.approx(90)
    assert turn.affine() == (0, -3, 10, 3, 0, 20)


@pytest.mark.parametrize("degrees", [-179, -30, 0, 45, 120])
def test_inverse_and_composition(degrees: float) -> None:
    points = np.random.default_rng(0).normal(size=(3, 4, 2))
    first = Similarity(1.7 * np.exp(1j * np.deg2rad(degrees)), 3 - 2j)
    second = Similarity(0.3 - 0.2j, -5 + 1j)
    assert first.angle == pytest.approx(degrees)
    np.testing.assert_allclose(first.inverse()(first(points)), points)
    np.testing.assert_allclose(second.after(first)(points), second(first(points)))
    a, b, c, d, e, f = first.affine()
    x, y = points[..., 0], points[..., 1]
    np.testing.assert_allclose(first(points), np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1))


def test_the_exact_transform_is_found() -> None:
    expected = Similarity(0.8 + 0.6j, 40 - 7j)
    for weights in (None, [1, 2, 3, 4], [1, 0, 0, 5]):
        found = fit_similarity(SQUARE, expected(SQUARE), weights)
        assert found.factor == pytest.approx(expected.factor)
        assert found.shift == pytest.approx(expected.shift)


def test_a_transform_by_hand() -> None:
    """One of two points is where it should be, the other is off: each is met half way, along the line."""
    found = fit_similarity([[0, 0], [2, 0]], [[0, 0], [4, 0]])
    assert (found.factor, found.shift) == (2, 0)
    found = fit_similarity(SQUARE, SQUARE + np.array([[0, 0], [1, 0], [1, 0], [0, 0]]))
    assert found.factor == pytest.approx(1.25)  # stretched in x alone: half of it goes to the scale
    assert found.shift == pytest.approx(complex(0.25, -0.25))


def test_least_squares_against_numpy() -> None:
    rng = np.random.default_rng(1)
    source, target, weights = rng.normal(size=(7, 2)), rng.normal(size=(7, 2)), rng.uniform(0, 2, 7)
    x, y = source.T
    zero, one = np.zeros(7), np.ones(7)
    rows = np.concatenate([np.stack([x, -y, one, zero], axis=1), np.stack([y, x, zero, one], axis=1)])
    root = np.sqrt(np.tile(weights, 2))
    (a, b, c, d), *_ = np.linalg.lstsq(rows * root[:, None], target.T.ravel() * root, rcond=None)
    found = fit_similarity(source, target, weights)
    np.testing.assert_allclose(
        [found.factor.real, found.factor.imag, found.shift.real, found.shift.imag], [a, b, c, d], atol=1e-12
    )


@pytest.mark.parametrize(
    ("source", "target", "weights"),
    [
        ([[1, 1], [1, 1]], [[0, 0], [1, 1]], None),
        ([[0, 0], [1, 1]], [[0, 0], [1, 1]], [1, 0]),
        ([[0, 0], [1, 1]], [[0, 0], [1, 1]], [0, 0]),
        ([[0, 0], [np.nan, 1]], [[0, 0], [1, 1]], None),
        ([[0, 0], [1, 1]], [[0, 0], [np.inf, 1]], None),
        ([[0, 0], [1, 1]], [[4, 5], [4, 5]], None),
        ([[0, 0], [1, 1]], [[0, 0]], None),
        ([[0, 0], [1, 1]], [[0, 0], [1, 1]], [1]),
    ],
)
def test_points_that_decide_nothing_are_refused(source: object, target: object, weights: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        fit_similarity(source, target, weights)  # type: ignore[arg-type]


def test_landmarks_at_their_places_give_the_identity() -> None:
    class Known:
        template = np.array([[69.0, 111], [108, 111], [88, 135]])
        weights = np.array([1.0, 1, 0])

    found = placement(Known(), Detection(Known.template * 2 + np.array([5, 7]), 1.0))  # type: ignore[arg-type]
    np.testing.assert_allclose(found([[0, 0], [178, 218]]), [[5, 7], [361, 443]])
    nose = Known.template + np.array([[0, 0], [0, 0], [30, -30]])  # it has no weight
    assert placement(Known(), Detection(nose, 1.0)).factor == pytest.approx(1)  # type: ignore[arg-type]
