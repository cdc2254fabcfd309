"""The commands of ``igan-fast``: each is a dataclass whose fields are its options and whose ``run`` does the work.

A command checks all its options before it starts. It writes each file atomically, and overwrites an existing file only
with ``--force``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, cast

from tyro.conf import FlagCreatePairsOff, Positional, arg

from igan_fast.app.doctor import examine
from igan_fast.app.neighbours import beside_others
from igan_fast.app.paper.plan import PaperOptions
from igan_fast.app.redraw import Redraw, load_editor, model_files, tell_companions
from igan_fast.app.results import IncrementalJson, check_results, read_photos, sheet_fits, written_message
from igan_fast.data.attributes import parse_changes
from igan_fast.data.photos import PHOTO_SUFFIXES, expand_photos
from igan_fast.edit_arguments import check_edit
from igan_fast.errors import InputError, printable
from igan_fast.files import write_file
from igan_fast.paths import given_path
from igan_fast.reference.editing import STRENGTH
from igan_fast.train.grids import grid, save_png
from igan_fast.train.run_config import RunConfig

__all__ = ["Command", "Doctor", "Evaluate", "Generate", "Paper", "Rebuild", "Recognise", "Train", "Transform"]

Photos = Annotated[
    Positional[tuple[Path, ...]],
    arg(metavar="PHOTO ...", help="Photos, or folders of photos.", help_behavior_hint="(required)"),
]
Model = Annotated[Path, arg(metavar="RUN", help="A run folder (its best checkpoint), or a checkpoint folder.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], arg(help="'auto' takes the GPU if there is one.")]
Force = Annotated[FlagCreatePairsOff[bool], arg(help="Overwrite existing files, except those that are read.")]
Assignments = Annotated[tuple[str, ...], arg(name="set", metavar="NAME=VALUE ...")]
Strength = Annotated[float, arg(help="How strong the edits are, from 0 to 10; 1 takes the values as they are set.")]
Along = Annotated[bool, arg(help="Attributes that correlate with a changed one move along, such as a beard with Male.")]
Json = Annotated[Path | None, arg(metavar="FILE|-")]

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
    """Write {photo: {attribute: probability}} to this file instead of printing a table; - prints it."""
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        photos = expand_photos(self.photos)
        _check_json(self.json, self.force, [*photos, *model_files(self.model)])
        editor = load_editor(self.model, self.device)
        if self.json is None:
            for paths, images in read_photos(photos, editor.image_size):
                for photo, row in zip(paths, editor.recognise(images), strict=True):
                    print(printable(photo))
                    for name, probability in sorted(row.items(), key=lambda item: -item[1]):
                        print(f"  {probability:4.0%}  {printable(name)}")
                sys.stdout.flush()
            return
        with IncrementalJson(self.json) as growing:
            for paths, images in read_photos(photos, editor.image_size):
                growing.add(dict(zip(map(str, paths), editor.recognise(images), strict=True)))


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
            raise InputError(f"--out {self.out}: expected a name in .png for a sheet, or a folder for a file each")
        check_results([self.out] if sheet else self._existing(), force=self.force, given=model_files(self.model))
        editor = load_editor(self.model, self.device)
        changes = parse_changes(self.attributes, editor.attributes)
        if flipped := [name for name, value in changes.items() if value == "flip"]:
            raise InputError(f"--set {flipped[0]}=flip: there is no photo to flip it in; expected a number from 0 to 1")
        if sheet and not sheet_fits(self.n, editor.image_size):
            raise InputError(f"--n: {self.n:,} faces are too many for one sheet; expected a folder as --out")
        batches = editor.generate_batches(
            self.n,
            cast("dict[str, float]", changes),
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
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        Redraw(self.photos, self.model, self.out, self.grid, "rebuilt", self.force).run(self.device, ())


@dataclass(frozen=True)
class Transform:
    """Change attributes of the faces in photos."""

    photos: Photos
    model: Model
    out: Annotated[Path, arg(metavar="DIR|FILE.png")]
    """Folder for the results, one NAME-edited.png per photo. For a single photo also a .png file."""
    attributes: Assignments
    """The changes, such as Eyeglasses=1 Bald=0 Bangs=flip."""
    strength: Strength = STRENGTH
    companions: Along = True
    grid: Annotated[Path | None, arg(metavar="FILE.png")] = None
    """Also draw photos, rebuilds and edits side by side into this file."""
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        if not self.attributes:
            raise InputError("--set: found nothing, expected at least one change such as Smiling=1")
        Redraw(self.photos, self.model, self.out, self.grid, "edited", self.force).run(
            self.device, self.attributes, strength=self.strength, companions=self.companions
        )


@dataclass(frozen=True)
class Evaluate:
    """Score a model on held-out photos: recognition, rebuilds, generated faces, and whether edits show."""

    model: Model
    data: str = "drawn"
    """'drawn', or a folder as for train."""
    split: Literal["train", "val", "test"] = "val"
    """Which photos to score on."""
    limit: int | None = None
    """Score at most this many photos."""
    judges: Literal[0, 1, 2] = 2
    """How many CNNs judge the edits. They are trained on the real photos, once, then cached."""
    strength: Strength = STRENGTH
    companions: Along = True
    embedder: Annotated[str | None, arg(metavar="MODULE:FUNCTION")] = None
    """Function from images (N, S, S, 3) uint8 to embeddings (N, E), for identity; None: dlib's, if installed."""
    inception: Annotated[Path | None, arg(metavar="FILE")] = None
    """TorchScript file of an Inception network (NVIDIA's inception-2015-12-05.pt), for the KID and FID of papers."""
    kid_images: int = 1000
    """Measure the KID on at most this many images of each kind."""
    json: Json = None
    """Write every score to this file too; - prints it instead of the table."""
    plot: Annotated[Path | None, arg(metavar="FILE.png")] = None
    """Draw the scores into this file too."""
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        from igan_fast.app.evaluate import evaluate
        from igan_fast.app.report import check_plot

        if self.plot:
            check_plot(self.plot)
        data = [] if self.data in ("drawn", "") else [given_path(self.data, "data")]
        given = [*model_files(self.model), *data, *([self.inception] if self.inception else [])]
        check_results(
            [path for path in (self.json, self.plot) if path and str(path) != "-"], force=self.force, given=given
        )
        scores = evaluate(
            self.model,
            self.data,
            split=self.split,
            limit=self.limit,
            judges=self.judges,
            strength=self.strength,
            companions=self.companions,
            embedder=self.embedder,
            inception=self.inception,
            kid_images=self.kid_images,
            device=self.device,
        )
        to_stdout = str(self.json) == "-"
        print(scores.to_json() if to_stdout else scores.table())
        if self.json and not to_stdout:
            _write_text(self.json, scores.to_json())
        if self.plot:
            scores.plot(self.plot)
            if not to_stdout:
                print(written_message([self.plot]))


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
            _write_text(self.json, report.to_json())
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


def _write_text(path: Path, text: str) -> None:
    write_file(path, (text.rstrip("\n") + "\n").encode())
    print(written_message([path]))
