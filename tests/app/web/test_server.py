"""The HTTP API and the server around the page."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_faces import KnownFaces
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
    assert names == ["photo", "changes", "keep", "strength", "companions", "align"]
    needed = {
        name: [each["parameter_name"] for each in function["parameters"] if not each["parameter_has_default"]]
        for name, function in functions.items()
    }
    assert needed == {"/recognise": ["photo"], "/edit": ["photo", "changes"], "/generate": []}


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


def test_a_photo_whose_faces_are_not_searched(
    client: Any, editor: FaceEditor, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, off = gradio_client.handle_file(photo), FaceEditor(editor.model, editor.attributes, align="off")
    (row,) = client.predict(photo=given, align="off", api_name="/recognise")
    assert row == pytest.approx(off.recognise(photo), abs=1e-5)
    found = client.predict(photo=given, changes={"Male": 1}, companions=False, align="off", api_name="/edit")
    np.testing.assert_array_equal(Image.open(found), off.transform(photo, {"Male": 1}))
    monkeypatch.setattr("igan_fast.faces.search.default_detector", KnownFaces)
    message = r"^two people\.png: no face was found; align = 'off' takes the photo's centre square$"
    with pytest.raises(gradio_client.exceptions.AppError, match=message):
        client.predict(photo=given, changes={"Male": 1}, api_name="/edit")


@pytest.mark.parametrize("name", ["keep", "align"])
def test_another_choice_is_answered_in_one_line(
    client: Any, photo: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"photo": gradio_client.handle_file(photo), "changes": {"Male": 1}, name: "some"}
    with pytest.raises(gradio_client.exceptions.AppError, match=f"^{name}: found 'some', expected '"):
        client.predict(**given, api_name="/edit")
    assert "Traceback" not in capfd.readouterr().err


def test_generate(client: Any, editor: FaceEditor) -> None:
    (only,) = client.predict(api_name="/generate")
    np.testing.assert_array_equal(Image.open(only["image"]), editor.generate(1, seed=0)[0])
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
        with pytest.raises(gradio_client.exceptions.AppError, match=r"^letter\.jpg: "):
            client.predict(photo=gradio_client.handle_file(document), **more, api_name=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "^n: found 0, expected a whole number from 1 to 16$"),
        ({"n": 17}, "^n: found 17, expected"),
        ({"n": 1.5}, "^n: found 1.5, expected"),
        ({"n": "x"}, "^n: found 'x', expected"),
        ({"n": True}, "^n: found True, expected"),
        ({"seed": None}, "^seed: found None, expected a whole number"),
        ({"seed": -1}, "^seed: found -1, expected"),
        ({"changes": ["Smiling"]}, "^changes: found no object"),
        ({"changes": {"Smiling": "flip"}}, "^attributes: Smiling=flip: a new face has nothing to flip"),
        ({"changes": {"Smiling": 10**400}}, "Smiling=1000"),
    ],
)
def test_bad_faces_are_answered_in_one_line(client: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(gradio_client.exceptions.AppError, match=message):
        client.predict(**{"n": 1, "changes": {}, "seed": 0, **given}, api_name="/generate")


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
        answer = call(address, "recognise", [given, "auto"])
        assert "event: error" in answer
        assert "Smiling" not in answer
    for path in (str(photo), "/etc/hostname", __file__):
        url = f"file={urllib.parse.quote(path)}"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address.rstrip('/')}/gradio_api/{url}", timeout=60)
        assert refused.value.code in (403, 404)


def test_no_address_is_loaded(address: str) -> None:
    """The server would be asked to load pages for others."""
    asked: list[str] = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        for url in (f"http://127.0.0.1:{other.server_port}/a.png", "https://example.com/a.png"):
            for given in ({"path": url}, {"path": url, "url": url}, {"path": None, "url": url}):
                answer = call(address, "recognise", [{**given, "meta": {"_type": "gradio.FileData"}}, "auto"])
                assert "event: error" in answer
                assert "Smiling" not in answer
        other.shutdown()
        thread.join()
    assert asked == []


def test_the_page_listens_on_this_machine_only(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")


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
        with pytest.raises(InputError, match=f"port: {port} is in use at 127.0.0.1"), serving(editor, port=port):
            pass


@pytest.mark.parametrize("host", ["::1", "foo.invalid", "8.8.8.8", "1.2.3", "a b"])
def test_an_address_of_another_machine_is_refused(editor: FaceEditor, two_faces: None, host: str) -> None:
    from igan_fast.app.web.server import serving

    with pytest.raises(InputError, match=f"host: cannot listen at '{host}'"), serving(editor, host=host):
        pass


def test_an_empty_address_is_refused(editor: FaceEditor, two_faces: None) -> None:
    from igan_fast.app.web.server import serving

    with pytest.raises(InputError, match="host: is empty"), serving(editor, host=""):
        pass
