"""The field that takes a photo."""

from __future__ import annotations

from typing import Any

import gradio as gr

from igan_fast.errors import InputError

__all__ = ["photo_upload"]


def photo_upload(**options: Any) -> gr.Image:
    """Return an image field that passes on the path of the uploaded file; None if there is none.

    ``gr.Image`` decodes a photo itself: a broken one ends in an error without a reason, and the orientation, the colour
    profile and 16 bits are lost. Here igan_fast opens the file.

    Args:
        options: the arguments of ``gr.Image``.
    """
    field = gr.Image(**options)
    # A subclass would do too, but Gradio writes a stub file beside the source of each one.
    vars(field)["preprocess"] = _path
    return field


def _path(payload: Any) -> str | None:
    if payload is None:
        return None
    if not payload.path:
        raise InputError("photo: found no file; expected one that was uploaded first")
    return str(payload.path)
