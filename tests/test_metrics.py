import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from igan_fast.data import to_float
from igan_fast.metrics import (
    attribute_scores,
    balanced_thresholds,
    box_blur,
    grain,
    hamming_loss,
    image_quality,
    majority_labels,
    quick_validation,
)
from igan_fast.reference import IterativeGAN

TRUTH = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]])
GUESS = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_hamming_loss_counts_wrong_answers() -> None:
    assert hamming_loss(GUESS, TRUTH) == 3 / 12
    assert hamming_loss(TRUTH, TRUTH) == 0
    assert hamming_loss(1 - TRUTH, TRUTH) == 1
    assert hamming_loss(np.array([[True]]), np.array([[0]])) == 1


def test_attribute_scores_by_hand() -> None:
    # Attribute 0: TP 1, FN 1, FP 1, TN 1. Attribute 1 never occurs: FP 1, TN 3. Attribute 2 neither occurs nor is seen.
    scores = attribute_scores(GUESS, TRUTH)
    np.testing.assert_allclose(scores.accuracy, [0.5, 0.75, 1.0])
    np.testing.assert_allclose(scores.balanced_accuracy, [0.5, 0.75, 1.0])
    np.testing.assert_allclose(scores.f1, [0.5, 0.0, np.nan])
    np.testing.assert_allclose(scores.recall_present, [0.5, np.nan, np.nan])
    np.testing.assert_allclose(scores.recall_absent, [0.5, 0.75, 1.0])


def test_balanced_accuracy_weighs_a_rare_class_as_much() -> None:
    truth = np.array([[1]] + [[0]] * 9)
    scores = attribute_scores(np.zeros((10, 1)), truth)
    np.testing.assert_allclose([scores.accuracy, scores.balanced_accuracy, scores.f1], [[0.9], [0.5], [0.0]])
    # recall of "present" 1, of "absent" 6/9; TP 1, FP 3
    scores = attribute_scores(np.array([[1]] * 4 + [[0]] * 6), truth)
    np.testing.assert_allclose([scores.balanced_accuracy, scores.f1], [[(1 + 6 / 9) / 2], [2 / 5]])


def test_scores_of_one_image() -> None:
    scores = attribute_scores(np.array([[1, 0]]), np.array([[1, 1]]))
    np.testing.assert_allclose([scores.accuracy, scores.balanced_accuracy, scores.f1], [[1, 0], [1, 0], [1, 0]])


@pytest.mark.parametrize("shapes", [((3, 2), (3, 1)), ((3,), (3,)), ((0, 2), (0, 2)), ((3, 0), (3, 0))])
def test_labels_of_other_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    for score in (hamming_loss, attribute_scores):
        with pytest.raises(ValueError, match="found labels of shapes"):
            score(np.zeros(shapes[0]), np.zeros(shapes[1]))


@pytest.mark.parametrize("wrong", [-1.0, 0.5, 2.0, np.nan])
def test_labels_other_than_0_and_1_are_refused(wrong: float) -> None:
    """Such as those of CelebA's own files: −1 would count as present."""
    good = np.array([[0.0, 1.0], [1.0, 0.0]])
    bad = np.where(good == 0, wrong, good)
    for score in (hamming_loss, attribute_scores):
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(ValueError, match=f"labels: found {wrong:g}, expected 0 and 1"):
                score(*pair)
    for labels_only in (majority_labels, lambda labels: balanced_thresholds(good, labels)):
        with pytest.raises(ValueError, match=f"labels: found {wrong:g}"):
            labels_only(bad)


def test_majority_is_more_than_half() -> None:
    labels = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], np.uint8)
    assert majority_labels(labels).tolist() == [True, False, False, False]


def threshold(present: list[float], absent: list[float]) -> float:
    """The balanced threshold, from the scores of the images with the attribute and of those without it."""
    scores = np.array([*present, *absent])[:, None]
    (found,) = balanced_thresholds(scores, np.array([1] * len(present) + [0] * len(absent))[:, None])
    return float(found)


