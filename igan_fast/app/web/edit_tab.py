"""The page's first tab: a photo is opened, its faces are edited, and the result is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from igan_fast.app.paper.markdown import escaped
from igan_fast.app.web.fields import number_slider, photo_upload, shown_errors, shown_message
from igan_fast.app.web.files import as_png
from igan_fast.app.web.groups import shown_name
from igan_fast.app.web.photo import open_photo
from igan_fast.app.web.sessions import Session, Sessions
from igan_fast.app.web.settings import History, Settings
from igan_fast.app.web.sliders import Sliders
from igan_fast.edit_arguments import Keep
from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError

__all__ = ["EVENTS", "build_edit_tab"]

#: What all events have in common. The model itself computes for one at a time, see ``OpenPhoto``.
EVENTS: dict[str, Any] = {"concurrency_id": "faces", "concurrency_limit": 4}

#: A smaller move of a companion is not told.
_LEAST_TOLD = 0.05

_KEEP: dict[str, Keep] = {"Keep the photo": "photo", "Draw the face again": "nothing"}
_PHOTO, _FACE = "Whole photo", "The face"
_START = "Open a photo, or take one with the camera. It stays on the machine that runs this page."
_EDIT = "Move a slider: +1 is present, −1 is absent, +2 and −2 are more than that."


def build_edit_tab(editor: FaceEditor, *, can_search: bool) -> None:
    """Make the tab's contents, in the block that is being built.

    Args:
        editor: edits the photos.
        can_search: whether the package that finds faces is installed.
    """
    sessions = Sessions()
    key = gr.State("")
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            upload = photo_upload(
                sources=["upload", "webcam", "clipboard"], label="Photo", height=240, buttons=[], elem_id="photo"
            )
            find_faces = gr.Checkbox(
                editor.searches_faces,
                label="Find faces",
                interactive=can_search,
                info=None if can_search else "needs pip install mtcnn-runtime onnxruntime",
                elem_id="find-faces",
            )
            faces = gr.Gallery(
                label="Faces: choose one", columns=4, height=150, object_fit="contain", format="png", buttons=[],
                allow_preview=False, visible=False, elem_id="faces",
            )  # fmt: skip
            with gr.Accordion("What the model recognises", open=False):
                recognised = gr.Label(show_label=False, num_top_classes=len(editor.attributes), show_heading=False)
        with gr.Column(scale=4, min_width=320):
            pictures = gr.ImageSlider(
                label="Before and after", type="filepath", interactive=False, max_height=640, buttons=["fullscreen"],
                elem_id="pictures",
            )  # fmt: skip
            status = gr.Markdown(_START, elem_id="status")
            with gr.Row():
                undo = gr.Button("Undo", size="sm", elem_id="undo", min_width=80)
                reset = gr.Button("Reset", size="sm", elem_id="reset", min_width=80)
                save = gr.Button("Download", size="sm", variant="primary", elem_id="save", min_width=120)
            file = gr.DownloadButton("The file", visible="hidden", elem_id="file")
            show = gr.Radio([_PHOTO, _FACE], value=_PHOTO, label="Show", elem_id="show")
            with gr.Row():
                keep = gr.Radio(list(_KEEP), value=next(iter(_KEEP)), label="How", min_width=260)
                strength = number_slider(0, 2, value=1, step=0.1, label="Strength of all changes", min_width=160)
            companions = gr.Checkbox(
                True, label="Companions", info="Attributes that correlate with a changed one move along."
            )
        with gr.Column(scale=3, min_width=280, elem_id="sliders"):
            sliders = Sliders.build(editor.attributes)
    version = gr.Number(0, visible=False)
    set_by_user: list[Any] = [keep, strength, companions, *sliders.each]
    controls = [version, *set_by_user]

    def open_it(path: str | None, searched: bool, old: str) -> list[Any]:
        sessions.close(old)
        if path is None:
            return closed(_START)
        kept = sessions.keep(Path(path))
        try:
            photo = open_photo(editor, kept, search=searched)
            now = Session(photo, History(Settings(({},) * len(photo.faces))), photo.largest, near=False)
            now.near = photo.is_small(now.face)
            chances, views = photo.recognised(now.face), now.pictures()
        except InputError as error:
            sessions.drop(kept)
            return closed(escaped(shown_message(error)))
        count = len(photo.faces)
        gallery = [(face, str(number)) for number, face in enumerate(photo.faces, start=1)]
        chosen = gr.update(value=gallery, visible=count > 1, selected_index=now.face if count > 1 else None)
        left_out = f" Taken are the {count} largest of {photo.found} faces." if photo.found > count else ""
        return [
            sessions.add(now),
            chosen,
            chances,
            views,
            _EDIT + left_out,
            _FACE if now.near else _PHOTO,
            *shown(now),
        ]

    def closed(message: str) -> list[Any]:
        how = next(iter(_KEEP))
        return [
            "",
            gr.update(value=None, visible=False),
            {},
            None,
            message,
            _PHOTO,
            0,
            how,
            1,
            True,
            *sliders.values({}),
        ]

    def shown(now: Session) -> list[Any]:
        """The values of ``controls``."""
        settings = now.history.now
        now.version += 1
        how = next(title for title, each in _KEEP.items() if each == settings.keep)
        amounts = sliders.values(settings.amounts[now.face])
        return [now.version, how, settings.strength, settings.companions, *amounts]

    def drawn(now: Session) -> list[Any]:
        return [now.pictures(), _told(editor, now.history.now, now.face)]

    def event(count: int, handle: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        """Make a handler of ``count`` outputs from one that takes the session; it is called only with a photo open."""

        @shown_errors
        def handled(key: str, *values: Any) -> list[Any]:
            if not key:
                return [gr.skip() for _ in range(count)]
            now = sessions.find(key)
            with now.lock:
                return handle(now, *values)

        return handled

    def draw(now: Session, seen: float, how: str, times: float, along: bool, *values: float) -> list[Any]:
        if seen != now.version:  # what was set before another face was chosen, or a step taken back
            return [gr.skip(), gr.skip()]
        amounts = now.history.now.with_amounts(now.face, sliders.amounts(values)).amounts
        now.history.set(Settings(amounts, _KEEP[how], times, along))
        return drawn(now)

    def look(now: Session, at: str) -> list[Any]:
        now.near = at == _FACE
        return drawn(now)

    def go_back(now: Session) -> list[Any]:
        now.history.undo()
        return [*drawn(now), *shown(now)]

    def start_again(now: Session) -> list[Any]:
        now.history.set(Settings(({},) * len(now.history.now.amounts)))
        return [*drawn(now), *shown(now)]

    @shown_errors
    def choose(key: str, event: gr.SelectData) -> list[Any]:
        now = sessions.find(key)
        with now.lock:
            now.face = int(event.index)
            return [now.photo.recognised(now.face), *drawn(now), *shown(now)]

    @shown_errors
    def result(key: str) -> str:
        if not key:
            raise InputError("There is no photo yet: open one first.")
        now = sessions.find(key)
        with now.lock:
            settings = now.history.now
        return as_png(now.photo.result(settings), now.photo.path)

    loud: dict[str, Any] = {**EVENTS, "api_visibility": "private"}
    quiet: dict[str, Any] = {**loud, "show_progress": "hidden"}
    back = [pictures, status, *controls]
    gr.on(
        [upload.change, find_faces.input],
        open_it,
        [upload, find_faces, key],
        [key, faces, recognised, pictures, status, show, *controls],
        **loud,
    )
    gr.on(
        [control.input for control in set_by_user],
        event(2, draw),
        [key, *controls],
        [pictures, status],
        trigger_mode="always_last",
        **quiet,
    )
    faces.select(choose, key, [recognised, *back], **quiet)
    show.input(event(2, look), [key, show], [pictures, status], **quiet)
    undo.click(event(len(back), go_back), key, back, **quiet)
    reset.click(event(len(back), start_again), key, back, **quiet)
    save.click(result, key, file, **loud).success(
        None, js="() => document.querySelector('#file').click()", api_visibility="private"
    )


def _told(editor: FaceEditor, settings: Settings, face: int) -> str:
    """One line about an edit: which attributes go along."""
    changes = settings.changes(face)
    if not changes:
        return _EDIT
    if not settings.companions or editor.companions is None:
        return "Nothing else moves along."
    along: dict[str, float] = {}
    for name, moves in editor.companions_of(changes).items():
        for other, move in moves.items():
            along[other] = along.get(other, 0.0) + move * max(-1.0, min(1.0, changes[name].value))
    told = [
        f"{escaped(shown_name(name))} {'up' if move > 0 else 'down'}"
        for name, move in sorted(along.items(), key=lambda item: -abs(item[1]))
        if abs(move) >= _LEAST_TOLD
    ]
    return f"Moves along: {', '.join(told)}." if told else "Nothing else moves along."
