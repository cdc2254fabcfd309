"""Edits as labels: strength, and attributes that go along, against NumPy and cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from igan_fast.reference import Companions, IterativeGAN
from igan_fast.reference.editing import COMPANIONS_FROM, Amount, Edit, LabelCounts, edited_labels, label_counts

#: Male, Lipstick, Beard, Bangs in eight photos. Lipstick is rare with Male, beards are only there, bangs are with all.
LABELS = torch.tensor(
    [[1, 0, 1, 0], [1, 0, 1, 1], [1, 0, 0, 0], [1, 1, 0, 1], [0, 1, 0, 0], [0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]]
)


def random_labels(photos: int = 500, attributes: int = 12, seed: int = 0) -> np.ndarray:
    """0 and 1, from a few common causes, so that some attributes are correlated."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(photos, 3)) @ rng.normal(size=(3, attributes)) + rng.normal(size=(photos, attributes))
    return (scores > rng.normal(size=attributes)).astype(np.uint8)


def numpy_edit(
    c: np.ndarray, targets: dict[int, np.ndarray], covariance: np.ndarray, strength: float, least: float
) -> np.ndarray:
    """One photo and one attribute after the other, as the module's docstring says it."""
    edited = list(targets)
    with np.errstate(invalid="ignore"):  # constant attributes
        correlation = np.nan_to_num(covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance))))
    result = c.copy()
    for n in range(len(c)):
        moves = np.array([targets[a][n] - c[n, a] for a in edited])
        for j in range(c.shape[1]):
            takers = [k for k, a in enumerate(edited) if abs(correlation[a, j]) >= least]
            if j not in edited and takers:
                own = [edited[k] for k in takers]
                factors = np.linalg.pinv(covariance[np.ix_(own, own)], rcond=1e-10) @ covariance[own, j]
                result[n, j] = np.clip(c[n, j] + factors @ moves[takers], 0, 1)
        for a in edited:
            result[n, a] = (1 + strength * (2 * targets[a][n] - 1)) / 2
    return result


def test_a_case_by_hand() -> None:
    # Male is in 4 of 8 photos: variance 1/4. With Lipstick (4 of 8) it is in 1: 1/8 − 1/4 = −1/8, factor −1/2,
    # correlation −1/2. With Beard (2 of 8) in 2: 2/8 − 1/8 = 1/8, factor 1/2, correlation 1/8 / √(1/4 · 3/16) = 0.577.
    # With Bangs (4 of 8) in 2: covariance 0.
    companions = Companions.of_labels(LABELS)
    assert companions.covariance[0].tolist() == [0.25, -0.125, 0.125, 0]
    assert companions.correlation[0].tolist() == pytest.approx([1, -0.5, 1 / 3**0.5, 0])
    assert companions.weights([0]).tolist() == [[0, -0.5, 0.5, 0]]
    c = torch.tensor([[0.25, 0.75, 0.125, 0.5], [0.0, 0.25, 0.75, 1.0]])
    edited = edited_labels(c, {0: 1.0}, strength=1.5, companions=companions)
    # Male moves by 0.75 and by 1. The second row would go to −0.25 and 1.25 and is clipped.
    assert edited.tolist() == [[1.25, 0.375, 0.5, 0.5], [1.25, 0.0, 1.0, 1.0]]


def test_what_is_left_out_is_the_papers_edit() -> None:
    c = torch.rand(64, 4)
    expected = c.clone()
    expected[:, 1] = 0.3
    expected[:, 2] = (c[:, 2] < 0.5).float()
    before = c.clone()
    for found in (edited_labels(c, {1: 0.3, 2: "flip"}), edited_labels(c, {1: 0.3, 2: "flip"}, strength=1)):
        assert torch.equal(found, expected)
    assert torch.equal(c, before)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(0, 0.25), (1, 1), (-1, 0), (2, 1.5), (-2, -0.5), (0.5, 0.625), (-0.5, 0.125), (1.5, 1.25), (-3, -1)],
)
def test_an_amount_starts_from_what_is_recognised(amount: float, expected: float) -> None:
    c = torch.tensor([[0.25, 0.75, 0.125, 0.5]])
    for strength in (0, 1, 1.7):
        found = edited_labels(c, {0: Amount(amount)}, strength=strength)
        assert found.tolist() == [[expected, 0.75, 0.125, 0.5]]