@pytest.mark.parametrize(
    ("present", "absent", "expected"),
    [
        ([0.8, 0.9], [0.1, 0.2], 0.5),  # no errors between 0.2 and 0.8
        ([0.3, 0.8], [0.1, 0.4], 0.35),  # between 0.3 and 0.4 both rates are 1/2
        ([0.9], [0.1, 0.2, 0.95, 0.3], 0.6),  # 0 and 1/4; from 0.9 on 1 and 1/4
        ([0.1, 0.2], [0.8, 0.9], 0.5),  # always wrong: both rates are 1
        # Ties between the classes: 0 and 1/3 below 0.5, then 2/3 and 0.
        ([0.5, 0.5, 0.9], [0.5, 0.1, 0.1], 0.3),
        # Two intervals are as good, with rates 0 and 1/2 or 1 and 1/2: the first has fewer errors.
        ([0.5], [0.1, 0.9], 0.3),
        # With rates 1/2 and 1 or 1/2 and 0, it is the second.
        ([0.1, 0.9], [0.5], 0.7),
        # With rates 0 and 1/2 or 1/2 and 0: the higher one.
        ([0.4, 0.8], [0.4, 0.1], 0.6),
        ([0.5, 0.5], [0.5], 0.5),  # nothing tells the images apart: all are predicted not to have it
        ([1e-30], [0.0], 5e-31),
    ],
)
def test_balanced_threshold_by_hand(present: list[float], absent: list[float], expected: float) -> None:
    assert threshold(present, absent) == pytest.approx(expected)
    assert threshold(present[::-1], absent[::-1]) == threshold(present, absent)


def test_a_threshold_between_neighbouring_numbers_tells_them_apart() -> None:
    for dtype in (np.float32, np.float64):
        low = dtype(0.7)
        scores = np.array([[np.nextafter(low, dtype(1))], [low]])
        found = balanced_thresholds(scores, np.array([[1], [0]]))
        assert (scores > found).tolist() == [[True], [False]]


def test_there_is_no_balanced_threshold_without_both_classes() -> None:
    scores = np.array([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]], np.float32)
    found = balanced_thresholds(scores, np.array([[0, 1, 0], [0, 1, 1]]))
    assert np.isnan(found[:2]).all()
    assert found[2] == pytest.approx(0.5)
    assert np.isnan(balanced_thresholds(scores[:1], np.array([[0, 1, 0]]))).all()


@pytest.mark.parametrize("levels", [4, 1000])
def test_no_threshold_balances_the_errors_better(levels: int) -> None:
    rng = np.random.default_rng(levels)
    labels = rng.integers(0, 2, (6, 57)).T  # non-contiguous
    scores = rng.integers(0, levels, (57, 6)) / levels + 0.2 * labels
    found = balanced_thresholds(scores, labels)

    def apart(column: int, at: float) -> Fraction:
        said, truth = scores[:, column] > at, labels[:, column] == 1
        missed, false = int(np.sum(~said & truth)), int(np.sum(said & ~truth))
        return abs(Fraction(missed, int(truth.sum())) - Fraction(false, int((~truth).sum())))

    for column in range(6):
        at = [-1.0, *scores[:, column]]
        assert apart(column, found[column]) == min(apart(column, each) for each in at)


def test_balanced_thresholds_refuse_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="found NaN or infinite"):
        balanced_thresholds(np.array([[0.1], [np.nan]]), np.array([[0], [1]]))
    with pytest.raises(ValueError, match="found labels of shapes"):
        balanced_thresholds(np.zeros((2, 1)), np.zeros((2, 2)))


def test_psnr_and_l1_by_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand((2, 3, 3, 16, 16), generator=generator) * 2 - 1
    quality = image_quality(a, b)
    for index in range(3):
        difference = (a[index] - b[index]).double().numpy()
        assert quality.l1[index].item() == pytest.approx(np.abs(difference).mean(), rel=1e-5)
        decibel = 10 * math.log10(2.0**2 / np.mean(difference**2))  # the range of [−1, 1] is 2
        assert quality.psnr[index].item() == pytest.approx(decibel, rel=1e-5)


def test_ssim_by_its_formula() -> None:
    a, b = np.random.default_rng(0).random((2, 3, 14, 14))
    b = 0.7 * a + 0.3 * b
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    c1, c2 = 0.01**2, 0.03**2
    similarities = []
    for x, y in zip(a, b, strict=True):
        x, y = (np.pad(plane, 5, mode="reflect") for plane in (x, y))
        for top, left in np.ndindex(14, 14):
            p, q = (plane[top : top + 11, left : left + 11] for plane in (x, y))
            mean_p, mean_q = np.sum(window * p), np.sum(window * q)
            var_p, var_q = np.sum(window * (p - mean_p) ** 2), np.sum(window * (q - mean_q) ** 2)
            cov = np.sum(window * (p - mean_p) * (q - mean_q))
            similar = (2 * mean_p * mean_q + c1) * (2 * cov + c2)
            similarities.append(similar / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2)))
    images, targets = (torch.from_numpy(2 * array[None] - 1).float() for array in (a, b))
    assert image_quality(images, targets).ssim.tolist() == pytest.approx([np.mean(similarities)], rel=1e-4)


