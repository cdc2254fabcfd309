"""Scores of recognition, computed from arrays of labels and probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AttributeScores", "attribute_scores", "balanced_thresholds", "hamming_loss", "majority_labels"]

Labels = NDArray[Any]  # (N, A): bool, or any numbers that are 0 or 1


@dataclass(frozen=True)
class AttributeScores:
    """How well labels are predicted. Each score is (A,) float64, one number per attribute."""

    accuracy: NDArray[np.float64]
    """Share of the images with the right answer."""
    balanced_accuracy: NDArray[np.float64]
    """Mean of the recalls of "present" and "absent"; where one of the two never occurs, the recall of the other."""
    f1: NDArray[np.float64]
    """2TP / (2TP + FP + FN); NaN where the attribute neither occurs nor is ever predicted."""
    recall_present: NDArray[np.float64]
    """Share of the images with the attribute that are predicted to have it; NaN if no image has it."""
    recall_absent: NDArray[np.float64]
    """Share of the images without the attribute that are predicted not to have it; NaN if all images have it."""


def hamming_loss(predicted: Labels, labels: Labels) -> float:
    """Return the share of wrong answers over all images and attributes (the paper's Fig. 4).

    Raises:
        ValueError: the shapes differ, are not (N, A), or are empty; or a value is neither 0 nor 1.
    """
    return float(np.mean(_as_bool(predicted, labels) != _as_bool(labels, predicted)))


def attribute_scores(predicted: Labels, labels: Labels) -> AttributeScores:
    """Return the scores of each attribute. Raises ``ValueError`` as ``hamming_loss``."""
    guess, truth = _as_bool(predicted, labels), _as_bool(labels, predicted)
    true_positives = np.sum(guess & truth, axis=0)
    positives, guessed = np.sum(truth, axis=0), np.sum(guess, axis=0)
    negatives = len(truth) - positives
    true_negatives = np.sum(~guess & ~truth, axis=0)
    with np.errstate(invalid="ignore"):  # 0/0 is NaN: a class that never occurs has no recall
        recalls = np.stack([true_positives / positives, true_negatives / negatives])
        f1 = 2 * true_positives / (positives + guessed)
    return AttributeScores(
        accuracy=np.mean(guess == truth, axis=0),
        balanced_accuracy=np.nanmean(recalls, axis=0),
        f1=f1,
        recall_present=recalls[0],
        recall_absent=recalls[1],
    )


def majority_labels(labels: Labels) -> NDArray[np.bool_]:
    """Return (A,): whether more than half of the (N, A) labels have the attribute. This is the best blind guess.

    Raises:
        ValueError: as ``hamming_loss``.
    """
    majority: NDArray[np.bool_] = np.mean(_as_bool(labels, labels), axis=0) > 0.5
    return majority


def balanced_thresholds(probabilities: NDArray[np.floating[Any]], labels: Labels) -> NDArray[np.float64]:
    """Return for each attribute the threshold at which both kinds of error are equally frequent.

    An image is predicted to have the attribute if its probability is above the threshold. The false negative rate is
    then the share of the images with the attribute that are predicted not to have it. The false positive rate is the
    share of the images without it that are predicted to have it. Both change only at the probabilities that occur, so
    the search is exact.

    Args:
        probabilities: (N, A), any finite scores that are higher where the attribute is likelier.
        labels: (N, A) in {0, 1}.

    Returns:
        (A,): the middle of the interval of thresholds at which the two rates differ least. Of two intervals that are as
        good, it takes that with the smaller sum of the rates, then the higher one. NaN where no image or every image
        has the attribute.

    Raises:
        ValueError: the shapes differ, are not (N, A), or are empty; a label is neither 0 nor 1; or a probability is not
            finite.
    """
    truth = _as_bool(labels, probabilities)
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities: found NaN or infinite, expected finite numbers")
    columns = zip(np.asarray(probabilities, np.float64).T, truth.T, strict=True)
    return np.array([_balanced_threshold(scores, present) for scores, present in columns])


def _balanced_threshold(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    """Return the balanced threshold of one attribute, from scores (N,) and labels (N,)."""
    positives = int(present.sum())
    negatives = len(present) - positives
    if not positives or not negatives:
        return float("nan")
    values, places = np.unique(scores, return_inverse=True)
    # For the threshold values[k]: how many images are at or below it.
    missed = np.cumsum(np.bincount(places, present, len(values))).astype(np.int64)
    rejected = np.cumsum(np.bincount(places, ~present, len(values))).astype(np.int64)
    # The rates over a common denominator, in whole numbers: equal differences are then equal.
    false_negatives, false_positives = missed * negatives, (negatives - rejected) * positives
    apart = np.abs(false_negatives - false_positives)
    best = int(np.lexsort((-np.arange(len(values)), false_negatives + false_positives, apart))[0])
    low, high = values[best], values[min(best + 1, len(values) - 1)]
    middle = low + (high - low) / 2
    return float(middle if middle < high else low)  # neighbouring numbers have none between them


def _as_bool(labels: Labels, other: Labels) -> NDArray[np.bool_]:
    array = np.asarray(labels)
    if array.shape != np.shape(other) or array.ndim != 2 or array.size == 0:
        raise ValueError(f"found labels of shapes {array.shape} and {np.shape(other)}; expected both (N, A), not empty")
    if array.dtype != np.bool_ and (wrong := (array != 0) & (array != 1)).any():
        raise ValueError(f"labels: found {array[wrong][0]:g}, expected 0 and 1")
    return array.astype(np.bool_)