def test_companions_follow_an_amount_as_far_as_the_label_goes() -> None:
    """Lipstick moves by −1/2 and Beard by 1/2 of what Male moves; Male moves to 1 at most for them."""
    companions = Companions.of_labels(LABELS)
    c = torch.tensor([[0.25, 0.75, 0.125, 0.5]])

    def edited(amount: float) -> list[float]:
        return edited_labels(c, {0: Amount(amount)}, strength=0.3, companions=companions)[0].tolist()

    assert edited(0) == c[0].tolist()
    assert edited(0.5) == [0.625, 0.5625, 0.3125, 0.5]
    assert edited(1) == [1, 0.375, 0.5, 0.5]
    assert edited(2) == [1.5, 0.375, 0.5, 0.5]
    assert edited(-2) == [-0.5, 0.875, 0, 0.5]


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_the_amounts_one_and_two_are_values_of_these_strengths(value: float) -> None:
    companions = Companions.of_labels(torch.from_numpy(random_labels()))
    c = torch.rand(9, 12, dtype=torch.float64)
    sign = 1 if value else -1
    for strength in (1, 1.5, 2):
        expected = edited_labels(c, {1: value, 4: "flip"}, strength=strength, companions=companions)
        found = edited_labels(c, {1: Amount(sign * strength), 4: "flip"}, strength=strength, companions=companions)
        torch.testing.assert_close(found, expected, atol=1e-15, rtol=0)


@pytest.mark.parametrize("edited", [[0], [5], [2, 7], [7, 2], [0, 3, 4, 11], list(range(12))])
@pytest.mark.parametrize("least", [0.0, COMPANIONS_FROM, 1.0])
def test_several_edits_against_numpy(edited: list[int], least: float) -> None:
    labels = random_labels()
    labels[:, 3] = 1  # constant
    labels[:, 9] = labels[:, 2]  # equal
    companions = Companions.of_labels(torch.from_numpy(labels), least=least)
    covariance = np.cov(labels.T.astype(float), bias=True)
    np.testing.assert_allclose(companions.covariance, covariance, atol=1e-12)
    c = np.random.default_rng(1).random((6, 12))
    c[0, 0] = 0.5  # which a flip sets to 0
    changes = {a: ("flip", 1.0, 0.0, 0.4)[k % 4] for k, a in enumerate(edited)}
    targets = {a: (c[:, a] < 0.5) * 1.0 if v == "flip" else np.full(6, v) for a, v in changes.items()}
    found = edited_labels(torch.from_numpy(c), changes, strength=1.7, companions=companions)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, numpy_edit(c, targets, covariance, 1.7, least), atol=1e-9)


def test_the_least_correlation_is_included() -> None:
    exactly = torch.tensor([[1.0, 0.5, -0.5], [0.5, 1.0, 0.0], [-0.5, 0.0, 1.0]])
    assert Companions(exactly, least=0.5).weights([0]).tolist() == [[0, 0.5, -0.5]]
    assert Companions(exactly, least=0.51).weights([0]).tolist() == [[0, 0, 0]]


def test_what_goes_along_with_one_does_not_depend_on_a_change_that_it_does_not_go_along_with() -> None:
    """Bangs hang together with Lipstick a little, but less than ``least``."""
    labels = LABELS.clone()
    labels[6, 3] = 1
    companions = Companions.of_labels(labels)
    assert 0 < companions.correlation[1, 3].abs() < COMPANIONS_FROM
    together = companions.weights([0, 3])
    assert torch.equal(together[0], companions.weights([0])[0] * torch.tensor([0, 1, 1, 0]))
    assert together[1].tolist() == [0, 0, 0, 0]


def test_constant_and_equal_attributes() -> None:
    labels = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 1], [1, 1, 1, 0, 1], [0, 0, 1, 1, 1]])
    companions = Companions.of_labels(labels)  # 0 and 1 are equal, 3 is their opposite, 2 and 4 are constant
    assert torch.equal(companions.correlation[2], torch.zeros(5, dtype=torch.float64))
    c = torch.tensor([[0.25, 0.5, 0.125, 0.5, 0.875]])
    assert edited_labels(c, {0: 1}, companions=companions).tolist() == [[1, 1, 0.125, 0, 0.875]]
    assert edited_labels(c, {2: 0}, companions=companions).tolist() == [[0.25, 0.5, 0, 0.5, 0.875]]
    # Two equal ones: the two moves, 0.75 and 0.5, share what the third does: −0.625.
    both = edited_labels(torch.tensor([[0.25, 0.5, 0.125, 0.75, 0.875]]), {0: 1, 1: 1}, companions=companions)
    torch.testing.assert_close(both, torch.tensor([[1, 1, 0.125, 0.125, 0.875]]))


