"""Draws the scores of an evaluation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from igan_fast.errors import InputError
from igan_fast.files import write_file
from igan_fast.paths import given_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from igan_fast.app.report import Evaluation

__all__ = ["check_plot", "save_plot", "write_figure"]


def check_plot(path: Path) -> None:
    """Raise ``InputError`` if ``Evaluation.plot`` cannot write the format that the suffix of ``path`` names."""
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix.lower()[1:] not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"{path}: Matplotlib cannot write {path.suffix or 'a file without suffix'}; use .png")


def save_plot(evaluation: Evaluation, path: str | Path) -> None:
    """See ``Evaluation.plot``."""
    from matplotlib.figure import Figure

    path = given_path(path, "path")
    check_plot(path)
    rows = evaluation.attributes[::-1]  # the first on top
    names, places = [row.name for row in rows], range(len(rows))
    judged = bool(evaluation.judges)
    figure = Figure(figsize=(12 if judged else 6.5, 1.8 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2 if judged else 1, squeeze=False)[0]
    left = axes[0]
    accuracy, majority = [row.accuracy for row in rows], [row.majority_accuracy for row in rows]
    left.barh(places, accuracy, height=0.75, color="#4c72b0", label="model")
    left.scatter(majority, places, marker="|", s=90, linewidths=2, color="#222222", label="majority", zorder=3)
    left.set(title="Recognition: accuracy", xlim=(min(0.5, *accuracy, *majority) - 0.01, 1.01))
    if judged:
        cnn = [row.judge_accuracy for row in rows]
        left.scatter(cnn, places, marker="o", s=14, color="#dd8452", label=evaluation.judges[0].name, zorder=3)
        right = axes[1]
        first = [row.judges[0] for row in rows]
        change = [scores.edit_change or 0.0 for scores in first]
        right.barh(places, change, height=0.75, color="#55a868", label="change of the judge's probability")
        for label, marker, size, colour, values in (
            ("flips confirmed", "o", 14, "#c44e52", [scores.edit_confirmed for scores in first]),
            (
                "at the balanced threshold: confirmed",
                "D",
                14,
                "#8172b3",
                [scores.edit_confirmed_balanced for scores in first],
            ),
            (
                "at the balanced threshold: without an edit",
                "|",
                90,
                "#222222",
                [scores.unedited_confirmed_balanced for scores in first],
            ),
        ):
            known = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
            x, y = [value for value, _ in known], [place for _, place in known]
            right.scatter(x, y, marker=marker, s=size, color=colour, label=label, zorder=3)
        right.set(
            title=f"Edits of {evaluation.edit_photos:,} photos, by the first judge",
            xlim=(min(0.0, *change) - 0.02, 1.02),
        )
    for panel in axes:
        panel.set_yticks(places, names if panel is left else [""] * len(names), fontsize=8)
        panel.set_ylim(-0.6, len(rows) - 0.4)
        panel.grid(axis="x", alpha=0.3)
        panel.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.03 - 0.4 / (len(rows) + 4)),
            ncols=3 if panel is left else 2,
            fontsize=8,
        )
    figure.suptitle(
        f"Hamming loss {evaluation.model.hamming_loss:.4f} (majority {evaluation.majority.hamming_loss:.4f}); "
        f"{evaluation.split}, {evaluation.photos:,} photos at {evaluation.image_size}², "
        f"iteration {evaluation.iteration:,}",
        fontsize=10,
    )
    write_figure(figure, path)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure of Matplotlib in the format that the suffix of ``path`` names. Raises ``InputError``."""
    check_plot(path)
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix[1:].lower(), dpi=120)
    write_file(path, data.getvalue())
