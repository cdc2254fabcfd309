"""The HTTP API and the server around the page."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError

gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture
def client(address: str, tmp_path: Path) -> Any:
    return gradio_client.Client(address, download_files=str(tmp_path / "downloads"), verbose=False)


def everything(editor: FaceEditor) -> FaceEditor:
    return FaceEditor(editor.model, editor.attributes, companions=editor.companions, face="all")


def test_the_functions_are_documented(client: Any) -> None:
    functions = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(functions) == ["/recognise", "/edit", "/generate"]
    names = [parameter["parameter_name"] for parameter in functions["/edit"]["parameters"]]
    assert names == ["photo", "changes", "keep", "strength", "companions"]


def test_recognise(client: Any, editor: FaceEditor, photo: Path) -> None:
    found = client.predict(photo=gradio_client.handle_file(photo), api_name="/recognise")
    expected = everything(editor).recognise(photo)
    assert [row == pytest.approx(each, abs=1e-5) for row, each in zip(found, expected, strict=True)] == [True, True]


@pytest.mark.parametrize(
    "options", [{}, {"keep": "nothing"}, {"strength": 0.5}, {"companions": False}, {"keep": "nothing", "strength": 3}]
)
def test_edit(client: Any, editor: FaceEditor, photo: Path, options: dict[str, Any]) -> None:
    changes = {"Male": "+2", "Smiling": 1, "Bangs": "flip"}
    found = client.predict(photo=gradio_client.handle_file(photo), changes=changes, **options, api_name="/edit")
    assert Path(found).name == "two people-edited.png"
    expected = everything(editor).transform(photo, changes, **options)
    np.testing.assert_array_equal(Image.open(found), expected)


def test_generate(client: Any, editor: FaceEditor) -> None:
    found = client.predict(n=3, changes={"Male": "+2"}, seed=5, api_name="/generate")
    expected = editor.generate(3, {"Male": "+2"}, seed=5)
    assert len(found) == 3
    for each, image in zip(found, expected, strict=True):
        np.testing.assert_array_equal(Image.open(each["image"]), image)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Smilling": 1}, "did you mean Smiling"),
        ({"Smiling": 7}, "Smiling=7: expected a number from 0 to 1"),
        ({"Smiling": [1]}, "Smiling=.*: expected a number from 0 to 1"),
        (["Smiling"], "changes: found no object"),
        (None, "changes: found no object"),
    ],
)
def test_a_bad_edit_is_answered_in_one_line(client: Any, photo: Path, changes: Any, message: str) -> None:
    with pytest.raises(gradio_client.exceptions.AppError, match=message):
        client.predict(photo=gradio_client.handle_file(photo), changes=changes, api_name="/edit")


def test_a_bad_photo_is_answered_in_one_line(client: Any, tmp_path: Path) -> None:
    document = tmp_path / "letter.jpg"
    document.write_bytes(b"%PDF-1.7\n" + bytes(500))
    for name, more in (("/recognise", {}), ("/edit", {"changes": {"Male": 1}})):
        with pytest.raises(gradio_client.exceptions.AppError, match=r"letter\.jpg"):
            client.predict(photo=gradio_client.handle_file(document), **more, api_name=name)


@pytest.mark.parametrize("n", [0, 17, 10**9])
def test_too_many_faces_are_refused(client: Any, n: int) -> None:
    with pytest.raises(gradio_client.exceptions.AppError):
        client.predict(n=n, changes={}, api_name="/generate")


def call(address: str, name: str, data: list[Any]) -> str:
    """Call a function as a program without Gradio's client does; return the answer's events."""
    request = urllib.request.Request(
        f"{address.rstrip('/')}/gradio_api/call/{name}",
        json.dumps({"data": data}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{request.full_url}/{event}", timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("field", ["path", "url"])
def test_no_file_of_the_server_is_read(address: str, photo: Path, field: str) -> None:
    """A photo is one that was uploaded, never the path of another file."""
    for path in (str(photo), "/etc/hostname", f"file://{photo}", f"../../..{photo}"):
        given = {"path": path, "meta": {"_type": "gradio.FileData"}}
        if field == "url":
            given = {"url": path, "path": None, "meta": {"_type": "gradio.FileData"}}  # type: ignore[dict-item]
        answer = call(address, "recognise", [given])
        assert "event: error" in answer
        assert "Smiling" not in answer
    for path in (str(photo), "/etc/hostname", __file__):
        url = f"file={urllib.parse.quote(path)}"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address.rstrip('/')}/gradio_api/{url}", timeout=60)
        assert refused.value.code in (403, 404)


def test_the_page_listens_on_this_machine_only(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")


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


def test_the_model_of_drawn_faces(editor: FaceEditor, two_faces: None, photo: Path, tmp_path: Path) -> None:
    """Its photos are not searched for faces."""
    from igan_fast.app.web.server import serving

    drawn = FaceEditor(editor.model, editor.attributes, drawn=True)
    with serving(drawn) as address:
        client = gradio_client.Client(address, download_files=str(tmp_path), verbose=False)
        (row,) = client.predict(photo=gradio_client.handle_file(photo), api_name="/recognise")
        assert row == pytest.approx(drawn.recognise(photo), abs=1e-5)
        found = client.predict(photo=gradio_client.handle_file(photo), changes={"Male": 1}, api_name="/edit")
        np.testing.assert_array_equal(Image.open(found), drawn.transform(photo, {"Male": 1}))


def test_a_port_that_is_taken_is_named(editor: FaceEditor, two_faces: None) -> None:
    from igan_fast.app.web.server import serving

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port: cannot listen at 127.0.0.1:{port}"), serving(editor, port=port):
            pass
