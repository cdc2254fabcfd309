"""Draws Figure 4 and Table 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from igan_fast.app.paper.numbers import row_label
from igan_fast.app.paper.recognition import THRESHOLD, AnsweredPhotos, ComparedRecognition
from igan_fast.app.report import Interval
from igan_fast.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_answers", "draw_recognition"]

#: The colours of the methods in their order; after the last comes the first again.
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#8c8c8c", "#8172b3", "#c44e52", "#937860", "#da8bc3")
RIGHT, WRONG, INK = "#55a868", "#c44e52", "#222222"


def draw_recognition(numbers: ComparedRecognition) -> Figure:
    """Draw Figure 4: above the Hamming losses, below the accuracies, with their intervals as thin lines.

    The upper axes have a bar for each method, from top to bottom. The lower axes have a group of bars for each
    attribute, from top to bottom, with a bar for each method in the same order and colours.
    ``igan_fast.app.plot.write_figure`` writes the figure to a file.
    """
    from matplotlib.figure import Figure

    methods, count = numbers.methods, len(numbers.attributes)
    above, below = 1 + 0.3 * len(methods), 0.9 + count * (0.08 + 0.065 * len(methods))
    figure = Figure(figsize=(9, above + below), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(above, below))
    height = 0.84 / len(methods)
    ends = [max([method.hamming_loss, *(method.hamming_loss_interval or ())]) for method in methods]
    for order, method in enumerate(methods):
        colour = COLOURS[order % len(COLOURS)]
        upper.barh([order], [method.hamming_loss], height=0.75, color=colour)
        _draw_intervals(upper, [order], [method.hamming_loss_interval])
        upper.annotate(
            f"{method.hamming_loss:.4f}",
            (ends[order], order),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
        places = [index + (order + 0.5) * height - 0.42 for index in range(count)]
        lower.barh(places, method.accuracy, height=height, color=colour)
        _draw_intervals(lower, places, method.accuracy_intervals)
    upper.set(title="Hamming loss (lower is better)", xlim=(0, 1.15 * max(ends) or 1))
    upper.set_yticks(range(len(methods)), [_literal(row_label(method.name, ours=method.ours)) for method in methods])
    upper.set_ylim(len(methods) - 0.5, -0.5)
    least = min(min(method.accuracy) for method in methods)
    lower.set(title="Accuracy (colours as above)", xlim=(max(0.0, min(0.5, least - 0.05)), 1.0))
    lower.set_yticks(range(count), [_literal(name) for name in numbers.attributes], fontsize=8)
    lower.set_ylim(count - 0.4, -0.6)
    for axes in (upper, lower):
        axes.set_axisbelow(True)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{numbers.photos:,} photos; thin lines: 95 % intervals over the photos", fontsize=10)
    return figure


def draw_answers(numbers: AnsweredPhotos, photos: NDArray[np.uint8] | None = None) -> Figure:
    """Draw Table 3: a column for each photo, with a bar for the probability of each attribute.

    A dot at 0 or 1 is the truth. Right answers are green; wrong ones are red and have a cross at the right.
    ``igan_fast.app.plot.write_figure`` writes the figure to a file.

    Args:
        photos: (N, S, S, 3) uint8, all scored photos in their order; those that are shown stand above their columns.
            By default the columns have only the numbers of the photos.

    Raises:
        ValueError: the shape or the dtype of ``photos`` does not fit.
    """
    from matplotlib.figure import Figure

    if photos is not None and (
        photos.ndim != 4 or photos.shape[::3] != (numbers.photos, 3) or photos.dtype != np.uint8
    ):
        raise ValueError(
            f"photos: found {photos.dtype} of shape {photos.shape}, expected uint8 of ({numbers.photos}, S, S, 3)"
        )
    columns, count = len(numbers.answers), len(numbers.attributes)
    above, below = 1.6, 0.9 + 0.19 * count
    figure = Figure(figsize=(1.8 + 1.6 * columns, 0.5 + below + (0 if photos is None else above)), layout="constrained")
    heights = (below,) if photos is None else (above, below)
    panels = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    places = range(count)
    for column, answers in enumerate(numbers.answers):
        if photos is not None:
            panels[0, column].imshow(photos[answers.photo])
            panels[0, column].set_axis_off()
        axes = panels[-1, column]
        axes.barh(
            places, answers.probabilities, height=0.75, color=[RIGHT if right else WRONG for right in answers.right]
        )
        axes.scatter(answers.labels, places, s=10, color=INK, zorder=3)
        for place in places:
            if not answers.right[place]:
                axes.text(1.2, place, "✗", color=WRONG, ha="center", va="center", fontsize=9)
        axes.axvline(THRESHOLD, color=INK, linewidth=0.6)
        axes.set(xlim=(-0.08, 1.32), ylim=(count - 0.4, -0.6))
        axes.set_title(f"photo {answers.photo + 1:,}", fontsize=9)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
        axes.set_xlabel(f"{answers.right.count(False)} wrong", fontsize=9)
        names = [_literal(name) for name in numbers.attributes] if column == 0 else [""] * count
        axes.set_yticks(places, names, fontsize=8)
    figure.suptitle(f"{_literal(numbers.method)}: probabilities (bars) and truth (dots)", fontsize=10)
    return figure


def _draw_intervals(axes: Axes, places: Sequence[float], intervals: Sequence[Interval]) -> None:
    """Draw horizontal lines from the lower to the upper ends; an interval that is not known is left out."""
    known = [(place, *found) for place, found in zip(places, intervals, strict=True) if found is not None]
    rows, low, high = ([each[part] for each in known] for part in range(3))
    axes.hlines(rows, low, high, colors=INK, linewidth=0.8)


def _literal(name: str) -> str:
    """The name as Matplotlib shows it literally: it would take what stands between two dollar signs as a formula."""
    return printable(name).replace("$", r"\$")
