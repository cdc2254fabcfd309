"""Fields of the page whose values are checked here, and what is shown if something is wrong."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.utils import get_upload_folder

from igan_fast.errors import InputError
from igan_fast.faces import NoFaceFound

__all__ = ["choice", "number_slider", "photo_upload", "shown_errors", "shown_message"]

T = TypeVar("T")

_NO_FACE = "No face was found. Take away the mark at “Find faces” to edit the photo's centre square."


def photo_upload(**options: Any) -> gr.Image:
    """Return an image field that passes on the path of the uploaded file; None if there is none.

    ``gr.Image`` decodes a photo itself: a broken one ends in an error without a reason, and the orientation, the colour
    profile and 16 bits are lost. Here igan_fast opens the file. An address instead of a file is refused: the server
    would load it.

    Args:
        options: the arguments of ``gr.Image``.
    """
    field = gr.Image(**options)
    keep = field.async_move_resource_to_block_cache

    async def keep_upload(path: Any) -> Any:
        if not isinstance(path, str) or re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", path):
            raise _error("photo: found an address, expected a file that was uploaded first")
        return await keep(path)

    # A subclass would do too, but Gradio writes a stub file beside the source of each one.
    vars(field)["async_move_resource_to_block_cache"] = keep_upload
    vars(field)["preprocess"] = _path
    return field


def number_slider(least: float, most: float, **options: Any) -> gr.Slider:
    """Return a slider beside which any number may be typed: an empty field counts as the slider's first value.

    Args:
        least, most: the ends; a number beyond them counts as the nearer end.
        options: the other arguments of ``gr.Slider``.
    """
    field = gr.Slider(least, most, **options)
    otherwise = float(options.get("value", least))

    def value(payload: Any) -> float:
        if not isinstance(payload, int | float) or payload != payload:
            return otherwise
        return min(max(float(payload), least), most)

    vars(field)["preprocess"] = value
    return field


def choice(values: Sequence[str], **options: Any) -> gr.Dropdown:
    """Return a field of the HTTP API with one of these values, at first the first. It passes on any other value too.

    Whoever gets the value checks it: Gradio would print a traceback for another one.

    Args:
        values: the values.
        options: the arguments of ``gr.Dropdown``.
    """
    field = gr.Dropdown(list(values), value=values[0], **options)
    vars(field)["preprocess"] = lambda payload: payload
    return field


def shown_errors(function: Callable[..., T]) -> Callable[..., T]:
    """Show the message of an ``InputError`` on the page, where Gradio would hide it."""

    @functools.wraps(function)  # Gradio reads the arguments' names and types
    def guarded(*arguments: Any) -> T:
        try:
            return function(*arguments)
        except InputError as error:
            raise _error(shown_message(error)) from None

    return guarded


def shown_message(error: InputError) -> str:
    """The message of an error as the user of the page understands it: with a photo's name, not its place here."""
    if isinstance(error, NoFaceFound):
        return _NO_FACE
    folder = os.environ.get("IGAN_FAST_WEB_FOLDER") or get_upload_folder()
    return re.sub(rf"{re.escape(str(Path(folder)))}/(?:[^/\s]+/)*", "", str(error))


def _error(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)


def _path(payload: Any) -> str | None:
    if payload is None:
        return None
    if not payload.path:
        raise _error("photo: found no file, expected one that was uploaded first")
    return str(payload.path)
