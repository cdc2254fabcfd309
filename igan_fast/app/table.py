"""Prints the scores of an evaluation as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from igan_fast.app.report import (
        AttributeReport,
        Evaluation,
        IdentityReport,
        Interval,
        JudgedAttribute,
        JudgeReport,
        KIDReport,
        Recognition,
    )

__all__ = ["table"]

#: Width of a column of means, and of the titles to the left of them.
MEAN, TITLE = 25, 42


def table(evaluation: Evaluation) -> str:
    """See ``Evaluation.table``. No line is wider than 120 characters, unless a name or a path is long."""
    lines = [*_protocol(evaluation), "", *_recognition(evaluation), "", *_images(evaluation), ""]
    if evaluation.identity:
        lines += [*_identity(evaluation.identity, evaluation.image_size), ""]
    if evaluation.judges:
        lines += [*_judged(evaluation), ""]
    lines += _recognition_by_attribute(evaluation)
    if evaluation.judges:
        lines += ["", *_edits_by_attribute(evaluation)]
    return "\n".join(lines)


def _protocol(evaluation: Evaluation) -> list[str]:
    lines = [
        f"Data      {evaluation.data}",
        f"Protocol  split {evaluation.split}: {evaluation.photos:,} photos at "
        f"{evaluation.image_size}×{evaluation.image_size}, {len(evaluation.attributes)} attributes; "
        "in brackets: 95 % intervals",
        f"Edits     {'added to the photo' if evaluation.edit_keep == 'photo' else 'drawn again'}, "
        f"strength {evaluation.edit_strength:g}, "
        f"{'companions move along' if evaluation.edit_companions else 'without companions'}"
        + (f"; judged on {evaluation.edit_photos:,} of the photos" if evaluation.judges else ""),
        f"Model     {evaluation.checkpoint}, iteration {evaluation.iteration:,}",
        *textwrap.wrap(
            f"Additions {evaluation.additions} (to the paper)", 110, subsequent_indent=" " * 10, break_on_hyphens=False
        ),
    ]
    if evaluation.judges:
        names = " and ".join(judge.name for judge in evaluation.judges)
        only = "each trained" if len(evaluation.judges) > 1 else "trained"
        lines.append(f"Judges    {names}, {only} on real training photos only")
    for missing in evaluation.missing:
        lines += textwrap.wrap(f"Missing   {missing}", 110, subsequent_indent=" " * 10, break_on_hyphens=False)
    return lines


def _recognition(evaluation: Evaluation) -> list[str]:
    columns = {"model": evaluation.model, "majority": evaluation.majority}
    columns |= {judge.name: judge.recognition for judge in evaluation.judges}
    width = 24
    lines = [f"{'Recognition':<20}" + "".join(f"{name:>{width}}" for name in columns)]

    def cell(scores: Recognition, name: str) -> str:
        interval = scores.hamming_loss_interval if name == "hamming_loss" else None
        return _number(getattr(scores, name), ".4f", interval)

    for name in ("hamming_loss", "accuracy", "balanced_accuracy", "f1"):
        title = name.replace("_", " ").capitalize()
        lines.append(f"{title:<20}" + "".join(f"{cell(column, name):>{width}}" for column in columns.values()))
    return lines


def _images(evaluation: Evaluation) -> list[str]:
    sets = {
        "rebuilt": evaluation.rebuilt,
        "edited": evaluation.edited,
        "generated": evaluation.generated,
        "training photos": evaluation.training_photos,
    }
    lines = [
        f"Rebuilds: L1 {_number(evaluation.rebuild_l1, '.3f', evaluation.rebuild_l1_interval)} (images in [−1, 1]), "
        f"PSNR {evaluation.rebuild_psnr:.2f} dB, SSIM {evaluation.rebuild_ssim:.3f}",
        "",
        f"{'Images beside the photos':<{TITLE}}" + "".join(f"{name:>17}" for name in sets),
        f"{'Grain':<{TITLE}}" + "".join(f"{_number(found.grain, '.2f'):>17}" for found in sets.values()),
    ]
    if evaluation.judges:
        cells = (f"{_number(found.frechet_in_judge, '.2f'):>17}" for found in sets.values())
        lines.append(f"{'Fréchet distance in the judge (not FID)':<{TITLE}}" + "".join(cells))
    return lines + _kid([found.kid for found in sets.values()])


def _kid(reports: Sequence[KIDReport | None]) -> list[str]:
    known = [report for report in reports if report]
    if not known:
        return []
    # A value is some thousandths, and is usually printed like this.
    values = [_number(1000 * report.value, ".2f") if report else "–" for report in reports]
    intervals = [
        "{:.2f}–{:.2f}".format(*(1000 * end for end in report.interval)) if report and report.interval else "–"
        for report in reports
    ]
    inception = known[0].fid is not None
    title = "KID × 1000 (Inception)" if inception else f"KID × 1000 in {known[0].features} (not FID)"
    subsets = f"  95 % of random subsets of {known[0].subset_size:,} of {known[0].images:,}"
    rows = [(title, values), (subsets, intervals)]
    if inception:
        rows.append(("FID (Inception)", [_number(report.fid if report else None, ".2f") for report in reports]))
    return [f"{name:<{TITLE}}" + "".join(f"{cell:>17}" for cell in cells) for name, cells in rows]


def _identity(identity: IdentityReport, image_size: int) -> list[str]:
    names = ("floor", "rebuilt", "edited", "ceiling")
    cells = [_number(getattr(identity, name), ".2f", getattr(identity, f"{name}_interval")) for name in names]
    size, other = identity.reference_size, "another person's photo" if identity.people_known else "another photo"
    return [
        f"{f'Identity ({identity.embedder})':<{TITLE}}" + "".join(f"{name:>19}" for name in names),
        f"{'Distance from the photo':<{TITLE}}" + "".join(f"{cell:>19}" for cell in cells),
        f"  {identity.photos:,} photos at {size}×{size}; floor: the same photo at {image_size}×{image_size}; "
        f"ceiling: {other}",
    ]


def _judged(evaluation: Evaluation) -> list[str]:
    judges = evaluation.judges
    lines = [f"{'Edits: means over the attributes':<{TITLE}}" + "".join(f"{judge.name:>{MEAN}}" for judge in judges)]

    def add(title: str, cell: Callable[[JudgeReport], str]) -> None:
        lines.append(f"{title:<{TITLE}}" + "".join(f"{cell(judge):>{MEAN}}" for judge in judges))

    add("Flips confirmed", lambda judge: _share(judge.edit_confirmed, judge.edit_confirmed_interval))
    add("  without an edit", lambda judge: _share(judge.unedited_confirmed))
    add(
        "  the judge's own recall on photos",
        lambda judge: f"{_share(judge.recall_present)}, absent {_share(judge.recall_absent)}",
    )
    add(
        "At the balanced threshold: confirmed",
        lambda judge: _share(judge.edit_confirmed_balanced, judge.edit_confirmed_balanced_interval),
    )
    add("  without an edit", lambda judge: _share(judge.unedited_confirmed_balanced))
    add(
        "  the judge's own recall on photos",
        lambda judge: f"{_share(judge.balanced_recall_present)}, absent {_share(judge.balanced_recall_absent)}",
    )
    add("Change of the probability", lambda judge: _number(judge.edit_change, "+.3f", judge.edit_change_interval))
    add("  of the other attributes", lambda judge: _number(judge.change_of_others, ".3f"))
    add("  of those that are no companions either", lambda judge: _number(judge.change_of_unrelated, ".3f"))
    add(
        "Hamming loss on generated faces",
        lambda judge: _number(judge.generated_hamming_loss, ".4f", judge.generated_hamming_loss_interval),
    )
    return lines


def _recognition_by_attribute(evaluation: Evaluation) -> list[str]:
    def cells(row: AttributeReport) -> list[str]:
        scores = [row.present, row.majority_accuracy, row.accuracy, row.balanced_accuracy, row.f1]
        return [_number(score, ".3f") for score in [*scores, *(judge.accuracy for judge in row.judges)]]

    titles = ["present", "majority", "accuracy", "balanced", "F1", *(judge.name for judge in evaluation.judges)]
    widths = [*[10] * 5, *(max(12, len(judge.name) + 2) for judge in evaluation.judges)]
    return _by_attribute(evaluation, "Recognition", titles, widths, cells)


def _edits_by_attribute(evaluation: Evaluation) -> list[str]:
    def each(row: AttributeReport, form: Callable[[JudgedAttribute], str]) -> str:
        return "/".join(form(scores) for scores in row.judges)

    def cells(row: AttributeReport) -> list[str]:
        return [
            each(row, lambda scores: _hundredths(scores.recall_present)),
            each(row, lambda scores: _hundredths(scores.edit_confirmed)),
            each(row, lambda scores: _hundredths(scores.unedited_confirmed)),
            each(row, lambda scores: _number(scores.balanced_threshold, ".2f")),
            each(row, lambda scores: _hundredths(scores.balanced_recall_present)),
            each(row, lambda scores: _hundredths(scores.edit_confirmed_balanced)),
            each(row, lambda scores: _hundredths(scores.unedited_confirmed_balanced)),
            each(row, lambda scores: _hundredths(scores.edit_change, "+.0f")),
            each(row, lambda scores: _hundredths(scores.change_of_unrelated, ".1f")),
        ]

    titles = ["recall", "confirmed", "no edit", "threshold", "recall", "confirmed", "no edit", "change", "unrelated"]
    widths = [9, 11, 9, 12, 9, 11, 9, 13, 11]
    lines = _by_attribute(evaluation, "Edits", titles, widths, cells)
    groups = (("threshold 0.5, in %", 0, 3), ("balanced threshold, in %", 3, 7), ("probability, in %", 7, 9))
    heading = "".join(f"{group:>{sum(widths[first:last])}}" for group, first, last in groups)
    both = f" ({'/'.join(judge.name for judge in evaluation.judges)})" if len(evaluation.judges) > 1 else ""
    return [f"Edits by attribute{both}", f"{heading:>{len(lines[0])}}", *lines]


def _by_attribute(
    evaluation: Evaluation,
    heading: str,
    titles: Sequence[str],
    widths: Sequence[int],
    cells: Callable[[AttributeReport], Sequence[str]],
) -> list[str]:
    """Return the lines of a table that has a row for each attribute."""
    first = max(len(heading), *(len(row.name) for row in evaluation.attributes)) + 1
    rows = [(heading, titles), *((row.name, cells(row)) for row in evaluation.attributes)]
    return [
        f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(found, widths, strict=True))
        for name, found in rows
    ]


def _number(value: float | None, form: str, interval: Interval = None) -> str:
    if value is None:
        return "–"
    text = _signed(value, form)
    form = form.removeprefix("+")
    return text if interval is None else f"{text} ({_signed(interval[0], form)}–{_signed(interval[1], form)})"


def _share(value: float | None, interval: Interval = None) -> str:
    if value is None:
        return "–"
    text = f"{_hundredths(value)} %"
    return text if interval is None else f"{text} ({_hundredths(interval[0])}–{_hundredths(interval[1])})"


def _hundredths(value: float | None, form: str = ".0f") -> str:
    # Rounded first, so that an interval of no width has the digits of its score.
    return "–" if value is None else _signed(round(100 * value, 9), form)


def _signed(value: float, form: str) -> str:
    """Return ``format(value, form)``, but without a minus before 0."""
    return format(float(format(value, form)) + 0.0, form)
