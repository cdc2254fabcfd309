"""The scores of an evaluation, as a table and a plot for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igan_fast.errors import InputError
from igan_fast.files import write_file
from igan_fast.paths import given_path

__all__ = ["AttributeReport", "Evaluation", "Recognition", "check_plot"]


@dataclass(frozen=True)
class Recognition:
    """How well attributes are recognised: means over the attributes."""

    hamming_loss: float
    """Share of wrong answers over all photos and attributes (the paper's Fig. 4)."""
    accuracy: float
    balanced_accuracy: float
    f1: float | None
    """Mean over the attributes for which it is defined; None if there are none."""


@dataclass(frozen=True)
class AttributeReport:
    """The scores of one attribute. A score is None if it is undefined, or if it needs a judge and there was none."""

    name: str
    present: float
    """Share of the photos that have it."""
    majority_accuracy: float
    """Accuracy of the majority answer of the training labels."""
    accuracy: float
    balanced_accuracy: float
    f1: float | None
    judge_accuracy: float | None = None
    """Accuracy of the judge on the same photos."""
    edit_change: float | None = None
    """How much higher the judge's probability is with the attribute set to 1 than set to 0; the mean over photos."""
    edit_confirmed: float | None = None
    """Share of flips after which the judge recognises the requested value."""


@dataclass(frozen=True)
class Evaluation:
    """The protocol and the scores of one evaluation. Scores that need a judge are None if there was none."""

    data: str
    """A line that describes the photos."""
    split: str
    photos: int
    """The number of photos of the split that were scored."""
    image_size: int
    checkpoint: str
    iteration: int
    edit_photos: int
    """The number of photos that were edited."""
    model: Recognition
    majority: Recognition
    """The scores of the majority answer of the training labels, which ignores the photo."""
    judge: Recognition | None
    """The scores of the plain CNN, trained only on real training photos: the paper's baseline."""
    rebuild_l1: float
    """mean|rebuilt − real| of images in [−1, 1]."""
    rebuild_psnr: float
    """Mean over photos, in dB."""
    rebuild_ssim: float
    generated_hamming_loss: float | None
    """Hamming loss of the judge's answers on generated faces, against the labels that they were generated from."""
    attributes: tuple[AttributeReport, ...]

    @property
    def edit_change(self) -> float | None:
        """Mean over the attributes of ``AttributeReport.edit_change``."""
        return _mean([row.edit_change for row in self.attributes])

    @property
    def edit_confirmed(self) -> float | None:
        """Mean over the attributes of ``AttributeReport.edit_confirmed``."""
        return _mean([row.edit_confirmed for row in self.attributes])

    def to_json(self) -> str:
        """Return the fields of this class as JSON; undefined and infinite numbers become null."""
        values = dataclasses.asdict(self)
        values |= {"edit_change": self.edit_change, "edit_confirmed": self.edit_confirmed}
        return json.dumps(_finite(values), indent=2, allow_nan=False)

    def table(self) -> str:
        """Return the protocol, the means, and a line for each attribute as plain text."""
        edits = f"; edits on {self.edit_photos:,} of them" if self.judge else ""
        lines = [
            f"Data      {self.data}",
            f"Protocol  split {self.split}: {self.photos:,} photos at {self.image_size}×{self.image_size}, "
            f"{len(self.attributes)} attributes{edits}",
            f"Model     {self.checkpoint}, iteration {self.iteration:,}",
            "",
        ]
        lines += self._recognition_table()
        lines += [
            "",
            f"Rebuilds: L1 {self.rebuild_l1:.3f} (images in [−1, 1]), PSNR {self.rebuild_psnr:.2f} dB, "
            f"SSIM {self.rebuild_ssim:.3f}",
        ]
        if self.judge:
            lines += [
                f"Edits: the judge's probability changes by {_number(self.edit_change, '+.3f')}; "
                f"it confirms {_number(self.edit_confirmed, '.1%')} of the flips",
                "Generated faces: the judge's Hamming loss against the labels asked for is "
                f"{_number(self.generated_hamming_loss, '.4f')}",
                "(The judge is the plain CNN, trained on the real training photos only.)",
            ]
        return "\n".join([*lines, "", *self._attribute_table()])

    def plot(self, path: str | Path) -> None:
        """Plot for each attribute the accuracies of model and majority and, if there was a judge, the scores of edits.

        Args:
            path: the image file. Its suffix names a format of Matplotlib (.png, .pdf, .svg …). An existing file is
                replaced atomically; missing folders are made.

        Raises:
            InputError: Matplotlib does not know the suffix, or the file cannot be written.
        """
        from matplotlib.figure import Figure

        path = given_path(path, "path")
        check_plot(path)
        rows = self.attributes[::-1]  # the first on top
        names, places = [row.name for row in rows], range(len(rows))
        figure = Figure(figsize=(12 if self.judge else 6.5, 1.8 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots(1, 2 if self.judge else 1, squeeze=False)[0]
        left = axes[0]
        accuracy, majority = [row.accuracy for row in rows], [row.majority_accuracy for row in rows]
        left.barh(places, accuracy, height=0.75, color="#4c72b0", label="model")
        left.scatter(majority, places, marker="|", s=90, linewidths=2, color="#222222", label="majority", zorder=3)
        left.set(title="Recognition: accuracy", xlim=(min(0.5, *accuracy, *majority) - 0.01, 1.01))
        if self.judge:
            cnn = [row.judge_accuracy for row in rows]
            left.scatter(cnn, places, marker="o", s=14, color="#dd8452", label="plain CNN", zorder=3)
            right = axes[1]
            change, confirmed = [row.edit_change or 0.0 for row in rows], [row.edit_confirmed for row in rows]
            right.barh(places, change, height=0.75, color="#55a868", label="change of the judge's probability")
            right.scatter(confirmed, places, marker="o", s=14, color="#c44e52", label="flips confirmed", zorder=3)
            right.set(title=f"Edits of {self.edit_photos:,} photos", xlim=(min(0.0, *change) - 0.02, 1.02))
        for panel in axes:
            panel.set_yticks(places, names if panel is left else [""] * len(names), fontsize=8)
            panel.set_ylim(-0.6, len(rows) - 0.4)
            panel.grid(axis="x", alpha=0.3)
            panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.03 - 0.4 / (len(rows) + 4)), ncols=3, fontsize=8)
        figure.suptitle(
            f"Hamming loss {self.model.hamming_loss:.4f} (majority {self.majority.hamming_loss:.4f}); "
            f"{self.split}, {self.photos:,} photos at {self.image_size}², iteration {self.iteration:,}",
            fontsize=10,
        )
        data = io.BytesIO()
        figure.savefig(data, format=path.suffix[1:].lower(), dpi=120)
        write_file(path, data.getvalue())

    def _recognition_table(self) -> list[str]:
        columns = {"model": self.model, "majority": self.majority}
        if self.judge:
            columns["plain CNN"] = self.judge
        lines = [f"{'Recognition':<20}" + "".join(f"{name:>11}" for name in columns)]
        for field in dataclasses.fields(Recognition):
            title = field.name.replace("_", " ").capitalize()
            cells = (_number(getattr(column, field.name), ".4f") for column in columns.values())
            lines.append(f"{title:<20}" + "".join(f"{cell:>11}" for cell in cells))
        return lines

    def _attribute_table(self) -> list[str]:
        columns = [
            ("present", "present", ".3f"), ("majority_accuracy", "majority", ".3f"), ("accuracy", "accuracy", ".3f"),
            ("balanced_accuracy", "balanced", ".3f"), ("f1", "F1", ".3f"),
        ]  # fmt: skip
        if self.judge:
            columns += [
                ("judge_accuracy", "CNN", ".3f"), ("edit_change", "edit Δp", "+.3f"),
                ("edit_confirmed", "confirmed", ".3f"),
            ]  # fmt: skip
        width = max(len("Attribute"), *(len(row.name) for row in self.attributes)) + 1
        lines = [f"{'Attribute':<{width}}" + "".join(f"{title:>10}" for _, title, _ in columns)]
        for row in self.attributes:
            cells = (_number(getattr(row, name), form) for name, _, form in columns)
            lines.append(f"{row.name:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
        return lines


def check_plot(path: Path) -> None:
    """Raise ``InputError`` if ``Evaluation.plot`` cannot write the format that the suffix of ``path`` names."""
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix.lower()[1:] not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"{path}: Matplotlib cannot write {path.suffix or 'a file without suffix'}; use .png")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _finite(value: Any) -> Any:
    """Return the value, with None in place of each NaN or infinite number, which JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
