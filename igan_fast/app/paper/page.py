"""Puts all figures and tables on one Markdown page, with the protocol first, and their numbers into ``paper.json``."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from igan_fast.app.paper.markdown import Table, escaped, markdown_table
from igan_fast.app.paper.numbers import Numbers, marked
from igan_fast.app.paper.score_tables import LEGEND
from igan_fast.files import write_file

__all__ = ["NUMBERS", "PAGE", "Experiment", "Missing", "Part", "TrainedMethod", "page", "write_page"]

#: The names of the files.
PAGE, NUMBERS = "paper.md", "paper.json"


@dataclass(frozen=True)
class TrainedMethod:
    """How one method was trained."""

    name: str
    ours: bool
    minutes: float | None
    """That its iterations took on this machine; None if that is unknown."""
    iterations: int | None
    batch_size: int | None
    settings: Mapping[str, str]
    """By name, such as ``{"learning rate": "2e-4"}``."""
    source: str
    """Which paper or code the settings follow."""


@dataclass(frozen=True)
class Experiment:
    """The protocol: what all figures and tables have in common."""

    data: str
    """A line that describes the photos."""
    split: str
    photos: int
    """The photos of the split that are scored. No method was trained on them."""
    training_photos: int
    image_size: int
    attributes: int
    minutes: float | None
    """The time for which each network was to be trained; None if they differ."""
    machine: str
    software: str
    methods: tuple[TrainedMethod, ...]
    judges: tuple[str, ...]
    """Their names, and how each was trained."""
    identity: str
    """The network that measures identity, or why there is none."""
    comparison: str
    """The network in whose features sets of images are compared with photos, or why there is none."""


@dataclass(frozen=True)
class Part:
    """One figure or table."""

    key: str
    """Its name in ``paper.json``, and the name of its picture without ``.png``, such as ``"figure-5"``."""
    numbers: Numbers
    picture: Image.Image | Figure | None = None


@dataclass(frozen=True)
class Missing:
    """A figure or table that could not be made."""

    key: str
    title: str
    reason: str
    """Such as ``"StarGAN is not trained yet"``."""


def write_page(folder: Path, experiment: Experiment, parts: Sequence[Part | Missing]) -> list[Path]:
    """Write the pictures, ``paper.json`` and ``paper.md`` into a folder.

    All is computed before anything is written. The page comes last, so that its links never lead nowhere.

    Args:
        folder: made if needed. Existing files of these names are replaced, each atomically.
        experiment: the protocol.
        parts: in the order of the page, each key once.

    Returns:
        The files; the page is the last one.

    Raises:
        ValueError: a key is no name of a file, or occurs twice.
        InputError: a file cannot be written.
    """
    keys = [part.key for part in parts]
    for key in keys:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", key) or keys.count(key) > 1 or key == "experiment":
            raise ValueError(f"parts: found the key {key!r}, expected lower-case letters, digits and hyphens, once")
    files = {
        folder / f"{part.key}.png": _png(part.picture)
        for part in parts
        if isinstance(part, Part) and part.picture is not None
    }
    files[folder / NUMBERS] = (to_json(experiment, parts) + "\n").encode()
    files[folder / PAGE] = page(experiment, parts).encode()
    for path, data in files.items():
        write_file(path, data)
    return list(files)


def to_json(experiment: Experiment, parts: Sequence[Part | Missing]) -> str:
    """Return the protocol and the numbers of all parts as JSON. A number that is not finite becomes null."""
    content: dict[str, Any] = {"experiment": _plain(experiment)}
    for part in parts:
        content[part.key] = (
            {"title": part.title, "missing": part.reason}
            if isinstance(part, Missing)
            else {"title": part.numbers.title, "shown": part.numbers.shown, **_plain(part.numbers)}
        )
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=True)


def page(experiment: Experiment, parts: Sequence[Part | Missing]) -> str:
    """Return the page as Markdown. Its links are relative."""
    lines = ["# The paper's experiments", "", *_protocol(experiment), ""]
    for part in parts:
        title = part.title if isinstance(part, Missing) else part.numbers.title
        lines += [f"## {escaped(title)}", ""]
        if isinstance(part, Missing):
            lines += [f"**Missing:** {escaped(part.reason)}", ""]
            continue
        if part.picture is not None:
            lines += [f"![{escaped(title)}]({part.key}.png)", ""]
        lines += [escaped(part.numbers.shown), ""]
        failed: Mapping[str, str] = getattr(part.numbers, "failed", {})
        for reason in failed.values():
            lines += [f"**Missing:** {escaped(reason)}", ""]
        for table in part.numbers.tables():
            lines += [*_table(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def _protocol(experiment: Experiment) -> list[str]:
    given = "each network as long as the table says"
    if experiment.minutes is not None:
        given = (
            f"each network as many iterations as fill {experiment.minutes:g} minutes on this machine, by a "
            "measurement before; the table has the minutes that they took"
        )
    points = {
        "Data": f"{experiment.data}; {experiment.training_photos:,} training photos",
        "Scored": f"{experiment.photos:,} photos of the split {experiment.split}, which no method was trained on",
        "Size": f"{experiment.image_size}×{experiment.image_size} pixels, {experiment.attributes} attributes",
        "Training": f"{given}, with its authors' settings otherwise",
        "Machine": experiment.machine,
        "Software": experiment.software,
        "Judges": "; ".join(experiment.judges) or "none",
        "Identity": experiment.identity,
        "Kernel distance": experiment.comparison,
    }
    rows = tuple(
        (
            marked(method.name, ours=method.ours),
            "–" if method.minutes is None else f"{method.minutes:.3g}",
            "–" if method.iterations is None else f"{method.iterations:,}",
            "–" if method.batch_size is None else f"{method.batch_size:,}",
            ", ".join(f"{name} {value}" for name, value in method.settings.items()) or "–",
            method.source,
        )
        for method in experiment.methods
    )
    header = ("method", "minutes", "iterations", "batch size", "settings", "source of the settings")
    return [
        "The figures and tables of Sec. 4.2 and 5 of *Iterative GAN* (arXiv 1711.06078), with the methods that the "
        "paper compares. Our method is marked with ▶ and “(ours)”. All that was measured is printed, also where ours "
        "loses.",
        "",
        "## Protocol",
        "",
        *(f"- {name}: {escaped(value)}" for name, value in points.items()),
        "",
        *_table(Table(header, rows, "Trained methods")),
        "",
        "**How to read the tables**",
        "",
        *(f"- {escaped(name)}: {escaped(meaning)}." for name, meaning in LEGEND.items()),
    ]


def _table(table: Table) -> list[str]:
    title = [f"**{escaped(table.title)}**", ""] if table.title else []
    return [*title, *markdown_table(table).splitlines()]


def _png(picture: Image.Image | Figure) -> bytes:
    data = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(data, format="PNG")
    else:
        picture.savefig(data, format="png", dpi=120)
    return data.getvalue()


def _plain(value: Any) -> Any:
    """Return the value as JSON can hold it."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
