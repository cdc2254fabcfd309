"""What the commands do: each is a dataclass whose fields are its options.

Whatever can be refused is refused before any work, and results are written whole, never over an existing file without
``--force``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, cast

from PIL import Image
from tyro.conf import FlagCreatePairsOff, Positional, arg

from igan_fast.data.attributes import Change, parse_changes
from igan_fast.data.photos import PHOTO_SUFFIXES, expand_photos, load_photo
from igan_fast.devices import resolve_device
from igan_fast.doctor import examine
from igan_fast.errors import InputError
from igan_fast.files import check_place, write_file
from igan_fast.train.config import TrainConfig
from igan_fast.train.grids import grid, save_png

if TYPE_CHECKING:
    from igan_fast.editor import FaceEditor

__all__ = ["Command", "Doctor", "Evaluate", "Generate", "Rebuild", "Recognise", "Train", "Transform"]

Photos = Annotated[Positional[tuple[Path, ...]], arg(metavar="PHOTO", help="Photos, or folders of photos.")]
Model = Annotated[Path, arg(metavar="RUN", help="A run folder (its best checkpoint), or a checkpoint folder.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], arg(help="'auto' takes the GPU if there is one.")]
Force = Annotated[FlagCreatePairsOff[bool], arg(help="Write over files that exist.")]
Assignments = Annotated[tuple[str, ...], arg(name="set", metavar="NAME=VALUE")]


class Command(Protocol):
    """What each of the dataclasses below can do."""

    def run(self) -> None: ...


@dataclass(frozen=True)
class Recognise:
    """Say which attributes the faces in photos have."""

    photos: Photos
    model: Model
    json: Path | None = None
    """Write the probabilities to this file instead of printing a table."""
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        photos = expand_photos(self.photos)
        _refuse_existing([self.json] if self.json else [], self.force)
        probabilities = _editor(self.model, self.device).recognise(photos)
        if self.json:
            by_photo = {str(photo): row for photo, row in zip(photos, probabilities, strict=True)}
            _write_text(self.json, json.dumps(by_photo, indent=2))
            return
        for photo, row in zip(photos, probabilities, strict=True):
            print(photo)
            for name, probability in sorted(row.items(), key=lambda item: -item[1]):
                print(f"  {probability:4.0%}  {name}")


@dataclass(frozen=True)
class Generate:
    """Draw new faces, with the attributes asked for."""

    model: Model
    out: Annotated[Path, arg(metavar="FILE.png|DIR")]
    """A .png file for a sheet of all faces, or a folder for a file each."""
    n: Annotated[int, arg(aliases=["-n"])] = 64
    """How many faces."""
    attributes: Assignments = ()
    """Attributes to set, such as Smiling=1 Male=0; the others are those of a random person."""
    seed: int = 0
    """The same seed draws the same faces."""
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        editor = _editor(self.model, self.device)
        changes = parse_changes(self.attributes, editor.attributes)
        if flipped := [name for name, value in changes.items() if value == "flip"]:
            raise InputError(f"--set {flipped[0]}=flip: there is no photo to flip it in; expected a number from 0 to 1")
        sheet = self.out.suffix.lower() == ".png"
        if not sheet and self.out.suffix.lower() in PHOTO_SUFFIXES:
            raise InputError(f"--out {self.out}: expected a name in .png for a sheet, or a folder for a file each")
        files = [self.out] if sheet else [self.out / f"face-{index:04d}.png" for index in range(max(self.n, 0))]
        _refuse_existing(files, self.force)
        faces = editor.generate(self.n, cast("dict[str, float]", changes), seed=self.seed)
        if sheet:
            columns = max(1, round((len(faces) * 4 / 3) ** 0.5))
            _save({self.out: grid([faces[i : i + columns] for i in range(0, len(faces), columns)])})  # type: ignore[misc]
        else:
            _save(dict(zip(files, faces, strict=True)))


@dataclass(frozen=True)
class Rebuild:
    """Draw photos again from what the model recognises in them."""

    photos: Photos
    model: Model
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the results, one NAME-rebuilt.png a photo."""
    grid: Annotated[Path | None, arg(metavar="FILE.png")] = None
    """Also draw photos and rebuilds side by side into this file."""
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        editor = _editor(self.model, self.device)
        _redraw(editor, self.photos, "rebuilt", {}, self.out, self.grid, self.force)


