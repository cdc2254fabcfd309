"""Figures 6, 7 and 9a: edits of photos, by our model and by others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igan_fast.app.paper.comparison import PhotoFeatures
from igan_fast.app.paper.identity import IdentityRange, first_distances, identity_range, identity_sentence
from igan_fast.app.paper.images import NotFinite, flipped, rebuilt
from igan_fast.app.paper.markdown import Table
from igan_fast.app.paper.methods import NoEdit, Ours, PhotoEditor, RebuildOnly
from igan_fast.app.paper.numbers import SEVERAL, SINGLE, TRANSLATED, Choice, Score, choose, row_label
from igan_fast.app.paper.score_tables import edit_tables
from igan_fast.app.paper.scores import Judge, MethodEdits, method_edits, observed
from igan_fast.errors import printable
from igan_fast.metrics import IdentityScale
from igan_fast.train.grids import grid

__all__ = ["EditedTogether", "Edits", "SeveralEdits", "several_attributes", "single_attributes", "translations"]

_FLIPS = "An edit sets an attribute to the opposite of the photo's label; below each image is the value asked for."


@dataclass(frozen=True)
class Edits:
    """The numbers of Figure 6 or 9a."""

    title: str
    text: str
    """What the figure shows."""
    choice: Choice
    photos: int
    """How many were edited; the figure shows the first of them."""
    methods: tuple[MethodEdits, ...]
    """The first is no edit at all: the photos themselves; then come the methods and the rebuilds of ours."""
    identity: IdentityRange | None
    failed: dict[str, str]
    """Why a method or the scores of an attribute are missing, by name."""

    @property
    def shown(self) -> str:
        return f"{self.text} {self.choice.sentence} {identity_sentence(self.identity)}"

    def tables(self) -> tuple[Table, ...]:
        return edit_tables(self.methods) if self.methods else ()


def single_attributes(
    method: Ours,
    photos: NDArray[np.uint8],
    labels: NDArray[Any],
    names: Sequence[str],
    judges: Sequence[Judge],
    *,
    identities: IdentityScale | None = None,
    features: PhotoFeatures | None = None,
    shown: int = 8,
) -> tuple[Edits, Image.Image]:
    """Draw and score Figure 6: our edits of single attributes.

    Args:
        method: our model.
        photos: (N, S, S, 3) uint8, N at least 1.
        labels: (N, A), their labels, 0 and 1.
        names: of the A attributes.
        judges: at least one.
        identities: of these photos or the first of them; None for no identity.
        features: of these photos; None for no kernel distance.
        shown: how many of the photos the picture shows.

    Raises:
        NotFinite: the model's images are NaN or infinite.
    """
    choice = choose(names, SINGLE)
    first, truth = photos[:shown], labels[:shown]
    rows, titles, captions = [first, rebuilt(method, first)], ["photo", "rebuilt"], [[""] * len(first)] * 2
    for index, name in zip(choice.indices, choice.names, strict=True):
        rows.append(flipped(method, first, truth, [index]))
        titles.append(printable(name))
        captions.append(_asked(truth[:, index]))
    methods = (NoEdit(len(names), method.device), method, RebuildOnly(method))
    numbers = Edits(
        title="Figure 6: single attributes",
        text=f"Photos, their rebuilds, and edits of one attribute each. {_FLIPS}",
        choice=choice,
        photos=len(photos),
        methods=tuple(
            method_edits(each, photos, labels, choice.indices, names, judges, identities, features) for each in methods
        ),
        identity=identity_range(identities),
        failed={},
    )
    return numbers, grid(rows, titles, captions=captions)


def translations(
    methods: Sequence[PhotoEditor],
    photos: NDArray[np.uint8],
    labels: NDArray[Any],
    names: Sequence[str],
    judges: Sequence[Judge],
    *,
    identities: IdentityScale | None = None,
    features: PhotoFeatures | None = None,
    shown: int = 8,
) -> tuple[Edits, Image.Image]:
    """Draw and score Figure 9a: the same edits of the same photos by several methods.

    Only edits that every method can make are scored. A method whose images are not finite, or that can make none of
    the edits, is named as failed.

    Args:
        methods: CycleGAN, StarGAN and ours, in the order of the rows.
        photos, labels, names, judges, identities, features, shown: as of ``single_attributes``.
    """
    choice = choose(names, TRANSLATED)
    first, truth = photos[:shown], labels[:shown]
    rows, titles, captions = [first], ["photo"], [[""] * len(first)]
    able = [method for method in methods if set(choice.indices) & set(method.editable)]
    failed = {
        method.name: f"{method.name} changes none of {', '.join(choice.names)}"
        for method in methods
        if method not in able
    }
    scored = [index for index in choice.indices if all(index in method.editable for method in able)]
    if len(scored) < len(choice.indices):
        left = ", ".join(names[index] for index in choice.indices if index not in scored)
        failed[left] = f"Edits of {left} are not scored, as not every method can make them"
    drawn: dict[str, dict[int, NDArray[np.uint8]]] = {}
    scores = (
        [method_edits(NoEdit(len(names)), photos, labels, scored, names, judges, identities, features)]
        if scored
        else []
    )
    for method in able:
        also = [RebuildOnly(method)] if isinstance(method, Ours) else []
        try:
            rows_of = {
                index: flipped(method, first, truth, [index]) for index in choice.indices if index in method.editable
            }
            scores += [
                method_edits(each, photos, labels, scored, names, judges, identities, features)
                for each in (method, *also)
                if scored
            ]
        except NotFinite as error:
            failed[method.name] = str(error)
        else:
            drawn[method.name] = rows_of
    for index, name in zip(choice.indices, choice.names, strict=True):
        for method in able:
            if index in drawn.get(method.name, {}):
                rows.append(drawn[method.name][index])
                titles.append(f"{printable(name)}\n{row_label(method.name, ours=method.ours)}")
                captions.append(_asked(truth[:, index]))
    numbers = Edits(
        title="Figure 9a: edits beside CycleGAN and StarGAN",
        text=f"The same edits of the same photos by each method. {_FLIPS}",
        choice=choice,
        photos=len(photos),
        methods=tuple(scores),
        identity=identity_range(identities),
        failed=failed,
    )
    return numbers, grid(rows, titles, captions=captions)


@dataclass(frozen=True)
class EditedTogether:
    """Edits of several attributes at once."""

    attributes: tuple[str, ...]
    seen: dict[str, Score]
    """By judge: share of the changes that it sees at the threshold 0.5, over photos and attributes."""
    seen_balanced: dict[str, Score]
    """The same at its balanced thresholds, over the attributes that have one."""
    all_seen: dict[str, Score]
    """By judge: share of the photos in which it sees all of them, at the threshold 0.5."""
    identity: Score | None


@dataclass(frozen=True)
class SeveralEdits:
    """The numbers of Figure 7."""

    method: str
    choice: Choice
    photos: int
    """How many were edited; the figure shows the first of them."""
    steps: tuple[EditedTogether, ...]
    """The first attribute, the first two, and so on."""
    identity: IdentityRange | None

    @property
    def title(self) -> str:
        return "Figure 7: several attributes at once"

    @property
    def shown(self) -> str:
        return (
            "Photos, their rebuilds, and edits of more and more attributes at once. Each row flips one more attribute "
            f"from the photo's label. {self.choice.sentence} {identity_sentence(self.identity)}"
        )

    def tables(self) -> tuple[Table, ...]:
        return tuple(
            Table(
                ("attributes", "changes seen", "at the balanced thresholds", "all seen", "identity"),
                tuple(
                    (
                        ", ".join(step.attributes),
                        step.seen[judge].text(".0f", percent=True),
                        step.seen_balanced[judge].text(".0f", percent=True),
                        step.all_seen[judge].text(".0f", percent=True),
                        step.identity.text(".2f") if step.identity else "–",
                    )
                    for step in self.steps
                ),
                f"Edits by {self.method} (ours), as the {judge} sees them",
            )
            for judge in self.steps[0].seen
        )


def several_attributes(
    method: Ours,
    photos: NDArray[np.uint8],
    labels: NDArray[Any],
    names: Sequence[str],
    judges: Sequence[Judge],
    *,
    identities: IdentityScale | None = None,
    shown: int = 8,
) -> tuple[SeveralEdits, Image.Image]:
    """Draw and score Figure 7: our edits of up to six attributes at once.

    Args:
        method, photos, labels, names, judges, identities, shown: as of ``single_attributes``.

    Raises:
        NotFinite: the model's images are NaN or infinite.
    """
    choice = choose(names, SEVERAL)
    first = photos[:shown]
    rows, titles, steps = [first, rebuilt(method, first)], ["photo", "rebuilt"], []
    for count in range(1, len(choice.indices) + 1):
        indices = list(choice.indices[:count])
        images = flipped(method, photos, labels, indices)
        rows.append(images[:shown])
        titles.append(("+ " if count > 1 else "") + printable(choice.names[count - 1]))
        answers = observed(judges, images).probabilities[:, :, indices]  # (J, N, count)
        asked = labels[:, indices] < 0.5
        seen, balanced, together = {}, {}, {}
        for judge, found in zip(judges, answers, strict=True):
            thresholds = judge.thresholds[indices]
            right, known = (found > 0.5) == asked, ~np.isnan(thresholds)
            seen[judge.name] = Score.of(right.mean(axis=1))
            together[judge.name] = Score.of(right.all(axis=1))
            at_thresholds = ((found > thresholds) == asked)[:, known]
            balanced[judge.name] = Score.of(at_thresholds.mean(axis=1)) if known.any() else Score(None)
        identity = Score.of(first_distances(identities, images)) if identities else None
        steps.append(EditedTogether(choice.names[:count], seen, balanced, together, identity))
    scale = identity_range(identities)
    return SeveralEdits(method.name, choice, len(photos), tuple(steps), scale), grid(rows, titles)


def _asked(labels: NDArray[Any]) -> list[str]:
    return [f"= {int(label < 0.5)}" for label in labels]
