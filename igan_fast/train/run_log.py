"""``log.jsonl``: a run's losses and events, one JSON object per line. A resumed run repeats no iteration."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from igan_fast.files import (
    FileDamaged,
    FileMissing,
    FileUnreadable,
    clear_write_errors,
    reading,
    replace_file,
)
from igan_fast.json_files import Natural, parse_json

__all__ = ["RunLog", "read_log"]

#: The largest line in bytes. A record has a few hundred bytes.
_MAX_LINE = 2**20


class RunLog:
    """Appends records to a log. Each is written at once, so a kill loses at most the last one.

    If ``path`` is not a log (a folder, a pipe, a file that cannot be read), it is renamed, and a new log is started: a
    damaged log must not stop the run.

    Args:
        path: the file; its folder must exist.
        start: the iteration that the run continues from. Lines of later iterations are removed, because the run will
            write them again. 0 starts an empty log.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: Path, *, start: int = 0) -> None:
        self._path = path
        with clear_write_errors(str(path)):
            _cut(path, start)
            # Unbuffered: after a full disk, closing the file must not try to write again.
            self._file = path.open("ab", buffering=0)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line. NaN and Inf, which JSON cannot hold, become text (``"NaN"``, ``"Infinity"``)."""
        try:
            line = json.dumps(record, allow_nan=False)
        except ValueError:
            line = json.dumps(json.loads(json.dumps(record), parse_constant=str))
        with clear_write_errors(str(self._path)):
            self._file.write(line.encode("ascii") + b"\n")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a log in order. A line that is not a record (truncated, damaged) is skipped.

    Raises:
        FileMissing, FileUnreadable, FileDamaged: as ``igan_fast.files.reading``.
    """
    with reading(path) as file:
        for line in _lines(file):
            record = _parse(line)
            if record is not None:
                yield record


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file. Of a line longer than ``_MAX_LINE``, only the beginning is returned."""
    skipping = False
    while line := file.readline(_MAX_LINE):
        whole = line.endswith(b"\n")
        if not skipping:
            yield line
        skipping = not whole


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return parse_json(line, "log", {"iteration": Natural})
    except FileDamaged:
        return None


def _cut(path: Path, start: int) -> None:
    if not os.path.lexists(path):
        return
    kept = []
    if start > 0:
        try:
            with reading(path) as file:
                for line in _lines(file):
                    record = _parse(line)
                    if record is not None and record["iteration"] <= start:
                        kept.append(line)
        except (FileMissing, FileUnreadable, FileDamaged) as error:
            aside = _set_aside(path)
            warnings.warn(f"{error}; it is kept as {aside.name} and a new log is started", stacklevel=4)
    elif path.is_dir() and not path.is_symlink():
        _set_aside(path)
    replace_file(path, b"".join(kept))


def _set_aside(path: Path) -> Path:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    path.rename(aside)
    return aside