@dataclass(frozen=True)
class Transform:
    """Change attributes of the faces in photos."""

    photos: Photos
    model: Model
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the results, one NAME-edited.png a photo."""
    attributes: Assignments
    """The changes, such as Eyeglasses=1 Bald=0 Bangs=flip."""
    grid: Annotated[Path | None, arg(metavar="FILE.png")] = None
    """Also draw photos, rebuilds and edits side by side into this file."""
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        editor = _editor(self.model, self.device)
        changes = parse_changes(self.attributes, editor.attributes)
        if not changes:
            raise InputError("--set: found nothing, expected at least one change such as Smiling=1")
        _redraw(editor, self.photos, "edited", changes, self.out, self.grid, self.force)


@dataclass(frozen=True)
class Evaluate:
    """Score a model on held-out photos: recognition, rebuilds, and whether edits show."""

    model: Model
    data: str = "drawn"
    """'drawn', or a folder as for train."""
    split: Literal["train", "val", "test"] = "val"
    """Which photos to score on."""
    limit: int | None = None
    """At most so many photos."""
    judge: bool = True
    """Train a plain CNN on the real photos (once, then cached) to judge the edits."""
    json: Path | None = None
    """Write every score to this file too."""
    plot: Annotated[Path | None, arg(metavar="FILE.png")] = None
    """Draw the scores into this file too."""
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        from igan_fast.evaluate import evaluate
        from igan_fast.report import check_plot

        if self.plot:
            check_plot(self.plot)
        _refuse_existing([path for path in (self.json, self.plot) if path], self.force)
        scores = evaluate(
            self.model,
            self.data,
            split=self.split,
            limit=self.limit,
            judge="auto" if self.judge else None,
            device=resolve_device(self.device),
        )
        print(scores.table())
        if self.json:
            _write_text(self.json, scores.to_json())
        if self.plot:
            scores.plot(self.plot)
            print(f"wrote {self.plot}")


@dataclass(frozen=True)
class Doctor:
    """Say what igan-fast runs on here, what is missing, and how to mend it."""

    json: Annotated[Path | None, arg(metavar="FILE|-")] = None
    """Write it to this file instead of printing it; - prints it as JSON."""
    force: Force = False

    def run(self) -> None:
        to_file = self.json if self.json and str(self.json) != "-" else None
        _refuse_existing([to_file] if to_file else [], self.force)
        report = examine()
        if to_file:
            _write_text(to_file, report.to_json())
        else:
            print(report.to_json() if self.json else report.text())
        if report.problems:
            raise InputError("; ".join(report.problems))


@dataclass(frozen=True)
class Train:
    """How ``train`` runs; its options are ``TrainConfig`` itself."""

    config: TrainConfig

    def run(self) -> None:
        from igan_fast.train import train

        result = train(self.config)
        if result.interrupted:
            raise KeyboardInterrupt
        print(f"run: {result.run}")
        print(f"checkpoint: {result.checkpoint}")
        print(f"samples: {result.samples}")


def _editor(model: Path, device: Literal["auto", "cpu", "cuda"]) -> FaceEditor:
    from igan_fast.editor import FaceEditor

    return FaceEditor.load(model, device=resolve_device(device))


def _redraw(
    editor: FaceEditor,
    given: Sequence[Path],
    word: str,
    changes: Mapping[str, Change],
    out: Path,
    sheet: Path | None,
    force: bool,
) -> None:
    """Draw each photo again with ``changes`` into ``out/NAME-WORD.png``, and all beside the photos into ``sheet``."""
    photos = expand_photos(given)
    files = [out / f"{photo.stem}-{word}.png" for photo in photos]
    if len(set(files)) < len(files):
        twice = next(file for index, file in enumerate(files) if file in files[:index])
        raise InputError(f"PHOTO: two photos would both be written to {twice}; rename one, or give them one by one")
    if sheet and sheet.suffix.lower() != ".png":
        raise InputError(f"--grid {sheet}: expected a name in .png")
    _refuse_existing([*files, *([sheet] if sheet else [])], force)
    drawn = editor.transform(photos, changes)
    pictures: dict[Path, Image.Image] = dict(zip(files, drawn, strict=True))
    if sheet:
        rows: dict[str, Sequence[Any]] = {"photo": [load_photo(photo, editor.image_size) for photo in photos]}
        if changes:
            rows["rebuilt"] = editor.rebuild(photos)
        rows[_spelled(changes) or word] = drawn
        pictures[sheet] = grid(list(rows.values()), list(rows), [photo.stem for photo in photos])
    _save(pictures)


def _spelled(changes: Mapping[str, Change]) -> str:
    """The changes as they are typed."""
    return " ".join(f"{name}={value if value == 'flip' else format(value, 'g')}" for name, value in changes.items())


def _refuse_existing(files: Iterable[Path], force: bool) -> None:
    """Before any work: nothing may be written over, unless forced, nor twice, nor into what is no folder."""
    seen: set[Path] = set()
    for file in files:
        if file in seen:
            raise InputError(f"{file}: two results would be written to this file; expected a name for each")
        seen.add(file)
        check_place(file)
        if file.is_dir():
            raise InputError(f"{file}: found a folder, expected the name of a file to write")
        if file.exists() and not force:
            raise InputError(f"{file}: exists already; --force writes over it")


def _save(pictures: dict[Path, Image.Image]) -> None:
    for file, picture in pictures.items():
        save_png(picture, file)
    folders = [file.parent for file in pictures]
    for folder in dict.fromkeys(folders):
        count = folders.count(folder)
        one = next(file for file in pictures if file.parent == folder)
        print(f"wrote {one}" if count == 1 else f"wrote {count} files to {folder}")


def _write_text(path: Path, text: str) -> None:
    write_file(path, (text.rstrip("\n") + "\n").encode())
    print(f"wrote {path}")
