"""Photos drawn again, with or without changes: what ``rebuild`` and ``transform`` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from igan_fast.app.results import check_results, names_of_results, read_photos, sheet_fits, told
from igan_fast.data.attributes import Change, parse_changes
from igan_fast.data.photos import expand_photos
from igan_fast.errors import InputError, printable
from igan_fast.train.grids import grid, save_png

if TYPE_CHECKING:
    from igan_fast.editor import FaceEditor

__all__ = ["Redrawing", "files_of", "load_editor"]


def load_editor(model: Path, device: Literal["auto", "cpu", "cuda"]) -> FaceEditor:
    """``FaceEditor.load``, which is imported when it is needed."""
    from igan_fast.editor import FaceEditor

    return FaceEditor.load(model, device=device)


def files_of(model: Path) -> list[Path]:
    """What of a model's folder must not be written over."""
    return [model / "checkpoints", model / "config.json"] if (model / "checkpoints").is_dir() else [model]


@dataclass(frozen=True)
class Redrawing:
    """Draw each photo again with changes into ``out/NAME-WORD.png``, and all beside the photos into ``sheet``."""

    given: Sequence[Path]
    model: Path
    out: Path
    sheet: Path | None
    word: str
    force: bool

    def run(self, device: Literal["auto", "cpu", "cuda"], assignments: Sequence[str]) -> None:
        photos = expand_photos(self.given)
        files = dict(zip(photos, names_of_results(photos, self.out, self.word), strict=True))
        sheet = self.sheet
        if sheet and sheet.suffix.lower() != ".png":
            raise InputError(f"--grid {sheet}: expected a name in .png")
        results = [*files.values(), *([sheet] if sheet else [])]
        check_results(results, force=self.force, given=[*photos, *files_of(self.model)])
        editor = load_editor(self.model, device)
        changes = parse_changes(assignments, editor.attributes)
        if sheet and not sheet_fits(len(photos), editor.image_size, rows=3 if changes else 2):
            raise InputError(f"--grid {sheet}: {len(photos):,} photos are too many for one picture; leave --grid out")
        written: list[Path] = []
        columns: list[tuple[Any, ...]] = []
        try:
            for paths, pictures in read_photos(photos, editor.image_size):
                drawn = editor.transform(pictures, changes)
                for photo, picture in zip(paths, drawn, strict=True):
                    written.append(save_png(picture, files[photo]))
                if sheet:
                    rebuilt = [editor.rebuild(pictures)] if changes else []
                    columns += zip(map(_name, paths), pictures, *rebuilt, drawn, strict=True)
        finally:  # whatever ended it: a photo that could not be read, a full disk, Ctrl-C
            if written:
                print(told(written))
            if columns and sheet:
                names, *rows = zip(*columns, strict=True)
                titles = ["photo", *(["rebuilt"] if changes else []), _spelled(changes) or self.word]
                save_png(grid(rows, titles, names), sheet)
                print(told([sheet]))


def _name(photo: Path) -> str:
    return printable(photo.stem)


def _spelled(changes: Mapping[str, Change]) -> str:
    """The changes as they are typed."""
    return " ".join(f"{name}={value if value == 'flip' else format(value, 'g')}" for name, value in changes.items())
