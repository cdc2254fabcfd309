"""The scores of methods as tables, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence

from igan_fast.app.paper.markdown import Table
from igan_fast.app.paper.numbers import marked
from igan_fast.app.paper.scores import AttributeEdits, MethodEdits, MethodFaces

__all__ = ["LEGEND", "edit_tables", "face_table"]

_CONFIRMED, _BALANCED = "flips confirmed", "at the balanced threshold"
_KERNEL = "kernel distance"
_CHANGE, _OTHERS = "change of the probability", "change of the others"

#: What the columns and some rows mean, by their headers.
LEGEND = {
    _CONFIRMED: "share of the photos in which the judge's answer is what a flip asked for; a flip sets an attribute to "
    "the opposite of the photo's label. Judges are networks that were trained on real photos only",
    _BALANCED: "the same where the judge answers “present” above the probability at which its two kinds of error are "
    "equally frequent, instead of 0.5",
    _CHANGE: "how much higher the judge's probability is with the attribute set to 1 than set to 0",
    _OTHERS: "by how much a flip changes the judge's probabilities of the other attributes, beside the photo (lower is "
    "better)",
    "changes seen": "share of the changes asked for that the judge sees, over photos and attributes",
    "all seen": "share of the photos in which it sees all of them",
    "seen": "share of the attributes set to 1 that the judge sees, over faces and attributes",
    "with unchanged labels": "the same of faces from the same noise, whose labels were left as they were",
    "no edit": "the scores of the photos themselves, and of our rebuilds of them: what goes beyond these comes from "
    "the edit",
    "identity": "distance from the person in the photo, by a face recognition network (lower is better)",
    "Fréchet": "Fréchet distance from the photos in the features of the first judge (lower is better). It is not the "
    "FID. It falls with the number of images, so it compares only within a table",
    _KERNEL: "squared maximum mean discrepancy from the photos in the features of the network that the "
    "protocol names, of at most 600 images (lower is better; 0 on average for other photos). In Inception features it "
    "is the KID. Edits of all attributes count together",
    "Hamming loss": "share of the judge's answers that differ from the labels that a face was generated from (lower is "
    "better)",
    "brackets": "95 % intervals over the photos: bootstrap; of Fréchet and kernel distances the jackknife; of times "
    "the quartiles",
}


def edit_tables(methods: Sequence[MethodEdits]) -> tuple[Table, ...]:
    """Return the scores of edits: for each judge a table of the means and one of the attributes, and one of images."""
    tables = []
    for place, judge in enumerate(methods[0].judges):
        means, each = [], []
        for method in methods:
            name, scores = marked(method.method, ours=method.ours), method.judges[place]
            means.append((name, *_cells(scores.mean)))
            each += [(name, attribute, *_cells(found)) for attribute, found in scores.attributes.items()]
        columns = (_CONFIRMED, _BALANCED, _CHANGE, _OTHERS)
        tables.append(Table(("method", *columns), tuple(means), f"Edits, as the {judge.judge} sees them: means"))
        header = ("method", "attribute", *columns)
        tables.append(Table(header, tuple(each), f"Edits, as the {judge.judge} sees them: each attribute"))
    rows = tuple(
        (
            marked(method.method, ours=method.ours),
            method.identity.text(".2f") if method.identity else "–",
            method.frechet.text(".2f"),
            method.kernel.text(".4f") if method.kernel else "–",
        )
        for method in methods
    )
    return (*tables, Table(("method", "identity", "Fréchet", _KERNEL), rows, "Edited images"))


def face_table(methods: Sequence[MethodFaces]) -> Table:
    """Return the scores of faces, a row for each method."""
    header = ["method"]
    for judge in methods[0].judges:
        header += [f"Hamming loss, {judge.judge}", "at the balanced thresholds"]
    rows = [
        (
            marked(method.method, ours=method.ours),
            *(score.text() for judge in method.judges for score in (judge.hamming_loss, judge.hamming_loss_balanced)),
            method.frechet.text(".2f"),
            method.kernel.text(".4f") if method.kernel else "–",
        )
        for method in methods
    ]
    return Table((*header, "Fréchet", _KERNEL), tuple(rows), "Generated faces")


def _cells(scores: AttributeEdits) -> tuple[str, ...]:
    return (
        scores.confirmed.text(".0f", percent=True),
        scores.confirmed_balanced.text(".0f", percent=True),
        scores.change.text("+.3f"),
        scores.change_of_others.text(),
    )
