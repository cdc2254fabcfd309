"""The photos that are open on the page, each with its user's edits, in bounded memory."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from igan_fast.app.web.files import as_jpeg
from igan_fast.app.web.photo import OpenPhoto
from igan_fast.app.web.settings import History
from igan_fast.errors import InputError

__all__ = ["FORGET_AFTER", "MOST_USERS", "Session", "Sessions"]

#: So many photos are open at a time; then the one that was used the longest ago is closed.
MOST_USERS = 100
#: A photo that nobody uses for this long is closed; in seconds.
FORGET_AFTER = 3600.0


@dataclass
class Session:
    """What one user edits."""

    photo: OpenPhoto
    history: History
    face: int
    near: bool
    """Whether the face is looked at, or the whole photo."""
    version: int = 0
    """It changes whenever the server sets the controls. Values from the page of another version are out of date."""
    lock: Lock = field(default_factory=Lock)
    """Held while an event of this user is handled."""
    _before: dict[int | None, str] = field(default_factory=dict)

    def pictures(self) -> tuple[str, str]:
        """The paths of the view before and after the edit."""
        view = self.face if self.near else None
        if view not in self._before or not Path(self._before[view]).exists():
            self._before = {view: as_jpeg(self.photo.before(view))}
        return self._before[view], as_jpeg(self.photo.preview(self.history.now, view))


class Sessions:
    """The open photos by key. A key is secret: who has it can edit the photo."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._open: OrderedDict[str, tuple[float, Path, Session]] = OrderedDict()  # the longest unused first
        self._folder = Path(tempfile.mkdtemp(prefix="photos-", dir=os.environ.get("IGAN_FAST_WEB_FOLDER")))

    def keep(self, upload: Path) -> Path:
        """Take an uploaded file out of Gradio's reach, which deletes uploads by their age. Return its new path."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            os.link(upload, folder / upload.name)
        except OSError:  # another file system
            shutil.copyfile(upload, folder / upload.name)
        return folder / upload.name

    def drop(self, photo: Path) -> None:
        """Delete a photo that ``keep`` has kept, and that could not be opened."""
        shutil.rmtree(photo.parent, ignore_errors=True)

    def add(self, session: Session) -> str:
        """Open a photo that ``keep`` has kept. Return its key."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._open[key] = (self._clock(), session.photo.path, session)
            self._close_old()
        return key

    def find(self, key: str) -> Session:
        """Return the session of a key.

        Raises:
            InputError: it was closed.
        """
        with self._lock:
            self._close_old()
            if key not in self._open:
                raise InputError("The photo was closed, as nobody used it for an hour. Open it once more.")
            _, path, session = self._open.pop(key)
            self._open[key] = (self._clock(), path, session)
            return session

    def close(self, key: str) -> None:
        """Forget a photo and delete its file. A key that is not open is ignored."""
        with self._lock:
            if key in self._open:
                self._remove(key)

    def _close_old(self) -> None:
        now = self._clock()
        for key, (used, _, _) in list(self._open.items()):
            if now - used <= FORGET_AFTER and len(self._open) <= MOST_USERS:
                break
            self._remove(key)

    def _remove(self, key: str) -> None:
        _, path, _ = self._open.pop(key)
        self.drop(path)
