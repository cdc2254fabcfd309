"""The scores of every method alike: what judges say of its edits and faces, identity, and distances from photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.app.edits import EditScores, PhotoEdits, judged_edits
from igan_fast.app.observation import BATCH, Observation
from igan_fast.app.paper.comparison import PhotoFeatures
from igan_fast.app.paper.identity import first_distances
from igan_fast.app.paper.images import edited
from igan_fast.app.paper.methods import PhotoEditor
from igan_fast.app.paper.numbers import Score, frechet_score
from igan_fast.baselines.cnn import AttributeCNN, predict
from igan_fast.data import to_float
from igan_fast.metrics import IdentityScale, balanced_thresholds

__all__ = [
    "AttributeEdits",
    "Judge",
    "JudgedEdits",
    "JudgedFaces",
    "MethodEdits",
    "MethodFaces",
    "known_judges",
    "method_edits",
    "method_faces",
    "observed",
]


class Judge(NamedTuple):
    """A network that says which attributes an image shows."""

    name: str
    network: AttributeCNN
    """In eval mode; trained on real photos only."""
    thresholds: NDArray[np.float64]
    """(A,): its balanced thresholds (``igan_fast.metrics.balanced_thresholds``), NaN where they are undefined."""


def known_judges(
    networks: Mapping[str, AttributeCNN], photos: NDArray[np.uint8], labels: NDArray[Any]
) -> tuple[Judge, ...]:
    """Find the balanced thresholds of judges on photos (N, S, S, 3) with labels (N, A)."""
    return tuple(
        Judge(name, network.eval(), balanced_thresholds(predict(network, photos), labels))
        for name, network in networks.items()
    )


@dataclass(frozen=True)
class AttributeEdits:
    """What a judge says of edits: of those of one attribute, or as the mean over several."""

    confirmed: Score
    """Share of the photos in which the judge's answer, at the threshold 0.5, is what the flip asked for."""
    confirmed_balanced: Score
    """The same at the judge's balanced threshold."""
    unedited_confirmed: Score
    """``confirmed`` of the photos themselves: of these, it is wrong."""
    unedited_confirmed_balanced: Score
    change: Score
    """How much higher the judge's probability is with the attribute set to 1 than set to 0."""
    change_of_others: Score
    """By how much a flip changes the judge's probabilities of the other attributes: mean|edited − photo|. Companions
    that move along count too."""


@dataclass(frozen=True)
class JudgedEdits:
    """What one judge says of the edits of one method."""

    judge: str
    mean: AttributeEdits
    attributes: dict[str, AttributeEdits]
    """By the name of the attribute."""


@dataclass(frozen=True)
class MethodEdits:
    """The scores of one method's edits. A flip sets an attribute to the opposite of the photo's label."""

    method: str
    ours: bool
    attributes: tuple[str, ...]
    """Those that were edited."""
    photos: int
    judges: tuple[JudgedEdits, ...]
    identity: Score | None
    """Distance of the flipped images from the people in the photos; None without an embedder."""
    frechet: Score
    """Fréchet distance of the flipped images from the photos, in the features of the first judge: the mean over the
    attributes."""
    kernel: Score | None
    """Kernel distance of the flipped images of all attributes from the photos; None without a feature network."""


def method_edits(
    method: PhotoEditor,
    photos: NDArray[np.uint8],
    labels: NDArray[Any],
    indices: Sequence[int],
    names: Sequence[str],
    judges: Sequence[Judge],
    identities: IdentityScale | None = None,
    features: PhotoFeatures | None = None,
) -> MethodEdits:
    """Score the edits of one method.

    Args:
        method: any method that edits photos.
        photos: (N, S, S, 3) uint8.
        labels: (N, A), their labels, 0 and 1.
        indices: the attributes to edit, one at a time. Those that the method cannot change are left out; at least one
            has to remain.
        names: of all A attributes.
        judges: at least one.
        identities: of these photos or the first of them; None for no identity.
        features: of these photos; None for no kernel distance.

    Raises:
        NotFinite: the method's images are NaN or infinite.
    """
    able = [index for index in indices if index in method.editable]
    images = {(index, value): edited(method, photos, labels, {index: value}) for index in able for value in (0.0, 1.0)}
    absent = torch.from_numpy(np.asarray(labels) < 0.5)

    def edits(x: Tensor, rows: slice) -> PhotoEdits:
        def made(index: int, value: float) -> Tensor:
            return to_float(torch.from_numpy(images[index, value][rows]).to(x.device))

        return PhotoEdits(absent[rows].to(x.device), x, made)

    networks = [judge.network for judge in judges]
    unrelated = np.zeros((len(names), len(names)), np.bool_)
    found = judged_edits(edits, networks, photos, able, related=unrelated)
    flips = np.stack(  # (N, E, S, S, 3)
        [np.where(labels[:, index, None, None, None] < 0.5, images[index, 1.0], images[index, 0.0]) for index in able],
        axis=1,
    )
    seen = _of_each(flips, lambda images: observed(judges[:1], images).features)
    distances = _of_each(flips, lambda images: first_distances(identities, images)) if identities else []
    return MethodEdits(
        method=method.name,
        ours=method.ours,
        attributes=tuple(names[index] for index in able),
        photos=len(photos),
        judges=tuple(_judged(judge, scores, able, names) for judge, scores in zip(judges, found, strict=True)),
        identity=Score.of(np.mean(distances, axis=0)) if distances else None,
        frechet=frechet_score(np.stack(seen, axis=1), observed(judges[:1], photos).features),
        kernel=features.distance(flips.reshape(-1, *flips.shape[2:])) if features else None,
    )


