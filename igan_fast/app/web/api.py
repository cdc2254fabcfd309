"""The HTTP API: three functions that need no page and keep nothing between two calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from igan_fast.app.web.draw_tab import MOST_DRAWN
from igan_fast.app.web.edit_tab import EVENTS
from igan_fast.app.web.fields import choice, photo_upload, shown_errors
from igan_fast.app.web.files import as_png
from igan_fast.app.web.photo import MODEL
from igan_fast.data.attributes import Change
from igan_fast.edit_arguments import Keep
from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError
from igan_fast.faces import Align, AlignedPhoto, NoFaceFound
from igan_fast.reference.editing import STRENGTH

__all__ = ["build_api"]


def build_api(editor: FaceEditor) -> None:
    """Add the functions, in the block that is being built. Their fields are not shown."""
    with gr.Group(visible=False):
        photo = photo_upload(label="photo", type="filepath")
        changes = gr.JSON(label="changes")
        keep = choice(["photo", "nothing"], label="keep")
        strength = gr.Number(STRENGTH, label="strength")
        companions = gr.Checkbox(True, label="companions")
        align = choice(["auto", "always", "off"], label="align")
        count = gr.JSON("1", label="n")
        seed = gr.JSON("0", label="seed")
        rows = gr.JSON(label="recognised")
        file = gr.File(label="edited")
        faces = gr.Gallery(label="faces", format="png")
        button = gr.Button()

    def open_photo(path: Path, align: Align) -> AlignedPhoto:
        searched = editor.searches_faces if align == "auto" else align == "always"
        search = editor.face_search(None if align == "auto" else align, "all" if searched else "largest")
        try:
            return search.open(path)
        except NoFaceFound:
            raise InputError(f"{path.name}: no face was found; align = 'off' takes the photo's centre square") from None

    @shown_errors
    def recognise(photo: str | None, align: Align = "auto") -> list[dict[str, float]]:
        """Return the probability of each attribute, for each face of a photo from left to right."""
        opened = open_photo(_given(photo), align)
        with MODEL:
            found: list[dict[str, float]] = editor.recognise(list(opened.crops))
        return found

    @shown_errors
    def edit(
        photo: str | None,
        changes: Any,
        keep: Keep = "photo",
        strength: float = STRENGTH,
        companions: bool = True,
        align: Align = "auto",
    ) -> str:
        """Return the photo with attributes of all its faces changed, as ``FaceEditor.transform`` does."""
        path = _given(photo)
        asked = _changes(changes)
        opened = open_photo(path, align)
        with MODEL:
            edited = editor.transform(list(opened.crops), asked, keep=keep, strength=strength, companions=companions)
        return as_png(opened.finish(edited, keep_details=keep == "photo"), path)

    @shown_errors
    def generate(n: Any = 1, changes: Any = None, companions: bool = True, seed: Any = 0) -> list[Image.Image]:
        """Return new faces, as ``FaceEditor.generate`` does."""
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST_DRAWN:
            raise InputError(f"n: found {n!r}, expected a whole number from 1 to {MOST_DRAWN}")
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise InputError(f"seed: found {seed!r}, expected a whole number from 0 to 2⁶³ − 1")
        asked = {} if changes is None else _changes(changes)
        with MODEL:
            return editor.generate(n, asked, companions=companions, seed=seed)

    button.click(recognise, [photo, align], rows, api_name="recognise", **EVENTS)
    button.click(edit, [photo, changes, keep, strength, companions, align], file, api_name="edit", **EVENTS)
    button.click(generate, [count, changes, companions, seed], faces, api_name="generate", **EVENTS)


def _given(photo: str | None) -> Path:
    if photo is None:
        raise InputError("photo: found none, expected one that was uploaded first")
    return Path(photo)


def _changes(changes: Any) -> dict[str, Change]:
    if not isinstance(changes, dict):
        raise InputError('changes: found no object, expected one such as {"Smiling": "+1"}')
    return changes
