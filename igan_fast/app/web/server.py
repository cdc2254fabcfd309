"""Serves the page until Ctrl-C."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import gradio as gr

from igan_fast.app.web.page import STYLE, build_page
from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError, PackageMissing
from igan_fast.faces import default_detector

__all__ = ["MAX_UPLOAD", "remove_old", "serving"]

_PREFIX = "igan-fast-web-"

#: Gradio deletes the files that it knows when they are an hour old. What it leaves, such as the beginning of an upload
#: that was broken off, is looked for so often, and deleted when it is this old; in seconds.
_SWEEP_EVERY, _SWEPT_AFTER = 600.0, 7200.0

#: The largest photo file.
MAX_UPLOAD = "50mb"
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
    _check_address(host, port)
    can_search = _can_search(editor, tell)
    _remove_left_folders()
    with (
        tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as folder,
        _environment(folder),
        _swept(Path(folder)),
    ):
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
                run_history=False,
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
def _environment(folder: str) -> Iterator[None]:
    """Set the variables that Gradio and ``Sessions`` read: where files are kept, and that no others are served."""
    uploads, temporary = Path(folder) / "files", Path(folder) / "temporary"
    uploads.mkdir()
    temporary.mkdir()
    values = {"GRADIO_TEMP_DIR": str(uploads), "GRADIO_ALLOWED_PATHS": "", "IGAN_FAST_WEB_FOLDER": folder}
    before = {name: os.environ.get(name) for name in values}
    temporary_before = tempfile.tempdir
    os.environ.update(values)
    tempfile.tempdir = str(temporary)  # Gradio writes some uploads there, and forgets them
    try:
        yield
    finally:
        tempfile.tempdir = temporary_before
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _swept(folder: Path) -> Iterator[None]:
    """Delete what is old in the folders of uploads now and then while the block runs."""
    end = Event()

    def sweep() -> None:
        while not end.wait(_SWEEP_EVERY):
            for name in ("files", "temporary"):
                remove_old(folder / name, time.time() - _SWEPT_AFTER)

    thread = Thread(target=sweep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def remove_old(folder: Path, before: float) -> None:
    """Delete the files in a folder, and the empty folders, that were last changed before a time, in Unix seconds."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        with suppress(OSError):  # it is gone, or not empty
            if path.lstat().st_ctime < before:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _check_address(host: str, port: int | None) -> None:
    """Try to listen there, since uvicorn would try for ever.

    Raises:
        InputError: it is not possible.
    """
    if not host:
        raise InputError("host: is empty; expected an address of this machine, such as 127.0.0.1")
    try:
        known = socket.getaddrinfo(host, port or 0, family=socket.AF_INET, type=socket.SOCK_STREAM)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(known[0][4])
    except OSError as error:
        if port is not None and error.errno == errno.EADDRINUSE:
            raise InputError(f"port: {port} is in use at {host}; expected a free one") from None
        raise InputError(
            f"host: cannot listen at {host!r} ({error.strerror or error}); expected an IPv4 address of this machine"
        ) from None


def _remove_left_folders() -> None:
    """Delete the photos of servers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not owner.isdecimal() or folder.is_symlink():
            continue
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, OverflowError):  # another user's
            continue
