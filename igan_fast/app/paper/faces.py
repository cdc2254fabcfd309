"""Figures 8 and 9b: faces from noise and labels, by our model and by others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from igan_fast.app.paper.comparison import PhotoFeatures
from igan_fast.app.paper.images import NotFinite, generated
from igan_fast.app.paper.markdown import Table
from igan_fast.app.paper.methods import FaceGenerator, Ours
from igan_fast.app.paper.numbers import SINGLE, Choice, Score, choose, frechet_score, row_label
from igan_fast.app.paper.score_tables import face_table
from igan_fast.app.paper.scores import Judge, MethodFaces, method_faces, observed
from igan_fast.errors import printable
from igan_fast.train.grids import grid

__all__ = ["AskedFaces", "ComparedFaces", "Faces", "compared_faces", "faces_from_noise"]


@dataclass(frozen=True)
class AskedFaces:
    """Faces that were asked to have some attributes."""

    attributes: tuple[str, ...]
    seen: dict[str, Score]
    """By judge: share of these attributes that it sees at the threshold 0.5, over faces and attributes."""
    seen_balanced: dict[str, Score]
    """The same at its balanced thresholds, over the attributes that have one."""
    unasked: dict[str, Score]
    """By judge: ``seen`` of the faces from the same noise and unchanged labels."""


@dataclass(frozen=True)
class Faces:
    """The numbers of Figure 8."""

    method: str
    choice: Choice
    faces: int
    """How many were scored; the figure shows the first of them."""
    rows: tuple[AskedFaces, ...]

    @property
    def title(self) -> str:
        return "Figure 8: faces from noise"

    @property
    def shown(self) -> str:
        return (
            "Faces from noise and the labels of photos, and from the same noise and labels with one or several "
            f"attributes set to 1. A column has the same noise in each row. {self.choice.sentence}"
        )

    def tables(self) -> tuple[Table, ...]:
        return tuple(
            Table(
                ("attributes set to 1", "seen", "at the balanced thresholds", "with unchanged labels"),
                tuple(
                    (
                        ", ".join(row.attributes),
                        row.seen[judge].text(".0f", percent=True),
                        row.seen_balanced[judge].text(".0f", percent=True),
                        row.unasked[judge].text(".0f", percent=True),
                    )
                    for row in self.rows
                ),
                f"{self.faces:,} faces of {self.method} (ours), as the {judge} sees them",
            )
            for judge in self.rows[0].seen
        )


def faces_from_noise(
    method: Ours,
    labels: NDArray[Any],
    names: Sequence[str],
    judges: Sequence[Judge],
    *,
    seed: int = 0,
    shown: int = 8,
) -> tuple[Faces, Image.Image]:
    """Draw and score Figure 8: faces from noise with one and several attributes set to 1.

    Args:
        method: our model.
        labels: (N, A) of photos, 0 and 1, N at least 1: the attributes that are not set.
        names: of the A attributes.
        judges: at least one.
        seed: of the noise.
        shown: how many faces a row of the picture has.

    Raises:
        NotFinite: the model's images are NaN or infinite.
    """
    choice = choose(names, SINGLE)
    noise = method.draw_noise(len(labels), torch.Generator().manual_seed(seed))
    c = torch.from_numpy(np.asarray(labels, np.float32))
    plain = generated(method, noise, c)
    without = observed(judges, plain).probabilities
    asked = [[place] for place in range(len(choice.indices))]
    asked += [list(range(count)) for count in range(2, len(choice.indices) + 1)]
    rows, titles, found = [plain[:shown]], ["labels of photos"], []
    for places in asked:
        indices, wanted = [choice.indices[place] for place in places], [choice.names[place] for place in places]
        images = generated(method, noise, method.changed_labels(c, dict.fromkeys(indices, 1.0)))
        rows.append(images[:shown])
        titles.append("\n".join(_two_lines([printable(name) for name in wanted])))
        answers = observed(judges, images).probabilities
        seen, balanced, unasked = {}, {}, {}
        for place, judge in enumerate(judges):
            thresholds = judge.thresholds[indices]
            known = ~np.isnan(thresholds)
            seen[judge.name] = Score.of((answers[place][:, indices] > 0.5).mean(axis=1))
            unasked[judge.name] = Score.of((without[place][:, indices] > 0.5).mean(axis=1))
            above = (answers[place][:, indices] > thresholds)[:, known]
            balanced[judge.name] = Score.of(above.mean(axis=1)) if known.any() else Score(None)
        found.append(AskedFaces(tuple(wanted), seen, balanced, unasked))
    return Faces(method.name, choice, len(labels), tuple(found)), grid(rows, titles)


@dataclass(frozen=True)
class ComparedFaces:
    """The numbers of Figure 9b."""

    faces: int
    """How many were scored; the figure shows the first of them."""
    methods: tuple[MethodFaces, ...]
    """The first are the photos."""
    photos: str
    """What their scores are."""
    same_noise: tuple[tuple[str, ...], ...]
    """Groups of methods that got the same noise."""
    failed: dict[str, str]
    """Why a method is missing, by its name."""

    @property
    def title(self) -> str:
        return "Figure 9b: faces beside CGAN and AC-GAN"

    @property
    def shown(self) -> str:
        groups = [
            f"{', '.join(group)} got the same noise" if len(group) > 1 else f"{group[0]} got noise of its own"
            for group in self.same_noise
        ]
        return (
            "Photos, and faces of each method from the labels of the photo at the top of the column. In the table, "
            f"“photos” are {self.photos}. "
            f"{'; '.join(groups)}{'.' * bool(groups)}"
        )

    def tables(self) -> tuple[Table, ...]:
        return (face_table(self.methods),)


def compared_faces(
    methods: Sequence[FaceGenerator],
    photos: NDArray[np.uint8],
    labels: NDArray[Any],
    judges: Sequence[Judge],
    *,
    others: NDArray[np.uint8] | None = None,
    features: PhotoFeatures | None = None,
    seed: int = 0,
    shown: int = 8,
) -> tuple[ComparedFaces, Image.Image]:
    """Draw and score Figure 9b: faces of several methods from the same labels.

    Each method draws its noise from its own distribution, with the same seed: methods of the same distribution and
    latent size get the same noise. A method whose images are not finite is named as failed.

    Args:
        methods: CGAN, AC-GAN and ours, in the order of the rows.
        photos: (N, S, S, 3) uint8, N at least 1, which the judges were not trained on: what they answer about them is
            what they answer about perfect faces.
        labels: (N, A), their labels, 0 and 1, from which the faces are generated.
        judges: at least one.
        others: (N, S, S, 3) uint8, as many real photos that are not among ``photos``: their distances are those of
            perfect faces. By default ``photos`` themselves, whose Fréchet distance is 0.
        features: of ``photos``; None for no kernel distance.
        seed: of the noise.
        shown: how many faces a row of the picture has.
    """
    rows, titles = [photos[:shown]], ["photo"]
    of_photos = method_faces("photos", photos, photos, labels, judges, features=features)
    if others is not None:
        seen = observed(judges[:1], others).features, observed(judges[:1], photos).features
        of_photos = dataclasses.replace(
            of_photos,
            frechet=frechet_score(seen[0][:, None], seen[1]),
            kernel=features.distance(others) if features else None,
        )
    meaning = (
        "the photos themselves; their distances are those of other photos"
        if others is not None
        else "the photos themselves"
    )
    scores = [of_photos]
    failed: dict[str, str] = {}
    drawn: list[tuple[Tensor, list[str]]] = []
    for method in methods:
        noise = method.draw_noise(len(labels), torch.Generator().manual_seed(seed))
        try:
            images = generated(method, noise, labels)
        except NotFinite as error:
            failed[method.name] = str(error)
            continue
        scores.append(method_faces(method.name, images, photos, labels, judges, features=features, ours=method.ours))
        rows.append(images[:shown])
        titles.append(row_label(method.name, ours=method.ours))
        same = next((group for z, group in drawn if z.shape == noise.shape and torch.allclose(z, noise)), None)
        if same is None:
            drawn.append((noise, [method.name]))
        else:
            same.append(method.name)
    groups = tuple(tuple(group) for _, group in drawn)
    return ComparedFaces(len(labels), tuple(scores), meaning, groups, failed), grid(rows, titles)


def _two_lines(names: Sequence[str]) -> list[str]:
    """Names as a label of at most two lines."""
    half = -(-len(names) // 2)
    return [", ".join(part) for part in (names[:half], names[half:]) if part] if len(names) > 1 else list(names)
