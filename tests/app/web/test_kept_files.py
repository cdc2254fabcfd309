"""What the server keeps in files, and when it deletes them."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from igan_fast.editor import FaceEditor

gradio_client = pytest.importorskip("gradio_client")


def wait_until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_uploads_are_deleted_with_the_server(editor: FaceEditor, two_faces: None, photo: Path, tmp_path: Path) -> None:
    from igan_fast.app.web.server import serving

    before = os.environ.get("GRADIO_TEMP_DIR")
    with serving(editor) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        client = gradio_client.Client(address, download_files=str(tmp_path), verbose=False)
        client.predict(photo=gradio_client.handle_file(photo), api_name="/recognise")
        assert list(folder.rglob("*.png"))
    assert not folder.exists()
    assert os.environ.get("GRADIO_TEMP_DIR") == before


def test_an_upload_that_is_broken_off_is_deleted_when_it_is_old(
    editor: FaceEditor, two_faces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from igan_fast.app.web import server

    monkeypatch.setattr(server, "_SWEEP_EVERY", 0.05)
    monkeypatch.setattr(server, "_SWEPT_AFTER", 1e9)
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + bytes(200_000)
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with server.serving(editor) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        with socket.create_connection(("127.0.0.1", urllib.parse.urlparse(address).port)) as connection:
            connection.sendall(head + b"Content-Length: 4000000\r\n\r\n" + part)
            wait_until(lambda: any(path.is_file() for path in folder.rglob("*")))
        time.sleep(0.5)
        assert any(path.is_file() for path in folder.rglob("*"))
        monkeypatch.setattr(server, "_SWEPT_AFTER", -1)
        wait_until(lambda: not any(folder.iterdir()))


def test_what_is_old_is_removed_and_nothing_else(tmp_path: Path) -> None:
    from igan_fast.app.web.server import remove_old

    for name in ("old/photo.png", "older/photo.png", "mixed/photo.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "older/photo.png").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "old")
    time.sleep(0.05)
    now = time.time()
    time.sleep(0.05)
    (tmp_path / "mixed/new.png").touch()
    remove_old(tmp_path, now)
    # A folder that has just been emptied was changed just now.
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"old", "mixed", "mixed/new.png"}
    remove_old(tmp_path / "missing", now)


def test_uploads_that_gradio_forgets_are_deleted_with_the_server(
    editor: FaceEditor, two_faces: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio's recordings of the screen leave what was uploaded in the folder of temporary files."""
    from igan_fast.app.web.server import serving

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\nfilm\r\n--x--\r\n'
    with serving(editor) as address:
        request = urllib.request.Request(
            f"{address.rstrip('/')}/gradio_api/process_recording",
            body,
            {"Content-Type": "multipart/form-data; boundary=x"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
    assert list(tmp_path.iterdir()) == []
    assert tempfile.tempdir == str(tmp_path)


def test_photos_of_a_server_that_was_killed_are_deleted_at_the_next_start(
    editor: FaceEditor, two_faces: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from igan_fast.app.web.server import serving

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    left, running, other = (tmp_path / f"igan-fast-web-{name}" for name in (f"{ended}-a", f"{os.getpid()}-b", "x"))
    for folder in (left, running, other):
        folder.mkdir()
        (folder / "photo.png").touch()
    with serving(editor):
        assert not left.exists()
    assert running.exists()
    assert other.exists()
