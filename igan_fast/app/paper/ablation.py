"""Figure 5: rebuilds of models that were trained with some of the three losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igan_fast.app.paper.identity import IdentityRange, first_distances, identity_range, identity_sentence
from igan_fast.app.paper.images import NotFinite, rebuilt
from igan_fast.app.paper.markdown import Table
from igan_fast.app.paper.methods import Rebuilder
from igan_fast.app.paper.numbers import Score, marked, row_label
from igan_fast.metrics import IdentityScale
from igan_fast.train.grids import grid

__all__ = ["Ablation", "Rebuilds", "ablation"]


@dataclass(frozen=True)
class Rebuilds:
    """The rebuilds of one model."""

    method: str
    ours: bool
    l1: Score
    """mean|rebuild − photo| of images in [−1, 1] (Sec. 3.3.1)."""
    identity: Score | None
    """Distance from the people in the photos; None without an embedder."""
    shown_identity: tuple[float, ...]
    """The same of each rebuild that is shown; empty without an embedder."""


@dataclass(frozen=True)
class Ablation:
    """The numbers of Figure 5."""

    photos: int
    """How many were rebuilt; the figure shows the first of them."""
    methods: tuple[Rebuilds, ...]
    identity: IdentityRange | None
    failed: dict[str, str]
    """Why a method is missing, by its name."""

    @property
    def title(self) -> str:
        return "Figure 5: which losses rebuilds need"

    @property
    def shown(self) -> str:
        below = " The number below each rebuild is its identity." if self.identity else ""
        return (
            "Photos, and their rebuilds by models that were trained with some of the three losses."
            f"{below} {identity_sentence(self.identity)}"
        )

    def tables(self) -> tuple[Table, ...]:
        rows = tuple(
            (
                marked(method.method, ours=method.ours),
                method.l1.text(".4f"),
                method.identity.text(".3f") if method.identity else "–",
            )
            for method in self.methods
        )
        return (Table(("losses", "mean L1", "identity"), rows, f"Rebuilds of {self.photos:,} photos"),)


def ablation(
    methods: Sequence[Rebuilder], photos: NDArray[np.uint8], *, identities: IdentityScale | None = None, shown: int = 8
) -> tuple[Ablation, Image.Image]:
    """Draw and score Figure 5. A method whose images are not finite is named as failed.

    Args:
        methods: the models, such as pixel only, latent only, latent + pixel, all three.
        photos: (N, S, S, 3) uint8, N at least 1.
        identities: of these photos or the first of them; None for no identity.
        shown: how many of the photos the picture shows.
    """
    rows, labels, captions = [photos[:shown]], ["photo"], [[""] * len(photos[:shown])]
    found: list[Rebuilds] = []
    failed: dict[str, str] = {}
    for method in methods:
        try:
            images = rebuilt(method, photos)
        except NotFinite as error:
            failed[method.name] = str(error)
            continue
        l1 = np.abs(images.astype(np.float64) - photos).mean(axis=(1, 2, 3)) / 127.5
        distances = None if identities is None else first_distances(identities, images)
        of_shown = () if distances is None else tuple(map(float, distances[:shown]))
        identity = None if distances is None else Score.of(distances)
        found.append(Rebuilds(method.name, method.ours, Score.of(l1), identity, of_shown))
        rows.append(images[:shown])
        labels.append(row_label(method.name, ours=method.ours))
        texts = [format(value, ".2f") for value in of_shown]
        captions.append(texts + [""] * (len(rows[0]) - len(texts)))
    numbers = Ablation(len(photos), tuple(found), identity_range(identities), failed)
    return numbers, grid(rows, labels, captions=captions if identities is not None else ())
