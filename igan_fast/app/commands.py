"""The commands of ``igan-fast``: each is a dataclass whose fields are its options and whose ``run`` does the work.

A command checks all its options before it starts. It writes each file atomically, and overwrites an existing file only
with ``--force``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from tyro.conf import arg

from igan_fast.app.doctor import examine
from igan_fast.app.evaluate_command import Evaluate
from igan_fast.app.neighbours import beside_others
from igan_fast.app.options import (
    Align,
    Along,
    Assignments,
    Device,
    Face,
    Follow,
    Force,
    Json,
    KeepChoice,
    Model,
    Photos,
    Strength,
    chosen_face,
)
from igan_fast.app.paper.plan import PaperOptions
from igan_fast.app.redraw import Redraw, load_editor, model_files, tell_companions
from igan_fast.app.results import (
    IncrementalJson,
    check_results,
    read_photos,
    sheet_fits,
    write_text,
    written_message,
)
from igan_fast.data.attributes import parse_changes
from igan_fast.data.photos import PHOTO_SUFFIXES, expand_photos
from igan_fast.distributed.process import this_process
from igan_fast.edit_arguments import check_edit
from igan_fast.errors import InputError, printable
from igan_fast.faces import by_photo
from igan_fast.reference.editing import STRENGTH
from igan_fast.train.grids import grid, save_png
from igan_fast.train.run_config import RunConfig

__all__ = ["Command", "Doctor", "Evaluate", "Generate", "Paper", "Rebuild", "Recognise", "Train", "Transform"]

_FACE = re.compile(r"face-\d{4,}\.png")


class Command(Protocol):
    """The interface of the dataclasses below."""

    def run(self) -> None: ...


@dataclass(frozen=True)
class Recognise:
    """Say which attributes the faces in photos have."""

    photos: Photos
    model: Model
    json: Json = None
    """Write {photo: {attribute: probability}} to this file instead of printing a table; - prints it. With --face all
    each photo has a list, one {attribute: probability} per face."""
    align: Align = "auto"
    face: Face = "largest"
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        face = chosen_face(self.align, self.face)
        photos = expand_photos(self.photos)
        _check_json(self.json, self.force, [*photos, *model_files(self.model)])
        editor = load_editor(self.model, self.device)
        with IncrementalJson(self.json) if self.json else nullcontext() as growing:
            for paths, opened in read_photos(photos, editor.face_search(self.align, face)):
                recognised = by_photo(opened, editor.recognise([crop for photo in opened for crop in photo.crops]))
                if growing:
                    rows = [each if face == "all" else each[0] for each in recognised]
                    growing.add(dict(zip(map(str, paths), rows, strict=True)))
                    continue
                for path, each in zip(paths, recognised, strict=True):
                    for number, row in enumerate(each, start=1):
                        print(printable(path) + (f", face {number}" if len(each) > 1 else ""))
                        for name, probability in sorted(row.items(), key=lambda item: -item[1]):
                            print(f"  {probability:4.0%}  {printable(name)}")
                sys.stdout.flush()


@dataclass(frozen=True)
class Generate:
    """Draw new faces, with the attributes asked for."""

    model: Model
    out: Annotated[Path, arg(metavar="FILE.png|DIR")]
    """A .png file for one sheet of all faces, or a folder for one file per face."""
    n: Annotated[int, arg(aliases=["-n"])] = 64
    """How many faces."""
    attributes: Assignments = ()
    """Attributes to set, such as Smiling=1 Male=0; the others are those of a random person."""
    strength: Strength = STRENGTH
    companions: Along = True
    seed: int = 0
    """The same seed draws the same faces."""
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        check_edit(self.strength, self.companions)
        sheet = self.out.suffix.lower() == ".png" and not self.out.is_dir()
        if not sheet and self.out.suffix.lower() in PHOTO_SUFFIXES and not self.out.is_dir():
            raise InputError(
                f"--out {self.out}: expected a name that ends in .png for a sheet, or a folder for a file each"
            )
        check_results([self.out] if sheet else self._existing(), force=self.force, given=model_files(self.model))
        editor = load_editor(self.model, self.device)
        changes = parse_changes(self.attributes, editor.attributes)
        if flipped := [name for name, value in changes.items() if value == "flip"]:
            raise InputError(f"--set {flipped[0]}=flip: there is no photo to flip it in; expected a number from 0 to 1")
        if sheet and not sheet_fits(self.n, editor.image_size):
            raise InputError(f"--n: {self.n:,} faces are too many for one sheet; expected a folder as --out")
        batches = editor.generate_batches(
            self.n,
            changes,
            strength=self.strength,
            companions=self.companions,
            seed=self.seed,
        )
        if self.companions:
            tell_companions(editor, changes)
        if sheet:
            faces = [face for batch in batches for face in batch]
            columns = max(1, round((len(faces) * 4 / 3) ** 0.5))
            save_png(grid([faces[i : i + columns] for i in range(0, len(faces), columns)]), self.out)  # type: ignore[misc]
            print(written_message([self.out]))
            return
        written: list[Path] = []
        try:
            for batch in batches:
                for face in batch:
                    written.append(save_png(face, self._file(len(written))))
        finally:
            if written:
                print(written_message(written))

    def _file(self, index: int) -> Path:
        return self.out / f"face-{index:04d}.png"

    def _existing(self) -> list[Path]:
        """Return the first result and those that exist already. All of them could be a million."""
        there = [path.name for path in self.out.iterdir()] if self.out.is_dir() else []
        numbers = [int(name[5:-4]) for name in there if _FACE.fullmatch(name)]
        return [self._file(index) for index in sorted({0, *(k for k in numbers if k < self.n)})]


@dataclass(frozen=True)
class Rebuild:
    """Draw photos again from what the model recognises in them."""

    photos: Photos
    model: Model
    out: Annotated[Path, arg(metavar="DIR|FILE.png")]
    """Folder for the results, one NAME-rebuilt.png per photo. For a single photo also a .png file."""
    grid: Annotated[Path | None, arg(metavar="FILE.png")] = None
    """Also draw photos and rebuilds side by side into this file."""
    align: Align = "auto"
    face: Face = "largest"
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        face = chosen_face(self.align, self.face)
        Redraw(self.photos, self.model, self.out, self.grid, "rebuilt", self.force, self.align, face).run(
            self.device, ()
        )


@dataclass(frozen=True)
class Transform:
    """Change attributes of the faces in photos."""

    photos: Photos
    model: Model
    out: Annotated[Path, arg(metavar="DIR|FILE.png")]
    """Folder for the results, one NAME-edited.png per photo. For a single photo also a .png file."""
    attributes: Assignments
    """The changes, such as Eyeglasses=1 Bald=0 Bangs=flip. A sign gives one its own strength, such as Eyeglasses=+2."""
    keep: KeepChoice = "photo"
    strength: Strength = STRENGTH
    companions: Along = True
    grid: Annotated[Path | None, arg(metavar="FILE.png")] = None
    """Also draw photos, rebuilds and edits side by side into this file."""
    align: Align = "auto"
    face: Face = "largest"
    follow: Follow = None
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        if not self.attributes:
            raise InputError("--set: found nothing, expected at least one change such as Smiling=1")
        face = chosen_face(self.align, self.face)
        Redraw(self.photos, self.model, self.out, self.grid, "edited", self.force, self.align, face, self.follow).run(
            self.device, self.attributes, keep=self.keep, strength=self.strength, companions=self.companions
        )


@dataclass(frozen=True)
class Doctor:
    """Show what igan-fast can use on this machine, what is missing, and how to fix it."""

    json: Json = None
    """Write the report to this file as JSON instead of printing it as text; - prints the JSON."""
    force: Force = False

    def run(self) -> None:
        _check_json(self.json, self.force, ())
        report = examine()
        if self.json and str(self.json) != "-":
            write_text(self.json, report.to_json())
        else:
            print(report.to_json() if self.json else report.text())
        if report.problems:
            raise InputError("; ".join(report.problems))


@dataclass(frozen=True)
class Train:
    """The commands ``train`` and ``baseline``; their options are the fields of the config."""

    config: RunConfig

    def run(self) -> None:
        from igan_fast.train import train

        result = train(self.config, beside=beside_others)
        if result.interrupted:
            raise KeyboardInterrupt
        if not this_process().is_first:
            return
        print(f"run: {printable(result.run)}")
        print(f"checkpoint: {printable(result.checkpoint)}")
        print(f"samples: {printable(result.samples)}")


@dataclass(frozen=True, kw_only=True)
class Paper(PaperOptions):
    """Run the paper's experiments: train every method, and write all figures and tables with ours beside it."""

    def run(self) -> None:
        from igan_fast.app.paper.experiment import run_paper

        print(f"page: {printable(run_paper(self))}")


def _check_json(path: Path | None, force: bool, given: Sequence[Path]) -> None:
    check_results([path] if path and str(path) != "-" else [], force=force, given=given)
