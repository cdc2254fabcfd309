"""Serves the page until Ctrl-C."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gradio as gr

from igan_fast.app.web.page import STYLE, build_page
from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError, PackageMissing
from igan_fast.faces import default_detector

__all__ = ["MAX_UPLOAD", "serving"]

#: The largest photo file.
MAX_UPLOAD = "50mb"
#: So many users have a photo open at a time; each takes some 10 MB. Whoever did nothing for longest is forgotten.
_MOST_USERS = 100
#: So many requests wait at a time; the next ones are told to come back later.
_MOST_WAITING = 100


@contextmanager
def serving(
    editor: FaceEditor,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    tell: Callable[[str], object] = print,
) -> Iterator[str]:
    """Serve the page while the block runs; the block gets its address.

    Photos and results are kept in a temporary folder, which is deleted at the end.

    Args:
        editor: recognises, edits and draws.
        host: the address to listen at; by default only this machine reaches it.
        port: where omitted, the first free one from 7860 on.
        share: also serve it at a public address of Gradio's relay.
        tell: gets lines for the user.

    Raises:
        InputError: the port is in use or the address is not this machine's; there is no public address.
    """
    can_search = _can_search(editor, tell)
    with tempfile.TemporaryDirectory(prefix="igan-fast-web-") as folder, _environment(GRADIO_TEMP_DIR=folder):
        page = build_page(editor, can_search=can_search).queue(max_size=_MOST_WAITING, api_open=True)
        try:
            _, local, public = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                prevent_thread_lock=True,
                quiet=True,
                show_error=False,
                ssr_mode=False,
                enable_monitoring=False,
                allowed_paths=[],
                max_file_size=MAX_UPLOAD,
                state_session_capacity=_MOST_USERS,
                theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
                css=STYLE,
                footer_links=["api"],
            )
        except OSError as error:
            where = f"{host}:{port}" if port is not None else host
            raise InputError(f"port: cannot listen at {where} ({error}); expected a free one") from None
        try:
            if share and not public:
                raise InputError("share: Gradio's relay cannot be reached; the page has no public address")
            yield public or local
        finally:
            page.close(verbose=False)


def _can_search(editor: FaceEditor, tell: Callable[[str], object]) -> bool:
    try:
        default_detector()
    except PackageMissing as error:
        if editor.searches_faces:
            tell(f"{error}; until then photos are cut to their centre square")
        editor.align = "off"
        return False
    return True


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
