"""Figure 4 and Table 3: how well each method recognises attributes (Sec. 5.3).

Everything is computed from arrays of answers and labels. ``igan_fast.app.paper.recognition_plot`` draws it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igan_fast.app.paper.markdown import Table
from igan_fast.app.paper.numbers import Score, marked
from igan_fast.app.report import Interval
from igan_fast.app.summary import interval
from igan_fast.data.store import spread
from igan_fast.errors import InputError
from igan_fast.metrics import attribute_scores, hamming_loss

__all__ = [
    "AnsweredPhotos",
    "ComparedRecognition",
    "MethodRecognition",
    "PhotoAnswers",
    "answered_photos",
    "compare_recognition",
]

#: A probability above it means "present".
THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class MethodRecognition:
    """How well one method recognises the attributes. Each interval is a 95 % bootstrap interval over the photos."""

    name: str
    ours: bool
    hamming_loss: float
    """Share of wrong answers over all photos and attributes."""
    hamming_loss_interval: Interval
    difference: float | None
    """Its Hamming loss minus that of the first method, which has None here."""
    difference_interval: Interval
    """Of the difference on the same photos: it tells two methods apart better than their own intervals do."""
    accuracy: tuple[float, ...]
    """Share of right answers, for each attribute."""
    accuracy_intervals: tuple[Interval, ...]


@dataclass(frozen=True, kw_only=True)
class ComparedRecognition:
    """The numbers of Figure 4. All are plain: ``dataclasses.asdict`` returns what JSON can hold."""

    photos: int
    attributes: tuple[str, ...]
    methods: tuple[MethodRecognition, ...]

    @property
    def title(self) -> str:
        return "Figure 4: recognition of attributes"

    @property
    def shown(self) -> str:
        return (
            f"Accuracy for each of {len(self.attributes)} attributes, and Hamming loss: the share of wrong answers "
            f"over all of them (lower is better). {self.photos:,} photos. In brackets, and as thin lines in the "
            "picture, are 95 % intervals over the photos."
        )

    def tables(self) -> tuple[Table, ...]:
        """All numbers as text: the methods, and the attributes."""
        first = self.methods[0].name
        methods = tuple(
            (
                marked(method.name, ours=method.ours),
                Score(method.hamming_loss, method.hamming_loss_interval).text(".4f"),
                Score(method.difference, method.difference_interval).text("+.4f"),
                Score(float(np.mean(method.accuracy))).text(".4f"),
            )
            for method in self.methods
        )
        attributes = tuple(
            (
                name,
                *(
                    Score(method.accuracy[index], method.accuracy_intervals[index]).text(".3f")
                    for method in self.methods
                ),
            )
            for index, name in enumerate(self.attributes)
        )
        return (
            Table(("method", "Hamming loss", f"difference from {first}", "mean accuracy"), methods, "Hamming loss"),
            Table(
                ("attribute", *(marked(method.name, ours=method.ours) for method in self.methods)),
                attributes,
                "Accuracy",
            ),
        )

    def to_json(self) -> str:
        """Return the numbers as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class PhotoAnswers:
    """The answers for one photo. Each tuple has one entry for each attribute."""

    photo: int
    """Its number among the scored photos, from 0."""
    labels: tuple[bool, ...]
    probabilities: tuple[float, ...]
    right: tuple[bool, ...]
    """Whether the probability is above 0.5 where the attribute is present, and not above 0.5 where it is absent."""