def test_an_image_is_like_itself() -> None:
    image = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1)) * 2 - 1
    quality = image_quality(image, image)
    assert quality.l1.tolist() == [0, 0]
    assert quality.psnr.tolist() == [math.inf] * 2
    assert quality.ssim.tolist() == pytest.approx([1, 1])


def test_grain_of_a_constant_image_and_of_a_checkerboard() -> None:
    side = 6
    signs = 1.0 - 2 * (torch.arange(side)[:, None] + torch.arange(side)).remainder(2)
    images = torch.stack([torch.full((3, side, side), 0.3), signs.expand(3, -1, -1)])
    # In the middle and in corners, 5 of 9 neighbours have the pixel's sign; on edges 4 of 9.
    edges = 4 * (side - 2)
    expected = ((side**2 - edges) * (1 - 1 / 9) + edges * (1 + 1 / 9)) / side**2
    assert grain(images).tolist() == pytest.approx([0, expected], abs=1e-7)


def test_grain_of_noise() -> None:
    noise = 0.1 * torch.randn((2, 3, 200, 200), generator=torch.Generator().manual_seed(0))
    # A pixel minus the mean of its 3×3 neighbours: variance (8/9)² + 8/81 = 8/9 of the pixel's.
    expected = 0.1 * math.sqrt(8 / 9) * math.sqrt(2 / math.pi)
    assert grain(noise).tolist() == pytest.approx([expected] * 2, rel=0.01)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 4)])
def test_box_blur_is_the_mean_of_the_neighbours(size: tuple[int, int]) -> None:
    images = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(0))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = size
    parts = [padded[:, :, top : top + height, left : left + width] for top in range(3) for left in range(3)]
    expected = np.mean(parts, axis=0)
    for given in (images, images.contiguous(memory_format=torch.channels_last), images.flip(3).contiguous().flip(3)):
        np.testing.assert_allclose(box_blur(given).numpy(), expected, rtol=1e-5)
        np.testing.assert_allclose(grain(given).numpy(), np.abs(images.numpy() - expected).mean((1, 2, 3)), atol=1e-6)


@pytest.fixture(scope="module")
def model() -> IterativeGAN:
    torch.manual_seed(0)
    return IterativeGAN(image_size=32, attributes=3, latent=5, width=2)


def test_quick_validation_is_hamming_loss_and_l1_of_the_rebuilds(model: IterativeGAN) -> None:
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 2, (7, 3))).float()
    model.eval()
    with torch.no_grad():
        x = to_float(images)
        predicted = model.encode(x).label_logits.sigmoid() > 0.5
        expected_l1 = (model.rebuild(x) - x).abs().mean().item()
    for batch_size in (1, 3, 7, 100):
        scores = quick_validation(model, images, labels, batch_size=batch_size)
        assert scores["hamming_loss"] == pytest.approx(hamming_loss(predicted.numpy(), labels.numpy()))
        assert scores["rebuild_l1"] == pytest.approx(expected_l1, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_quick_validation_leaves_the_model_as_it_was(model: IterativeGAN, training: bool) -> None:
    model.train(training)
    model.discriminator.down2.train(not training)  # a caller may have frozen a part
    modes = [part.training for part in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quick_validation(model, torch.zeros((2, 32, 32, 3), dtype=torch.uint8), torch.zeros((2, 3)))
    assert [part.training for part in model.modules()] == modes
    assert len(set(modes)) == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_quick_validation_needs_images(model: IterativeGAN) -> None:
    with pytest.raises(ValueError, match="found 0 images"):
        quick_validation(model, torch.zeros((0, 32, 32, 3), dtype=torch.uint8), torch.zeros((0, 3)))
    with pytest.raises(ValueError, match="found 2 images and 1 rows"):
        quick_validation(model, torch.zeros((2, 32, 32, 3), dtype=torch.uint8), torch.zeros((1, 3)))
