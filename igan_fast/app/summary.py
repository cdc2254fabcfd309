"""Turns what was measured on photos and images into the reports of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from igan_fast.app.edits import EditScores
from igan_fast.app.observation import Observation
from igan_fast.app.report import (
    ImageSetReport,
    Interval,
    JudgedAttribute,
    JudgeReport,
    KIDReport,
    Recognition,
)
from igan_fast.metrics import (
    attribute_scores,
    balanced_thresholds,
    bootstrap_interval,
    frechet_distance,
    hamming_loss,
)

__all__ = ["defined", "image_set_report", "interval", "judge_report", "judged_attributes", "recognition_report"]

Column = NDArray[np.float64]


def recognition_report(predicted: NDArray[np.bool_], labels: NDArray[np.bool_]) -> Recognition:
    """Score predictions (N, A)."""
    scores = attribute_scores(predicted, labels)
    return Recognition(
        hamming_loss=hamming_loss(predicted, labels),
        accuracy=float(scores.accuracy.mean()),
        balanced_accuracy=float(scores.balanced_accuracy.mean()),
        f1=_mean(scores.f1),
        hamming_loss_interval=interval(np.mean(predicted != labels, axis=1)),
    )


def judged_attributes(
    probabilities: NDArray[np.float32], labels: NDArray[np.bool_], edits: EditScores
) -> tuple[JudgedAttribute, ...]:
    """Report what a judge says of each attribute.

    Args:
        probabilities: (N, A), its answers for the scored photos.
        labels: (N, A), the truth.
        edits: its answers for the edited photos.
    """
    thresholds = balanced_thresholds(probabilities, labels)
    at_half = attribute_scores(probabilities > 0.5, labels)
    balanced = attribute_scores(probabilities > thresholds, labels)
    undefined = np.isnan(thresholds)
    columns: dict[str, Column] = {
        "accuracy": at_half.accuracy,
        "balanced_threshold": thresholds,
        "recall_present": at_half.recall_present,
        "recall_absent": at_half.recall_absent,
        "balanced_recall_present": np.where(undefined, np.nan, balanced.recall_present),
        "balanced_recall_absent": np.where(undefined, np.nan, balanced.recall_absent),
        "edit_change": edits.change.mean(axis=0, dtype=np.float64),
        "edit_confirmed": edits.confirmed().mean(axis=0),
        "edit_confirmed_balanced": edits.confirmed(thresholds).mean(axis=0),
        "unedited_confirmed": edits.unedited_confirmed().mean(axis=0),
        "unedited_confirmed_balanced": edits.unedited_confirmed(thresholds).mean(axis=0),
        "change_of_others": edits.change_of_others.mean(axis=0, dtype=np.float64),
        "change_of_unrelated": edits.change_of_unrelated.mean(axis=0, dtype=np.float64),
    }
    rows = (
        {name: defined(float(column[index])) for name, column in columns.items()} for index in range(labels.shape[1])
    )
    return tuple(JudgedAttribute(**row) for row in rows)  # type: ignore[arg-type]  # the accuracy is always defined


def judge_report(
    name: str,
    probabilities: NDArray[np.float32],
    generated: NDArray[np.float32],
    labels: NDArray[np.bool_],
    edits: EditScores,
    attributes: Sequence[JudgedAttribute],
) -> JudgeReport:
    """Report what a judge says, as means over the attributes.

    Args:
        name: what tables call the judge.
        probabilities: (N, A), its answers for the scored photos.
        generated: (N, A), its answers for faces that were generated from ``labels``.
        labels: (N, A), the truth.
        edits: its answers for the edited photos.
        attributes: the result of ``judged_attributes``.
    """
    thresholds = np.array([each.balanced_threshold for each in attributes], np.float64)  # None becomes NaN
    known = ~np.isnan(thresholds)

    def mean(field: str) -> float | None:
        return _mean(np.array([getattr(each, field) for each in attributes], np.float64))

    return JudgeReport(
        name=name,
        recognition=recognition_report(probabilities > 0.5, labels),
        generated_hamming_loss=hamming_loss(generated > 0.5, labels),
        generated_hamming_loss_interval=interval(np.mean((generated > 0.5) != labels, axis=1)),
        recall_present=mean("recall_present"),
        recall_absent=mean("recall_absent"),
        balanced_recall_present=mean("balanced_recall_present"),
        balanced_recall_absent=mean("balanced_recall_absent"),
        edit_change=mean("edit_change"),
        edit_change_interval=interval(edits.change.mean(axis=1, dtype=np.float64)),
        edit_confirmed=mean("edit_confirmed"),
        edit_confirmed_interval=interval(edits.confirmed().mean(axis=1)),
        edit_confirmed_balanced=mean("edit_confirmed_balanced"),
        edit_confirmed_balanced_interval=(
            interval(edits.confirmed(thresholds)[:, known].mean(axis=1)) if known.any() else None
        ),
        unedited_confirmed=mean("unedited_confirmed"),
        unedited_confirmed_balanced=mean("unedited_confirmed_balanced"),
        change_of_others=mean("change_of_others"),
        change_of_unrelated=mean("change_of_unrelated"),
    )


def image_set_report(
    images: Observation, photos: Observation, *, judged: bool, kid: KIDReport | None = None
) -> ImageSetReport:
    """Compare a set of images with the scored photos.

    Args:
        judged: whether there is a judge, in whose features the Fréchet distance is measured.
        kid: the distance that was measured already.
    """
    return ImageSetReport(
        images=images.count,
        grain=images.grain / photos.grain if images.count and photos.grain else None,
        frechet_in_judge=defined(frechet_distance(images.features, photos.features))
        if judged and images.count
        else None,
        kid=kid,
    )


def interval(values: NDArray[np.floating]) -> Interval:
    """Return the interval of the mean of ``values`` (N,), one for each photo; None if it is undefined."""
    low, high = bootstrap_interval(values)
    return None if math.isnan(low) else (low, high)


def defined(value: float) -> float | None:
    """Return the value, or None in place of NaN."""
    return None if math.isnan(value) else value


def _mean(values: Column) -> float | None:
    """Return the mean of the values that are not NaN, None if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
