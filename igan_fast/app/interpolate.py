"""The command ``igan-fast interpolate``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image
from tyro.conf import Positional, arg

from igan_fast.app.animation import as_gif, strip
from igan_fast.app.options import (
    Align,
    Along,
    Assignments,
    Device,
    Face,
    Force,
    KeepChoice,
    Model,
    Strength,
    chosen_face,
)
from igan_fast.app.redraw import load_editor, model_files, tell_companions
from igan_fast.app.results import check_results, sheet_fits, tell_faces, tell_reduction, written_message
from igan_fast.data.attributes import parse_changes
from igan_fast.data.photos import PHOTO_SUFFIXES
from igan_fast.edit_arguments import check_edit
from igan_fast.errors import InputError
from igan_fast.files import write_file
from igan_fast.reference.editing import STRENGTH
from igan_fast.train.grids import save_png

__all__ = ["Interpolate"]


#: Names of files, not of folders, that are not written.
_VIDEO = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm")


@dataclass(frozen=True)
class Interpolate:
    """Draw what lies between two photos, or between two edits of one photo, as a strip, a GIF or a folder of frames."""

    photos: Annotated[
        Positional[tuple[Path, ...]],
        arg(metavar="PHOTO ...", help="One photo with --set, or two photos.", help_behavior_hint="(required)"),
    ]
    model: Model
    out: Annotated[Path, arg(metavar="FILE.png|FILE.gif|DIR")]
    """A .png file for a strip of all pictures, a .gif file for an animation, or a folder for one .png file each."""
    start: Annotated[tuple[str, ...], arg(name="from", metavar="NAME=VALUE ...")] = ()
    """With one photo: the first edit, such as Smiling=-2. Without it, the photo as it is."""
    attributes: Assignments = ()
    """With one photo: the last edit, such as Smiling=+2."""
    steps: Annotated[int, arg(aliases=["-n"])] = 9
    """How many pictures."""
    keep: KeepChoice = "photo"
    strength: Strength = STRENGTH
    companions: Along = True
    align: Align = "auto"
    face: Face = "largest"
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        from igan_fast.interpolation import check_interpolation, interpolate_edits, interpolate_photos

        face = chosen_face(self.align, self.face)
        check_interpolation(self.steps, face)
        check_edit(self.strength, self.companions)
        if len(self.photos) not in (1, 2):
            raise InputError(f"PHOTO: found {len(self.photos)}, expected one photo with --set, or two photos")
        edits = (self.start, self.attributes)
        if len(self.photos) == 2 and any(edits):
            raise InputError("--set: found an edit and two photos; expected one photo, or no edit")
        beyond = [
            option
            for option, given in (
                ("keep", self.keep != "photo"),
                ("strength", self.strength != STRENGTH),
                ("companions", not self.companions),
            )
            if given
        ]
        if len(self.photos) == 2 and beyond:
            raise InputError(f"{beyond[0]}: found it with two photos, between which nothing is edited; leave it out")
        if len(self.photos) == 1 and not any(edits):
            raise InputError("--set: found nothing and one photo; expected an edit such as Smiling=+2, or two photos")
        files = self._files()
        check_results(files, force=self.force, given=[*self.photos, *model_files(self.model)])
        editor = load_editor(self.model, self.device)
        editor.align, editor.face = self.align, face
        start, end = (
            parse_changes(edit, editor.attributes, where=where)
            for edit, where in zip(edits, ("--from", "--set"), strict=True)
        )
        search = editor.face_search()
        opened = [search.open(path) for path in self.photos]
        for photo in opened:
            tell_faces(photo, "--face N takes another")
        if len(opened) == 2:
            pictures = interpolate_photos(editor, *opened, steps=self.steps)
        else:
            if self.companions:
                for edit in (start, end):
                    tell_companions(editor, edit)
            pictures = interpolate_edits(
                editor,
                opened[0],
                start,
                end,
                steps=self.steps,
                keep=self.keep,
                strength=self.strength,
                companions=self.companions,
            )
        first = next(pictures)
        self._write(itertools.chain([first], pictures), first.size, files)
        print(written_message(files))
        if files[0].suffix.lower() != ".gif":
            for photo in opened:
                tell_reduction(photo, first.size)

    def _files(self) -> list[Path]:
        suffix = self.out.suffix.lower()
        if self.out.is_dir() or suffix not in (*PHOTO_SUFFIXES, *_VIDEO):
            files = [self.out / f"frame-{k:04d}.png" for k in range(self.steps)]
            if others := sorted(set(self.out.glob("frame-*.png")) - set(files)):
                raise InputError(
                    f"--out {self.out}: holds {others[0].name} of another animation; expected a new folder"
                )
            return files
        if suffix not in (".png", ".gif"):
            raise InputError(f"--out {self.out}: expected a name that ends in .png or .gif, or a folder")
        return [self.out]

    def _write(self, pictures: Iterable[Image.Image], size: tuple[int, int], files: list[Path]) -> None:
        if len(files) > 1:
            for picture, path in zip(pictures, files, strict=True):
                save_png(picture, path)
        elif files[0].suffix.lower() == ".gif":
            write_file(files[0], as_gif(pictures))
        else:
            if not sheet_fits(self.steps, max(size)):
                raise InputError(f"--out: {self.steps:,} pictures are too many for one strip; expected a folder")
            save_png(strip(list(pictures)), files[0])
