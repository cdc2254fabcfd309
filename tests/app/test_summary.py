import numpy as np
import pytest
import torch
from painted_attributes import ChannelJudge

from igan_fast.app.edits import EditScores
from igan_fast.app.observation import Observation
from igan_fast.app.summary import image_set_report, judge_report, judged_attributes, recognition_report
from igan_fast.metrics import bootstrap_interval

#: Four photos. The second attribute is in none of them, the third in all.
LABELS = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 1]], np.bool_)
ANSWERS = np.array([[0.45, 0.1, 0.9], [0.4, 0.6, 0.8], [0.2, 0.3, 0.2], [0.1, 0.4, 0.7]], np.float32)


def edits() -> EditScores:
    return EditScores(
        requested=np.array([[0, 1, 0], [1, 1, 0]], np.bool_),
        present=np.array([[0.9, 0.4, 0.9], [0.4, 0.7, 0.9]], np.float32),
        absent=np.array([[0.35, 0.1, 0.2], [0.2, 0.1, 0.6]], np.float32),
        unedited=np.array([[0.6, 0.1, 0.9], [0.35, 0.1, 0.4]], np.float32),
        change_of_others=np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], np.float32),
        change_of_unrelated=np.array([[0.1, np.nan, 0.3], [0.3, np.nan, 0.0]], np.float32),
    )


def test_what_a_judge_says_of_each_attribute_by_hand() -> None:
    first, second, third = judged_attributes(ANSWERS, LABELS, edits())
    # At 0.5 no photo has the first attribute; between 0.2 and 0.4 every answer is right.
    assert (first.accuracy, first.recall_present, first.recall_absent) == (0.5, 0, 1)
    assert first.balanced_threshold == pytest.approx(0.3)
    assert (first.balanced_recall_present, first.balanced_recall_absent) == (1, 1)
    assert first.edit_change == pytest.approx((0.55 + 0.2) / 2)
    # Photo 1: absent is asked for, 0.35. Photo 2: present is asked for, 0.4. Unedited: 0.6 and 0.35.
    assert (first.edit_confirmed, first.edit_confirmed_balanced) == (0.5, 0.5)
    assert (first.unedited_confirmed, first.unedited_confirmed_balanced) == (0, 0.5)
    assert (first.change_of_others, first.change_of_unrelated) == (pytest.approx(0.2), pytest.approx(0.2))
    # Nobody has the second.
    assert (second.accuracy, second.recall_present, second.recall_absent) == (0.75, None, 0.75)
    assert second.balanced_threshold is None
    assert second.balanced_recall_present is second.balanced_recall_absent is None
    assert second.edit_confirmed_balanced is second.unedited_confirmed_balanced is None
    assert (second.edit_confirmed, second.change_of_unrelated) == (0.5, None)
    # Everybody has the third.
    assert (third.accuracy, third.recall_present, third.recall_absent) == (0.75, 0.75, None)
    assert third.balanced_threshold is None
    assert (third.edit_confirmed, third.unedited_confirmed) == (0.5, 0.5)


def test_means_are_those_of_the_attributes_that_have_a_score() -> None:
    attributes = judged_attributes(ANSWERS, LABELS, edits())
    generated = np.where(LABELS, 0.9, 0.1).astype(np.float32)
    generated[0, 0] = 0.2
    found = judge_report("the judge", ANSWERS, generated, LABELS, edits(), attributes)
    assert found.name == "the judge"
    assert found.recognition == recognition_report(ANSWERS > 0.5, LABELS)
    assert found.generated_hamming_loss == pytest.approx(1 / 12)
    assert found.generated_hamming_loss_interval == bootstrap_interval(np.array([1 / 3, 0, 0, 0]))
    assert (found.recall_present, found.recall_absent) == ((0 + 0.75) / 2, (1 + 0.75) / 2)
    assert (found.balanced_recall_present, found.edit_confirmed_balanced) == (1, 0.5)
    assert found.edit_confirmed == pytest.approx((0.5 + 0.5 + 0.5) / 3)
    assert found.edit_change == pytest.approx(np.mean([0.375, 0.45, 0.5]))
    assert found.change_of_others == pytest.approx(0.2)
    assert found.change_of_unrelated == pytest.approx((0.2 + 0.15) / 2)
    # Photo 1: the second and the third flip are 0 and 1; photo 2: 1 and 0.
    assert found.edit_confirmed_interval == bootstrap_interval(edits().confirmed().mean(axis=1))
    assert found.edit_confirmed_balanced_interval == (0, 1)  # only the first attribute has a threshold: 0 and 1


def test_without_any_balanced_threshold_there_is_no_balanced_score() -> None:
    labels = np.ones_like(LABELS)
    attributes = judged_attributes(ANSWERS, labels, edits())
    found = judge_report("judge", ANSWERS, ANSWERS, labels, edits(), attributes)
    assert found.edit_confirmed_balanced is found.edit_confirmed_balanced_interval is None
    assert found.balanced_recall_present is found.recall_absent is None
    assert found.edit_confirmed is not None


def test_recognition_has_an_interval_over_photos() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 2, (2, 50, 7)).astype(np.bool_)
    found = recognition_report(predicted, labels)
    assert found.hamming_loss == pytest.approx(np.mean(labels != predicted))
    assert found.hamming_loss_interval is not None
    low, high = found.hamming_loss_interval
    assert low < found.hamming_loss < high
    assert recognition_report(predicted[:1], labels[:1]).hamming_loss_interval is None


def observed(noise: float, count: int) -> Observation:
    rng = np.random.default_rng(0)
    images = 128 + noise * rng.normal(size=(count, 32, 32, 3)) + rng.normal(0, 9, (count, 1, 1, 3))
    seen = Observation([ChannelJudge()])
    seen.add(torch.from_numpy(images.clip(0, 255).astype(np.uint8)))
    return seen


def test_images_beside_photos() -> None:
    photos = observed(10, 20)
    same = image_set_report(photos, photos, judged=True)
    assert (same.images, same.grain) == (20, 1)
    assert same.frechet_in_judge == pytest.approx(0, abs=1e-9)
    grainy = image_set_report(observed(20, 20), photos, judged=True)
    assert grainy.grain == pytest.approx(2, rel=0.02)
    assert grainy.frechet_in_judge is not None
    assert grainy.frechet_in_judge > 0
    assert image_set_report(photos, photos, judged=False).frechet_in_judge is None


def test_a_single_image_no_image_and_photos_without_grain() -> None:
    one, none, flat = observed(10, 1), Observation([ChannelJudge()]), observed(0, 3)
    assert image_set_report(one, one, judged=True).frechet_in_judge is None
    empty = image_set_report(none, one, judged=True)
    assert (empty.images, empty.grain, empty.frechet_in_judge) == (0, None, None)
    assert image_set_report(one, flat, judged=True).grain is None
