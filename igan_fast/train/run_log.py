"""``log.jsonl``: what happened in a run, one JSON object a line, each iteration once however often it was resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from igan_fast.files import clear_write_errors, replace_file

__all__ = ["RunLog", "read_log"]


class RunLog:
    """Appends records to a log. Each is handed to the system at once, so that a kill loses none but the one in writing.

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
    """The records of a log in order; a line that is no record (cut short by a kill) is passed over."""
    with path.open("rb") as file:
        for line in file:
            record = _parse(line)
            if record is not None:
                yield record


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("iteration"), int) else None


def _cut(path: Path, start: int) -> None:
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True) if start > 0 else []
    kept = [line for line in lines if (record := _parse(line)) is not None and record["iteration"] <= start]
    replace_file(path, b"".join(kept))
