"""The photos that are open on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio")

from igan_fast.app.web.photo import open_photo
from igan_fast.app.web.sessions import FORGET_AFTER, MOST_USERS, Session, Sessions
from igan_fast.app.web.settings import History, Settings
from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    monkeypatch.setenv("IGAN_FAST_WEB_FOLDER", str(tmp_path))
    return Sessions(clock=clock)


@pytest.fixture
def make(sessions: Sessions, editor: FaceEditor, two_faces: None, photo: Path):
    def make() -> tuple[str, Session]:
        opened = open_photo(editor, sessions.keep(photo))
        session = Session(opened, History(Settings(({}, {}))), 0, near=False)
        return sessions.add(session), session

    return make


def test_a_photo_that_cannot_be_opened_is_dropped(sessions: Sessions, photo: Path, tmp_path: Path) -> None:
    kept, other = sessions.keep(photo), sessions.keep(photo)
    sessions.drop(kept)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [other]
    assert photo.exists()


def test_a_photo_in_use_stays_open(sessions: Sessions, clock: Clock, make) -> None:
    used, session = make()
    unused, other = make()
    for _ in range(10):
        clock.now += 0.9 * FORGET_AFTER
        assert sessions.find(used) is session
    with pytest.raises(InputError, match="The photo was closed, as nobody used it for an hour"):
        sessions.find(unused)
    assert session.photo.path.exists()
    assert not other.photo.path.exists()


def test_the_longest_unused_is_closed_when_there_are_too_many(sessions: Sessions, make) -> None:
    keys = [make()[0] for _ in range(MOST_USERS)]
    sessions.find(keys[0])
    make()
    sessions.find(keys[0])
    with pytest.raises(InputError, match="closed"):
        sessions.find(keys[1])
    sessions.find(keys[2])


def test_a_closed_photo_is_deleted(sessions: Sessions, make, tmp_path: Path) -> None:
    key, session = make()
    sessions.close(key)
    sessions.close(key)
    assert not session.photo.path.exists()
    with pytest.raises(InputError, match="closed"):
        sessions.find(key)


def test_the_upload_may_be_deleted(sessions: Sessions, photo: Path, tmp_path: Path) -> None:
    upload = tmp_path / "a.png"
    upload.write_bytes(photo.read_bytes())
    kept = sessions.keep(upload)
    upload.unlink()
    assert kept.name == "a.png"
    assert kept.read_bytes() == photo.read_bytes()