def _of_each(flips: NDArray[np.uint8], measure: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> list[NDArray[Any]]:
    """Measure the images of each attribute; those that are equal to the first ones, as without an edit, only once."""
    found = [measure(flips[:, 0])]
    for place in range(1, flips.shape[1]):
        same = np.array_equal(flips[:, place], flips[:, 0])
        found.append(found[0] if same else measure(flips[:, place]))
    return found


def _judged(judge: Judge, scores: EditScores, indices: Sequence[int], names: Sequence[str]) -> JudgedEdits:
    thresholds = judge.thresholds[list(indices)]
    columns: dict[str, NDArray[Any]] = {
        "confirmed": scores.confirmed(),
        "confirmed_balanced": scores.confirmed(thresholds),
        "unedited_confirmed": scores.unedited_confirmed(),
        "unedited_confirmed_balanced": scores.unedited_confirmed(thresholds),
        "change": scores.change,
        "change_of_others": scores.change_of_others,
    }

    def of(places: Sequence[int]) -> AttributeEdits:
        return AttributeEdits(**{name: _mean_of(column[:, list(places)]) for name, column in columns.items()})

    each = {names[index]: of([place]) for place, index in enumerate(indices)}
    return JudgedEdits(judge.name, of(range(len(indices))), each)


def _mean_of(columns: NDArray[Any]) -> Score:
    """The mean over columns (N, E), of which those that are NaN are left out."""
    known = columns[:, ~np.isnan(columns).any(axis=0)]
    return Score.of(known.mean(axis=1, dtype=np.float64)) if known.shape[1] else Score(None)


@dataclass(frozen=True)
class JudgedFaces:
    """What one judge says of faces that were generated from labels."""

    judge: str
    hamming_loss: Score
    """Share of its answers, at the threshold 0.5, that differ from the labels."""
    hamming_loss_balanced: Score
    """The same at its balanced thresholds, over the attributes that have one."""


@dataclass(frozen=True)
class MethodFaces:
    """The scores of one method's faces, each generated from the labels of a photo."""

    method: str
    ours: bool
    faces: int
    judges: tuple[JudgedFaces, ...]
    frechet: Score
    """Fréchet distance from the photos, in the features of the first judge."""
    kernel: Score | None
    """Kernel distance from the photos; None without a feature network."""


def method_faces(
    name: str,
    faces: NDArray[np.uint8],
    photos: NDArray[np.uint8],
    labels: NDArray[Any],
    judges: Sequence[Judge],
    *,
    features: PhotoFeatures | None = None,
    ours: bool = False,
) -> MethodFaces:
    """Score faces (N, S, S, 3) that were generated from the labels (N, A) of photos (N, S, S, 3).

    ``features`` are those of the photos; None for no kernel distance.
    """
    seen = observed(judges, faces)
    truth = np.asarray(labels) > 0.5

    def losses(judge: Judge, answers: NDArray[np.float32]) -> JudgedFaces:
        balanced = np.where(np.isnan(judge.thresholds), np.nan, (answers > judge.thresholds) != truth)
        return JudgedFaces(
            judge.name, Score.of(((answers > 0.5) != truth).mean(axis=1)), hamming_loss_balanced=_mean_of(balanced)
        )

    return MethodFaces(
        method=name,
        ours=ours,
        faces=len(faces),
        judges=tuple(losses(judge, answers) for judge, answers in zip(judges, seen.probabilities, strict=True)),
        frechet=frechet_score(seen.features[:, None], observed(judges[:1], photos).features),
        kernel=features.distance(faces) if features else None,
    )


def observed(judges: Sequence[Judge], images: NDArray[np.uint8]) -> Observation:
    """Let judges look at images (N, S, S, 3)."""
    seen = Observation([judge.network for judge in judges])
    device = judges[0].network.labels.weight.device
    for start in range(0, len(images), BATCH):
        seen.add(torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH])).to(device))
    return seen
