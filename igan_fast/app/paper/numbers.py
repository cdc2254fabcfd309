"""Numbers of figures and tables: means with intervals, tables of text, and the choice of attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from igan_fast.app.paper.markdown import Table
from igan_fast.errors import printable
from igan_fast.metrics import bootstrap_interval, frechet_distance

__all__ = [
    "SEVERAL",
    "SINGLE",
    "TRANSLATED",
    "Choice",
    "Numbers",
    "Score",
    "choose",
    "frechet_score",
    "marked",
]

#: The attributes of the paper's Fig. 6 and 8.
SINGLE = ("Male", "Eyeglasses", "Bangs", "Bald")
#: Six attributes of which Fig. 7 changes the first one, two, … six at once. The selection is ours.
SEVERAL = ("Bangs", "Eyeglasses", "Smiling", "Blond_Hair", "Male", "Young")
#: The attributes of the paper's Fig. 9a.
TRANSLATED = ("Bangs", "Eyeglasses", "Bald")

#: The parts into which ``frechet_score`` divides the photos.
GROUPS = 20
#: The 97.5 % quantile of Student's t with GROUPS − 1 degrees of freedom.
STUDENT = 2.093


@dataclass(frozen=True)
class Score:
    """A number and its 95 % interval over the photos."""

    value: float | None
    """None if it is undefined."""
    interval: tuple[float, float] | None = None
    """None with too few photos."""

    @classmethod
    def of(cls, values: NDArray[Any]) -> Score:
        """The mean of values (N,), one for each photo, with a bootstrap interval. NaN stands for a photo without."""
        known = np.asarray(values, np.float64)
        known = known[~np.isnan(known)]
        if not len(known):
            return cls(None)
        low, high = bootstrap_interval(known)
        return cls(float(known.mean()), None if np.isnan(low) else (low, high))

    def text(self, form: str = ".3f", *, percent: bool = False) -> str:
        """``value (low–high)``, or a dash.

        Args:
            form: the format of each number. The ends of the interval have no plus sign.
            percent: write hundredths, with the sign %.
        """

        def number(value: float, form: str) -> str:
            # Rounded first, so that an interval of no width has the digits of its score, and 0 no minus.
            rounded = float(format(round(100 * value, 9) if percent else value, form)) + 0.0
            return format(rounded, form).replace("-", "−")

        if self.value is None:
            return "–"
        found = number(self.value, form) + (" %" if percent else "")
        if self.interval is None:
            return found
        low, high = (number(end, form.removeprefix("+")) for end in self.interval)
        return f"{found} ({low}{' to ' if low.startswith('−') else '–'}{high})"


def frechet_score(features: NDArray[Any], photos: NDArray[Any]) -> Score:
    """The Fréchet distance between images and photos, with a jackknife interval.

    Where K images were made from each photo, it is the mean of K distances, so that all sets are of the same size. A
    bootstrap would draw some photos twice, which raises this distance. So its interval is that of the jackknife (Efron
    and Tibshirani 1993, Sec. 11): the distance without one of 20 parts of the photos, and without the images made from
    them, for each part in turn.

    Args:
        features: (N, K, F), of the K images that were made from each photo.
        photos: (N, F), of the photos.
    """

    def distance(rows: NDArray[np.bool_]) -> float:
        return float(np.mean([frechet_distance(part, photos[rows]) for part in features[rows].swapaxes(0, 1)]))

    count = len(photos)
    value = distance(np.ones(count, np.bool_))
    if np.isnan(value):
        return Score(None)
    if count < 2 * GROUPS:
        return Score(value)
    group = np.arange(count) % GROUPS
    without = np.array([distance(group != left) for left in range(GROUPS)])
    half = STUDENT * float(np.sqrt((GROUPS - 1) / GROUPS * np.sum((without - without.mean()) ** 2)))
    return Score(value, (max(0.0, value - half), value + half))


class Numbers(Protocol):
    """The numbers of one figure or table: a frozen dataclass of plain values, from which the page is written."""

    @property
    def title(self) -> str:
        """Such as ``"Figure 5: ablation of the losses"``."""

    @property
    def shown(self) -> str:
        """What is shown, in a sentence or two."""

    def tables(self) -> tuple[Table, ...]:
        """All its numbers as text."""


def marked(name: str, *, ours: bool) -> str:
    """The name of a method in a table."""
    return f"▶ {name} (ours)" if ours else name


def row_label(name: str, *, ours: bool) -> str:
    """The name of a method beside a row of images."""
    return printable(f"{name} (ours)" if ours else name)


@dataclass(frozen=True)
class Choice:
    """The attributes that a figure takes."""

    names: tuple[str, ...]
    indices: tuple[int, ...]
    """Their places among the attributes of the data."""
    absent: tuple[str, ...]
    """Those that the figure should take, and the data does not have."""

    @property
    def sentence(self) -> str:
        """Which attributes were taken, and why."""
        taken = f"Attributes: {', '.join(self.names)}."
        return taken if not self.absent else f"{taken} The data has no {', '.join(self.absent)}."


def choose(known: Sequence[str], wanted: Sequence[str]) -> Choice:
    """Take those of ``wanted`` that the data has; if it has none, the first of its own, as many as are wanted.

    Args:
        known: the attributes of the data, at least one.
        wanted: names.
    """
    taken = [name for name in wanted if name in known] or list(known[: len(wanted)])
    places = tuple(list(known).index(name) for name in taken)
    return Choice(tuple(taken), places, tuple(name for name in wanted if name not in known))