@dataclass(frozen=True, kw_only=True)
class AnsweredPhotos:
    """The numbers of Table 3. All are plain: ``dataclasses.asdict`` returns what JSON can hold."""

    method: str
    photos: int
    """How many were scored."""
    attributes: tuple[str, ...]
    answers: tuple[PhotoAnswers, ...]
    """Of the photos that are shown."""

    @property
    def title(self) -> str:
        return "Table 3: answers photo by photo"

    @property
    def shown(self) -> str:
        return (
            f"The probabilities that {self.method} gives for {len(self.answers)} of {self.photos:,} photos. These are "
            "evenly spaced and were chosen by their numbers alone. Before each probability is the truth: 1 if the "
            "attribute is present. ✗ marks the wrong answers, at the threshold 0.5."
        )

    def tables(self) -> tuple[Table, ...]:
        """A row for each attribute and a column for each photo; the last row counts the wrong answers."""
        rows = [
            (
                name,
                *(
                    f"{int(answers.labels[index])}: {answers.probabilities[index]:.2f} "
                    f"{'✓' if answers.right[index] else '✗'}"
                    for answers in self.answers
                ),
            )
            for index, name in enumerate(self.attributes)
        ]
        wrong = (f"{answers.right.count(False)} of {len(self.attributes)}" for answers in self.answers)
        header = ("attribute", *(f"photo {answers.photo + 1:,}" for answers in self.answers))
        return (Table(header, (*rows, ("wrong", *wrong))),)

    def to_json(self) -> str:
        """Return the numbers as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False)


def compare_recognition(
    predictions: Mapping[str, NDArray[np.bool_]], labels: NDArray[Any], names: Sequence[str], *, ours: str | None = None
) -> ComparedRecognition:
    """Score the answers of several methods for the same photos (Fig. 4).

    Args:
        predictions: (N, A) bool by the name of the method; the first is the one that the others are compared with.
            The majority answer is ``numpy.broadcast_to(igan_fast.metrics.majority_labels(training), (N, A))``.
        labels: (N, A), the truth: bool, or numbers that are 0 or 1.
        names: of the A attributes.
        ours: the name of the method that tables mark as ours; None for no mark.

    Raises:
        ValueError: there is no method, no photo or no attribute; or the shapes or dtypes do not fit.
    """
    truth = _truth(labels, names)
    wrong: dict[str, NDArray[np.bool_]] = {}
    for name, predicted in predictions.items():
        found = np.asarray(predicted)
        if found.dtype != np.bool_ or found.shape != truth.shape:
            raise ValueError(
                f"predictions of {name}: found {found.dtype} of shape {found.shape}, expected bool of {truth.shape}"
            )
        wrong[name] = found != truth
    if not wrong:
        raise ValueError("predictions: found no method, expected at least one")
    losses = {name: missed.mean(axis=1) for name, missed in wrong.items()}
    first = next(iter(losses))
    methods = []
    for name, loss in losses.items():
        apart = loss - losses[first]
        accuracy = attribute_scores(np.asarray(predictions[name]), truth).accuracy
        methods.append(
            MethodRecognition(
                name=name,
                ours=name == ours,
                hamming_loss=hamming_loss(np.asarray(predictions[name]), truth),
                hamming_loss_interval=interval(loss),
                difference=None if name == first else float(apart.mean()),
                difference_interval=None if name == first else interval(apart),
                accuracy=tuple(accuracy.tolist()),
                accuracy_intervals=tuple(interval(right) for right in (~wrong[name]).T.astype(np.float64)),
            )
        )
    return ComparedRecognition(photos=len(truth), attributes=tuple(names), methods=tuple(methods))


def answered_photos(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    names: Sequence[str],
    *,
    method: str = "iterative GAN",
    count: int = 6,
) -> AnsweredPhotos:
    """Set the probabilities of a recogniser beside the truth, for a few photos (Table 3).

    The photos are evenly spaced. Which they are depends on N and ``count`` alone, not on the answers.

    Args:
        probabilities: (N, A), from 0 to 1.
        labels: (N, A), the truth: bool, or numbers that are 0 or 1.
        names: of the A attributes.
        method: the name of the recogniser.
        count: how many photos to show at most.

    Raises:
        InputError: ``count`` is less than 1.
        ValueError: there is no photo or no attribute, the shapes do not fit, or a probability is out of its range.
    """
    if count < 1:
        raise InputError(f"count: found {count}, expected at least 1 photo")
    truth = _truth(labels, names)
    found = np.asarray(probabilities)
    if found.shape != truth.shape:
        raise ValueError(f"probabilities: found the shape {found.shape}, expected {truth.shape}")
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError("probabilities: found NaN or numbers out of range, expected numbers from 0 to 1")
    rows = spread(np.arange(len(truth)), count)
    right = (found > THRESHOLD) == truth
    return AnsweredPhotos(
        method=method,
        photos=len(truth),
        attributes=tuple(names),
        answers=tuple(
            PhotoAnswers(
                photo=row,
                labels=tuple(truth[row].tolist()),
                probabilities=tuple(found[row].tolist()),
                right=tuple(right[row].tolist()),
            )
            for row in rows.tolist()
        ),
    )


def _truth(labels: NDArray[Any], names: Sequence[str]) -> NDArray[np.bool_]:
    found = np.asarray(labels)
    if found.ndim != 2 or found.size == 0 or found.shape[1] != len(names):
        raise ValueError(f"labels: found the shape {found.shape}, expected (N, {len(names)}), not empty")
    if not ((found == 0) | (found == 1)).all():
        raise ValueError("labels: found other numbers, expected 0 and 1")
    return found.astype(np.bool_)
