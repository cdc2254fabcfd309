"""The page's first tab: a photo is opened, its faces are edited, and the result is taken."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from igan_fast.app.web.files import as_jpeg, as_png
from igan_fast.app.web.groups import shown_name
from igan_fast.app.web.photo import OpenPhoto, open_photo
from igan_fast.app.web.settings import History, Settings
from igan_fast.app.web.sliders import Sliders
from igan_fast.app.web.upload import photo_upload
from igan_fast.edit_arguments import Keep
from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError
from igan_fast.faces import NoFaceFound

__all__ = ["MODEL", "build_edit_tab", "shown_errors"]

T = TypeVar("T")

#: Whatever computes with the model shares this queue: one at a time, since each takes all processor cores.
MODEL = "model"
#: A user who does nothing for this long, in seconds, has to open the photo once more.
_FORGET_AFTER = 3600
#: A smaller move of a companion is not told.
_LEAST_TOLD = 0.05

_KEEP: dict[str, Keep] = {"Keep the photo": "photo", "Draw the face again": "nothing"}
_PHOTO, _FACE = "Whole photo", "The face"
_START = "Open a photo, or take one with the camera. It stays on the machine that runs this page."
_EDIT = "Move a slider: +1 is present, −1 is absent, +2 and −2 are more than that."


@dataclass
class Session:
    """What one user edits."""

    photo: OpenPhoto
    history: History
    face: int
    near: bool
    """Whether the face is looked at, or the whole photo."""
    before: dict[int | None, str] = field(default_factory=dict)
    """The paths of the views without an edit."""

    def pictures(self) -> tuple[str, str]:
        """The paths of the view before and after the edit."""
        view = self.face if self.near else None
        if view not in self.before or not Path(self.before[view]).exists():
            self.before[view] = as_jpeg(self.photo.before(view))
        return self.before[view], as_jpeg(self.photo.preview(self.history.now, view))


def shown_errors(function: Callable[..., T]) -> Callable[..., T]:
    """Show the message of an ``InputError`` on the page, where Gradio would hide it."""

    @functools.wraps(function)  # Gradio reads the arguments' names and types
    def guarded(*arguments: Any) -> T:
        try:
            return function(*arguments)
        except NoFaceFound:
            raise gr.Error(
                "No face was found. Take away the mark at “Find faces” to edit the photo's centre square.",
                title="No face",
                print_exception=False,
            ) from None
        except InputError as error:
            raise gr.Error(str(error), title="This does not work", print_exception=False) from None

    return guarded


def build_edit_tab(editor: FaceEditor, *, can_search: bool) -> None:
    """Make the tab's contents, in the block that is being built.

    Args:
        editor: edits the photos.
        can_search: whether the package that finds faces is installed.
    """
    session = gr.State(None, time_to_live=_FORGET_AFTER)
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
            )
            faces = gr.Gallery(
                label="Faces: choose one", columns=4, height=120, object_fit="contain", format="png", buttons=[],
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
                strength = gr.Slider(0, 2, value=1, step=0.1, label="Strength of all changes", min_width=160)
            companions = gr.Checkbox(
                True, label="Companions", info="Attributes that correlate with a changed one move along."
            )
        with gr.Column(scale=3, min_width=280, elem_id="sliders"):
            sliders = Sliders.build(editor.attributes)
    controls: list[Any] = [keep, strength, companions, *sliders.each]

    @shown_errors
    def open_it(path: str | None, searched: bool) -> list[Any]:
        if path is None:
            return [None, gr.update(value=None, visible=False), {}, None, _START, _PHOTO, *neutral()]
        photo = open_photo(editor, Path(path), search=searched)
        count = len(photo.faces)
        settings = Settings(amounts=({},) * count)
        opened = Session(photo, History(settings), photo.largest, near=photo.is_small(photo.largest))
        gallery = [(face, str(number)) for number, face in enumerate(photo.faces, start=1)]
        chosen = gr.update(value=gallery, visible=count > 1, selected_index=opened.face if count > 1 else None)
        left_out = f" It takes the {count} largest of {photo.found} faces." if photo.found > count else ""
        return [
            opened,
            chosen,
            photo.recognised(opened.face),
            opened.pictures(),
            _EDIT + left_out,
            _FACE if opened.near else _PHOTO,
            *neutral(),
        ]

    def neutral() -> list[Any]:
        return [next(iter(_KEEP)), 1, True, *sliders.values({})]

    def drawn(now: Session) -> list[Any]:
        return [now.pictures(), _told(editor, now.history.now, now.face)]

    def shown(now: Session) -> list[Any]:
        settings = now.history.now
        how = next(title for title, each in _KEEP.items() if each == settings.keep)
        return [how, settings.strength, settings.companions, *sliders.values(settings.amounts[now.face])]

    @shown_errors
    def draw(now: Session | None, how: str, times: float, along: bool, *values: float) -> list[Any]:
        if now is None:
            return [gr.skip(), _START]
        others = now.history.now.with_amounts(now.face, sliders.amounts(values)).amounts
        now.history.set(Settings(others, _KEEP[how], float(times or 0), along))
        return drawn(now)

    @shown_errors
    def choose(now: Session | None, event: gr.SelectData) -> list[Any]:
        if now is None:
            return [gr.skip() for _ in range(3 + len(controls))]
        now.face = int(event.index)
        return [now.photo.recognised(now.face), *drawn(now), *shown(now)]

    @shown_errors
    def look(now: Session | None, at: str) -> Any:
        if now is None:
            return gr.skip()
        now.near = at == _FACE
        return now.pictures()

    @shown_errors
    def go_back(now: Session | None) -> list[Any]:
        if now is None or not now.history.undo():
            return [gr.skip() for _ in range(2 + len(controls))]
        return [*drawn(now), *shown(now)]

    @shown_errors
    def start_again(now: Session | None) -> list[Any]:
        if now is None:
            return [gr.skip() for _ in range(2 + len(controls))]
        now.history.set(Settings(({},) * len(now.history.now.amounts)))
        return [*drawn(now), *shown(now)]

    @shown_errors
    def result(now: Session | None) -> str:
        if now is None:
            raise InputError("There is no photo yet: open one first.")
        return as_png(now.photo.result(now.history.now), now.photo.path)

    model: dict[str, Any] = {"concurrency_id": MODEL, "concurrency_limit": 1, "api_visibility": "private"}
    gr.on(
        [upload.change, find_faces.input],
        open_it,
        [upload, find_faces],
        [session, faces, recognised, pictures, status, show, *controls],
        **model,
    )
    quiet: dict[str, Any] = {**model, "show_progress": "hidden"}
    gr.on(
        [control.input for control in controls],
        draw,
        [session, *controls],
        [pictures, status],
        trigger_mode="always_last",
        **quiet,
    )
    faces.select(choose, session, [recognised, pictures, status, *controls], **quiet)
    show.input(look, [session, show], pictures, **quiet)
    undo.click(go_back, session, [pictures, status, *controls], **quiet)
    reset.click(start_again, session, [pictures, status, *controls], **quiet)
    save.click(result, session, file, **model).success(
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
        f"{shown_name(name)} {'up' if move > 0 else 'down'}"
        for name, move in sorted(along.items(), key=lambda item: -abs(item[1]))
        if abs(move) >= _LEAST_TOLD
    ]
    return f"Moves along: {', '.join(told)}." if told else "Nothing else moves along."