def test_nearly_equal_attributes_are_told_apart() -> None:
    """They differ in one of 200,000 photos, which is no rounding."""
    labels = torch.zeros(200_000, 3, dtype=torch.uint8)
    labels[:100_000] = 1
    labels[0, 1] = 0
    labels[0, 2] = 0
    weights = Companions.of_labels(labels).weights([0, 1])
    torch.testing.assert_close(weights[:, 2], torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    companions = Companions.of_labels(torch.from_numpy(random_labels()))
    c = torch.rand(9, 12, dtype=torch.float64)
    expected = edited_labels(c.to(dtype).double(), {1: "flip", 4: 0.25}, strength=1.5, companions=companions)
    found = edited_labels(c.to(dtype), {1: "flip", 4: 0.25}, strength=1.5, companions=companions)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=8 * torch.finfo(dtype).eps, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_labels_on_a_gpu_stay_there() -> None:
    companions = Companions.of_labels(LABELS.cuda())
    c = torch.rand(3, 4)
    found = edited_labels(c.cuda(), {0: "flip"}, strength=1.5, companions=companions)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), edited_labels(c, {0: "flip"}, strength=1.5, companions=companions))


def test_one_attribute_no_photo_and_no_change() -> None:
    alone = Companions.of_labels(torch.tensor([[0], [1], [1]]))
    assert alone.covariance.tolist() == [[pytest.approx(2 / 9)]]
    assert edited_labels(torch.tensor([[0.25]]), {0: "flip"}, strength=2, companions=alone).tolist() == [[1.5]]
    assert Companions.of_labels(torch.tensor([[1]])).correlation.tolist() == [[0]]
    companions = Companions.of_labels(LABELS)
    assert edited_labels(torch.rand(0, 4), {0: 1}, companions=companions).shape == (0, 4)
    assert companions.weights([]).shape == (0, 4)
    c = torch.rand(2, 4)
    same = edited_labels(c, {}, strength=3, companions=companions)
    assert torch.equal(same, c)
    assert same.data_ptr() != c.data_ptr()


