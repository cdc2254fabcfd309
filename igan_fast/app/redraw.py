"""The work of the commands ``rebuild`` and ``transform``: draw photos again, unchanged or with other attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from igan_fast.app.results import (
    check_results,
    read_photos,
    result_paths,
    sheet_fits,
    tell_reduction,
    written_message,
)
from igan_fast.data.attributes import parse_changes, spelled_change
from igan_fast.data.photos import expand_photos
from igan_fast.edit_arguments import Keep, check_edit
from igan_fast.errors import InputError, printable
from igan_fast.faces import Align, AlignedPhoto, FaceSearch, FollowedFace, by_photo
from igan_fast.reference.editing import STRENGTH, Amount, Edit
from igan_fast.train.grids import edit_title, grid, save_png

if TYPE_CHECKING:
    from igan_fast.editor import FaceEditor

__all__ = ["Redraw", "load_editor", "model_files", "tell_companions"]

#: A face's path is smoothed over at most this many frames.
MOST_FOLLOWED = 1000
#: A smaller move of a companion is not listed: it would be printed as 0.00.
LEAST_TOLD = 0.005


def load_editor(model: Path, device: Literal["auto", "cpu", "cuda"]) -> FaceEditor:
    """Call ``FaceEditor.load``. The editor is imported only here, so that other commands start faster."""
    from igan_fast.editor import FaceEditor

    return FaceEditor.load(model, device=device)


def model_files(model: Path) -> list[Path]:
    """Return the files and folders of a model that must not be written over."""
    return [model / "checkpoints", model / "config.json"] if (model / "checkpoints").is_dir() else [model]


def tell_companions(editor: FaceEditor, changes: Mapping[str, Edit]) -> None:
    """Print a line for each change that takes other attributes along; or one line if the model cannot tell them."""
    if changes and editor.companions is None:
        print("no attribute goes along with another: the checkpoint keeps no training labels")
    for name, moves in editor.companions_of(changes).items():
        change = changes[name]
        falls = _falls(change)
        told = [
            f"{printable(other)} ({_signed(-move if falls else move)})"
            for other, move in moves.items()
            if abs(move) >= LEAST_TOLD
        ]
        if told:
            way = "from 1 to 0" if falls else "from 0 to 1"
            if change not in ("flip", 0, 1):
                way = f"moved by 1 {'down' if falls else 'up'}"
            back = ", and from 1 to 0 the other way" if change == "flip" else ""
            print(f"{printable(name)} {way} takes along {', '.join(told)}{back}; --no-companions leaves them")


@dataclass(frozen=True)
class Redraw:
    """Draw each photo again into ``out/NAME-WORD.png``, and all faces and results side by side into ``sheet``."""

    given: Sequence[Path]
    model: Path
    out: Path
    sheet: Path | None
    word: str
    force: bool
    align: Align = "auto"
    face: str | int = "largest"
    follow: float | None = None
    """The photos are frames of a video, in which one face is followed; its path is smoothed over this many frames."""

    def run(
        self,
        device: Literal["auto", "cpu", "cuda"],
        assignments: Sequence[str],
        *,
        keep: Keep = "nothing",
        strength: float = STRENGTH,
        companions: bool = True,
    ) -> None:
        """Draw the photos, write the results, and print what goes along and what was written.

        Args:
            device: where the model computes.
            assignments: the changes as they are typed; none for a rebuild.
            keep, strength, companions: as of ``FaceEditor.transform``.
        """
        check_edit(strength, companions)
        if self.follow is not None:
            _check_follow(self.follow, self.align, self.face)
        photos = expand_photos(self.given)
        files = dict(zip(photos, result_paths(photos, self.out, self.word), strict=True))
        sheet = self.sheet
        if sheet and sheet.suffix.lower() != ".png":
            raise InputError(f"--grid {sheet}: expected a name that ends in .png")
        results = [*files.values(), *([sheet] if sheet else [])]
        check_results(results, force=self.force, given=[*photos, *model_files(self.model)])
        editor = load_editor(self.model, device)
        changes = parse_changes(assignments, editor.attributes)
        if sheet and not sheet_fits(len(photos), editor.image_size, rows=3 if changes else 2):
            raise InputError(f"--grid {sheet}: {len(photos):,} photos are too many for one image; run without --grid")
        if companions:
            tell_companions(editor, changes)
        written: list[Path] = []
        columns: list[tuple[Any, ...]] = []
        try:
            for paths, opened in read_photos(photos, self._search(editor, photos)):
                crops = [crop for photo in opened for crop in photo.crops]
                drawn = editor.transform(crops, changes, keep=keep, strength=strength, companions=companions)
                for path, photo, images in zip(paths, opened, by_photo(opened, drawn), strict=True):
                    result = photo.finish(images, keep_details=keep == "photo")
                    written.append(save_png(result, files[path]))
                    tell_reduction(photo, result.size)
                if sheet:
                    rebuilt = [editor.rebuild(crops)] if changes else []
                    names = [name for path, photo in zip(paths, opened, strict=True) for name in _names(path, photo)]
                    columns += zip(names, crops, *rebuilt, drawn, strict=True)
        finally:  # even after an unreadable photo, a full disk or Ctrl-C
            if written:
                print(written_message(written))
            if columns and sheet:
                if not sheet_fits(len(columns), editor.image_size, rows=3 if changes else 2):
                    raise InputError(f"--grid {sheet}: {len(columns):,} faces are too many for one image")
                captions, *rows = zip(*columns, strict=True)
                moves = companions and any(editor.companions_of(changes).values())
                amounts_only = all(isinstance(change, Amount) for change in changes.values())
                title = edit_title(_spelled(changes), strength=1 if amounts_only else strength, companions=moves)
                titles = ["photo", "rebuilt", title] if changes else ["photo", self.word]
                save_png(grid(rows, titles, captions), sheet)
                print(written_message([sheet]))

    def _search(self, editor: FaceEditor, photos: Sequence[Path]) -> FaceSearch | FollowedFace:
        if self.follow is None:
            return editor.face_search(self.align, self.face)
        return FollowedFace(editor.image_size, photos, self.follow, self.face)


def _check_follow(spread: float, align: Align, face: str | int) -> None:
    if not 0 <= spread <= MOST_FOLLOWED:
        raise InputError(f"follow: found {spread:g}, expected a number of frames from 0 to {MOST_FOLLOWED}")
    if align == "off":
        raise InputError("follow: found it with --align off, which searches no faces; expected one of the two")
    if face == "all":
        raise InputError("face: found 'all' with --follow, expected 'largest' or the number of one face")


def _names(path: Path, photo: AlignedPhoto) -> list[str]:
    """The names of a photo's crops in the sheet."""
    name = printable(path.stem)
    return [name] if len(photo.crops) == 1 else [f"{name} {number}" for number in range(1, len(photo.crops) + 1)]


def _falls(change: Edit) -> bool:
    if isinstance(change, Amount):
        return change.value < 0
    return change != "flip" and change < 0.5


def _signed(move: float) -> str:
    return f"{move:+.2f}".replace("-", "−")


def _spelled(changes: Mapping[str, Edit]) -> str:
    """Return the changes as they are typed."""
    return " ".join(f"{name}={spelled_change(change)}" for name, change in changes.items())
