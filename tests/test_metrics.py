import math

import numpy as np
import pytest
import torch

from igan_fast.data import to_float
from igan_fast.metrics import attribute_scores, hamming_loss, image_quality, majority_labels, quick_validation
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


def test_majority_is_more_than_half() -> None:
    labels = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], np.uint8)
    assert majority_labels(labels).tolist() == [True, False, False, False]


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
