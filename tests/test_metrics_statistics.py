"""The Fréchet distance and bootstrap intervals."""

import numpy as np
import pytest
from numpy.typing import NDArray

from igan_fast.metrics import bootstrap, bootstrap_interval, frechet_distance


def sample(mean: NDArray[np.float64], covariance: NDArray[np.float64], count: int, seed: int) -> NDArray[np.float64]:
    """Rows that have exactly this mean and (unbiased) covariance."""
    noise = np.random.default_rng(seed).normal(size=(count, len(mean)))
    noise -= noise.mean(axis=0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T, ddof=1))).T
    rows: NDArray[np.float64] = white @ np.linalg.cholesky(covariance).T + mean
    return rows


def test_frechet_distance_of_gaussians_with_the_same_axes() -> None:
    """The closed form is |μ₁ − μ₂|² + Σ (σ₁ − σ₂)²; also in a rotated space."""
    first, second = np.array([1.0, 2.0, 0.5]), np.array([3.0, 2.0, 0.1])
    means = np.array([0.0, 1.0, -2.0]), np.array([0.5, 1.0, -1.0])
    expected = 0.25 + 1.0 + np.sum((first - second) ** 2)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    for axes in (np.eye(3), turn):
        a, b = (
            sample(mean @ axes, axes.T @ np.diag(deviation**2) @ axes, 50 + seed, seed)
            for seed, (mean, deviation) in enumerate(zip(means, (first, second), strict=True))
        )
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
        assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [3, 400])  # fewer rows than features, and more
def test_frechet_distance_by_the_square_root_of_the_product(count: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(count, 20)) @ rng.normal(size=(20, 20))
    b = rng.normal(size=(count + 5, 20)) + 0.3
    first, second = np.cov(a.T, ddof=1), np.cov(b.T, ddof=1)
    roots = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real.sum()
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(first) + np.trace(second) - 2 * roots
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_by_the_root_of_the_product() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 8)), rng.normal(size=(200, 8)) * 2 + 1
    first, second = np.cov(a.T, ddof=1), np.cov(b.T, ddof=1)
    root, inverse = first @ second, np.eye(8)
    for _ in range(30):  # the iteration of Denman and Beavers
        root, inverse = (root + np.linalg.inv(inverse)) / 2, (inverse + np.linalg.inv(root)) / 2
    np.testing.assert_allclose(root @ root, first @ second, rtol=1e-8, atol=1e-10)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(first + second - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_from_itself_is_0_and_from_a_shift_is_its_square() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    features[:, 3] = 7.0  # a feature that is constant
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(features, features + np.float32(2)) == pytest.approx(6 * 4, rel=1e-5)
    assert frechet_distance(features[:2], features[:2]) >= 0


def test_frechet_distance_of_one_feature_given_as_a_view() -> None:
    wide = np.random.default_rng(0).normal(size=(30, 4))
    a, b = wide[:, 1:2], 3 * wide[::2, 2:3]
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_there_is_no_frechet_distance_from_a_single_image_or_none() -> None:
    features = np.zeros((5, 2))
    for count in (0, 1):
        assert np.isnan(frechet_distance(features[:count], features))
        assert np.isnan(frechet_distance(features, features[:count]))


def test_frechet_distance_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="found features of shapes"):
        frechet_distance(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="found NaN or infinite"):
        frechet_distance(np.array([[1.0], [np.inf]]), np.zeros((3, 1)))


def test_on_a_large_sample_the_interval_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(5).exponential(size=4000)
    for level, deviations in ((0.95, 1.95996), (0.5, 0.67449)):
        low, high = bootstrap_interval(values, level=level)
        half = deviations * values.std(ddof=1) / np.sqrt(len(values))
        assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
        assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_the_interval_of_two_values_by_hand() -> None:
    # The mean of two draws from 0 and 1 is 0, ½ or 1, with probabilities ¼, ½ and ¼.
    values = np.array([0, 1], np.float32)
    assert bootstrap_interval(values) == (0, 1)
    assert bootstrap_interval(values, level=0.3) == (0.5, 0.5)


def test_intervals_are_decided_by_the_seed_and_not_by_how_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).normal(size=37)[::-1]
    first = bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != first
    assert bootstrap_interval(values, resamples=10) != first
    for drawn in (1, 100):
        monkeypatch.setattr(bootstrap, "_DRAWN", drawn)
        assert bootstrap_interval(values) == first


def test_there_is_no_interval_of_one_value_or_of_what_is_no_number() -> None:
    for values in ([], [0.5], [0.5, np.nan], [0.5, np.inf]):
        assert np.isnan(bootstrap_interval(np.array(values))).all()
    assert bootstrap_interval(np.array([0.5, 0.5])) == (0.5, 0.5)


def test_bootstrap_refuses_what_does_not_fit() -> None:
    for values, options in ((np.zeros((2, 2)), {}), (np.zeros(2), {"level": 1}), (np.zeros(2), {"resamples": 0})):
        with pytest.raises(ValueError, match="found values of shape"):
            bootstrap_interval(values, **options)  # type: ignore[arg-type]
