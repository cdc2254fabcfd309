"""The kernel distance against loops, and against torchmetrics' functions for the KID."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.image.kid import poly_mmd

from igan_fast.metrics import kid as kid_module
from igan_fast.metrics.kid import kid

Features = NDArray[np.floating]


def by_torchmetrics(features: Features, others: Features) -> float:
    tensors = (torch.from_numpy(np.ascontiguousarray(rows, np.float64)) for rows in (features, others))
    return float(poly_mmd(*tensors))


def mean_kernel(pairs: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> float:
    return float(np.mean([(float(np.dot(x, y)) / len(x) + 1) ** 3 for x, y in pairs]))


def test_two_images_by_hand() -> None:
    # One feature: k(0, 1) = 1, k(2, −1) = (−2 + 1)³ = −1; across: k(0, 2) = k(0, −1) = 1, k(1, 2) = 27, k(1, −1) = 0.
    found = kid(np.array([[0.0], [1.0]]), np.array([[2.0], [-1.0]]))
    assert found.value == pytest.approx(1 + -1 - 2 * (1 + 1 + 27 + 0) / 4)
    assert np.isnan([found.low, found.high]).all()
    assert found.subset_size == 2


@pytest.mark.parametrize("count", [2, 3, 40])
@pytest.mark.parametrize("size", [1, 7, 300])
def test_whole_sets_by_torchmetrics_and_by_loops(count: int, size: int) -> None:
    rng = np.random.default_rng(count * size)
    first, second = rng.normal(size=(count, size)), rng.normal(size=(count, size)) * 2 + 0.5
    found = kid(first, second, subset_size=count, subsets=3)
    assert found.value == pytest.approx(by_torchmetrics(first, second), rel=1e-10)
    assert found.value == pytest.approx(
        mean_kernel(itertools.permutations(first, 2))
        + mean_kernel(itertools.permutations(second, 2))
        - 2 * mean_kernel(itertools.product(first, second)),
        rel=1e-9,
    )
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_of_any_type_in_any_layout(dtype: type) -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(60, 10)).astype(dtype)
    first, second = wide[::3, 1:8:2], np.asfortranarray(wide[1::3, ::-1][:, 1:8:2])
    assert kid(first, second, subset_size=20).value == pytest.approx(by_torchmetrics(first, second), rel=1e-9)


def test_rows_at_once_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(31, 5)), rng.normal(size=(23, 5)) + 1
    expected = kid(first, second)
    for rows in (1, 7, 31):
        monkeypatch.setattr(kid_module, "_ROWS", rows)
        np.testing.assert_allclose(kid(first, second), expected, rtol=1e-10)


def test_each_value_is_that_of_one_subset_of_each_set() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(4, 2)), rng.normal(size=(4, 2)) + 2
    possible = [
        by_torchmetrics(first[list(a)], second[list(b)])
        for a in itertools.combinations(range(4), 2)
        for b in itertools.combinations(range(4), 2)
    ]
    singles = [kid(first, second, subsets=1, subset_size=2, seed=seed).value for seed in range(60)]
    assert all(np.isclose(value, possible).any() for value in singles)
    assert len({round(value, 9) for value in singles}) > 20
    many = kid(first, second, subsets=20_000, subset_size=2)
    assert many.value == pytest.approx(by_torchmetrics(first, second), abs=0.03 * np.std(possible))
    assert many.low == pytest.approx(np.quantile(possible, 0.025), rel=0.05)
    assert many.high == pytest.approx(np.quantile(possible, 0.975), rel=0.05)


def test_a_subset_has_half_of_the_smaller_set() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2400, 2))
    for count, others, expected in ((2, 2, 2), (3, 9, 2), (5, 4, 2), (9, 300, 4), (400, 41, 20), (2400, 2300, 1000)):
        assert kid(rows[:count], rows[:others], subsets=2).subset_size == expected


def test_the_interval_holds_the_true_distance() -> None:
    """Of two normal distributions, from 60 samples of each: an interval of 95 %."""
    rng = np.random.default_rng(0)
    size, shift = 16, 0.4
    true = np.mean(
        [by_torchmetrics(rng.normal(size=(1000, size)), rng.normal(size=(1000, size)) + shift) for _ in range(10)]
    )
    found = [kid(rng.normal(size=(60, size)), rng.normal(size=(60, size)) + shift) for _ in range(120)]
    assert 0.88 <= np.mean([each.low <= true <= each.high for each in found]) <= 0.995
    assert np.mean([each.value for each in found]) == pytest.approx(true, rel=0.1)


def test_the_same_distribution_has_no_distance_on_average() -> None:
    rng = np.random.default_rng(0)
    values = [kid(rng.normal(size=(30, 8)), rng.normal(size=(50, 8))).value for _ in range(100)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / 10


def test_identical_sets_and_constant_features() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3))
    assert kid(rows, rows, subset_size=20).value == pytest.approx(by_torchmetrics(rows, rows))
    assert kid(np.ones((6, 3)), np.ones((6, 3)))[:3] == pytest.approx((0, 0, 0))
    # k(1, 1) = 8, k(0, ·) = 1: 8 + 1 − 2
    assert kid(np.ones((6, 3)), np.zeros((6, 3)))[:3] == pytest.approx((7, 7, 7))


def test_the_seed_decides() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3))
    assert kid(rows, rows + 1) == kid(rows, rows + 1, seed=0)
    assert kid(rows, rows + 1) != kid(rows, rows + 1, seed=1)


@pytest.mark.parametrize("counts", [(0, 5), (1, 5), (5, 1), (0, 0)])
def test_without_two_images_there_is_no_distance(counts: tuple[int, int]) -> None:
    found = kid(np.zeros((counts[0], 4)), np.zeros((counts[1], 4)))
    assert np.isnan(found[:3]).all()


def test_what_does_not_fit_is_refused() -> None:
    rows = np.zeros((5, 2))
    for features, others in ((rows, np.zeros((5, 3))), (rows[0], rows), (rows, rows[None]), (rows[:, :0], rows[:, :0])):
        with pytest.raises(ValueError, match="found features of shapes"):
            kid(features, others)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="found NaN or infinite"):
            kid(rows, np.full((5, 2), bad))
    for size in (1, 6):
        with pytest.raises(ValueError, match=f"subset_size: found {size}, expected from 2 to 5"):
            kid(rows, np.zeros((9, 2)), subset_size=size)
    with pytest.raises(ValueError, match="subsets: found 0"):
        kid(rows, rows, subsets=0)