def test_labels_that_are_strided_and_the_gradient() -> None:
    companions = Companions.of_labels(LABELS)
    c = torch.tensor([[0.5, 0.0], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]).T  # (2, 4), not contiguous
    leaf = c.clone(memory_format=torch.preserve_format).requires_grad_()
    assert not leaf.is_contiguous()
    found = edited_labels(leaf, {0: 1.0}, companions=companions)
    assert torch.equal(found.detach(), edited_labels(c.contiguous(), {0: 1.0}, companions=companions))
    found.sum().backward()
    # Through its companions, the edited attribute has a gradient of 1/2 − 1/2 in the first row. In the second both
    # would leave [0, 1], and are clipped.
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32])
def test_counts(dtype: torch.dtype) -> None:
    labels = random_labels(77, 5)
    counts = label_counts(torch.from_numpy(labels).to(dtype))
    assert counts.photos == 77
    assert counts.together.dtype == torch.int64
    for i in range(5):
        for j in range(5):
            assert counts.together[i, j] == sum(int(row[i]) and int(row[j]) for row in labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(0, 3), r"labels: found the shape \(0, 3\), expected \(N, A\) with N at least 1"),
        (torch.zeros(3), r"labels: found the shape \(3,\)"),
        (torch.tensor([[0, 0.5]]), "labels: found 0.5, expected 0 and 1"),
        (torch.tensor([[-1, 1]]), "labels: found -1, expected 0 and 1"),
        (torch.tensor([[0, float("nan")]]), "labels: found nan, expected 0 and 1"),
    ],
)
def test_labels_that_cannot_be_counted(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_counts(labels)


@pytest.mark.parametrize(
    ("photos", "together", "message"),
    [
        (0, [[0]], "photos: found 0, expected at least 1"),
        (4, [[5]], "together: attribute 0 is in 5 of 4 photos"),
        (4, [[2, 0], [0, -1]], "together: attribute 1 is in -1 of 4 photos"),
        (4, [[2, 1], [0, 2]], "together in 1 or 0"),
        (4, [[2, 3], [3, 4]], "attributes 0 and 1 are in 2 and 4 of 4 photos, and together in 3"),
        (4, [[3, 1], [1, 3]], "together in 1"),  # two groups of 3 among 4 share at least 2
        (2**62, [[2**62, 0], [0, 2**62]], "together in 0"),
        (4, [[1, 0]], r"together: found torch.int64 \(1, 2\), expected torch.int64 \(A, A\)"),
        (4, [1], r"together: found torch.int64 \(1,\)"),
        (4, [[1.0]], r"together: found torch.float32 \(1, 1\)"),
    ],
)
def test_counts_that_no_photos_have(photos: int, together: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Companions.of_counts(LabelCounts(photos, torch.tensor(together)))


def test_counts_of_the_largest_numbers() -> None:
    half = 2**61
    companions = Companions.of_counts(LabelCounts(2 * half, torch.tensor([[half, 0], [0, half]])))
    assert companions.correlation.tolist() == [[1, -1], [-1, 1]]


@pytest.mark.parametrize(
    ("covariance", "least", "message"),
    [
        ([[1.0, 0.5]], 0.3, r"covariance: found the shape \(1, 2\), expected \(A, A\)"),
        ([1.0], 0.3, r"covariance: found the shape \(1,\)"),
        ([[float("nan")]], 0.3, "covariance: found NaN or infinity"),
        ([[float("inf")]], 0.3, "covariance: found NaN or infinity"),
        ([[1.0, 0.5], [0.25, 1.0]], 0.3, "not symmetric"),
        ([[-1.0]], 0.3, "negative variance"),
        ([[1.0, 2.0], [2.0, 1.0]], 0.3, "a correlation beyond"),
        ([[1.0, 0.5], [0.5, 0.0]], 0.3, "a correlation beyond"),
        ([[1.0]], 1.5, "least: found 1.5, expected from 0 to 1"),
        ([[1.0]], -0.1, "least: found -0.1"),
        ([[1.0]], float("nan"), "least: found nan"),
    ],
)
def test_what_is_no_covariance(covariance: list[object], least: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Companions(torch.tensor(covariance), least=least)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_a_covariance_of_numpys_is_accepted(dtype: type) -> None:
    labels = random_labels(2000)
    labels[:, 1] = labels[:, 0]
    covariance = torch.from_numpy(np.cov(labels.T.astype(float), bias=True).astype(dtype))
    exact = Companions.of_labels(torch.from_numpy(labels))
    torch.testing.assert_close(Companions(covariance).correlation, exact.correlation, atol=4e-3, rtol=0)


@pytest.mark.parametrize(
    ("changes", "strength", "message"),
    [
        ({4: 1.0}, 1.0, "attribute 4 is out of range; the model has 4"),
        ({-1: 1.0}, 1.0, "attribute -1 is out of range"),
        ({0: 1.5}, 1.0, "attribute 0 is set to 1.5"),
        ({0: float("nan")}, 1.0, "attribute 0 is set to nan"),
        ({2: Amount(float("inf"))}, 1.0, "attribute 2 is moved by inf; expected a finite number"),
        ({0: 1.0}, -0.5, "strength: found -0.5, expected a finite number, at least 0"),
        ({0: 1.0}, float("nan"), "strength: found nan"),
        ({}, float("inf"), "strength: found inf"),
    ],
)
def test_edits_that_cannot_be(changes: dict[int, Edit], strength: float, message: str) -> None:
    for companions in (None, Companions.of_labels(LABELS)):
        with pytest.raises(ValueError, match=message):
            edited_labels(torch.rand(2, 4), changes, strength=strength, companions=companions)


def test_companions_of_another_model() -> None:
    with pytest.raises(ValueError, match="companions: found those of 4 attributes, expected 3"):
        edited_labels(torch.rand(2, 3), {0: 1.0}, companions=Companions.of_labels(LABELS))


def test_the_models_transform() -> None:
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, attributes=4, latent=6, width=4).eval()
    companions = Companions.of_labels(LABELS)
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    z, logits = model.encode(x)
    c = edited_labels(logits.sigmoid(), {0: "flip"}, strength=1.5, companions=companions)
    found = model.transform(x, {0: "flip"}, strength=1.5, companions=companions)
    torch.testing.assert_close(found, model.generate(z, c), atol=0, rtol=0)
    for other in ({}, {"strength": 1.5}, {"companions": companions}):
        assert not torch.equal(model.transform(x, {0: "flip"}, **other), found)  # type: ignore[arg-type]


def test_a_weak_edit_moves_its_companions_as_weakly() -> None:
    """Attribute 1 is the opposite of attribute 0: at strength s ≤ 1 both end on the line between them."""
    companions = Companions.of_labels([[0, 1], [1, 0], [0, 1], [1, 0]])
    c = torch.tensor([[0.1, 0.9]], dtype=torch.float64)
    for strength, expected in {0.0: 0.5, 0.4: 0.7, 1.0: 1.0, 1.5: 1.25}.items():
        edited, companion = edited_labels(c, {0: 1.0}, strength=strength, companions=companions)[0].tolist()
        assert edited == pytest.approx(expected)
        assert companion == pytest.approx(1 - min(expected, 1.0))


def test_labels_may_be_an_array_or_a_list() -> None:
    rows = [[0, 1], [1, 0], [1, 1]]
    of_list, of_array, of_tensor = (Companions.of_labels(kind(rows)) for kind in (list, np.array, torch.tensor))
    assert torch.equal(of_list.covariance, of_tensor.covariance)
    assert torch.equal(of_array.covariance, of_tensor.covariance)
