"""``log.jsonl``: what happened in a run, one JSON object a line, each iteration once however often it was resumed."""

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

#: Bytes of a line; a record of ours has some hundred.
_MAX_LINE = 2**20


class RunLog:
    """Appends records to a log. Each is handed to the system at once, so that a kill loses none but the one in writing.

    What lies at ``path`` and is no log (a folder, a pipe, a file that cannot be read) is set aside under another name:
    a log is worth less than the run that it is of.

    Args:
        path: the file; its folder must exist.
        start: the iteration that the run goes on from. Lines of later iterations are cut: the run will write them
            anew. 0 starts an empty log.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: Path, *, start: int = 0) -> None:
        self._path = path
        with clear_write_errors(str(path)):
            _cut(path, start)
            # Unbuffered: after a full disk nothing is left over that closing the file would try to write again.
            self._file = path.open("ab", buffering=0)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line. NaN and Inf, for which JSON has no numbers, become text (``"NaN"``, ``"Infinity"``)."""
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
    """The records of a log in order; a line that is no record (cut short by a kill, damaged) is passed over.

    Raises:
        FileMissing, FileUnreadable, FileDamaged: as ``igan_fast.files.reading``.
    """
    with reading(path) as file:
        for line in _lines(file):
            record = _parse(line)
            if record is not None:
                yield record


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, none held in memory beyond what a record of ours can have."""
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
            warnings.warn(f"{error}; it is kept as {aside.name} and a new log is begun", stacklevel=4)
    elif path.is_dir() and not path.is_symlink():
        _set_aside(path)
    replace_file(path, b"".join(kept))


def _set_aside(path: Path) -> Path:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    path.rename(aside)
    return aside
