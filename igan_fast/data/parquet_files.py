"""Reads single rows and whole columns of parquet files, in bounded memory."""

from __future__ import annotations

import bisect
import importlib
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from igan_fast.data.annotations import looks_like_html
from igan_fast.errors import InputError, PackageMissing
from igan_fast.files import open_regular

__all__ = ["PACKAGES", "ParquetFiles", "load_pyarrow"]

#: What has to be installed: the extra ``parquet``.
PACKAGES = ("pyarrow",)

#: Rows that are read at a time. 32 photos of CelebA take 2 MB at most; a page of the file may take more.
ROWS = 32

#: Bytes that are read at a time. Without this limit a column of a row group, which may be the whole file, is read at
#: once.
BUFFER_BYTES = 2**20


def load_pyarrow() -> Any:
    """Import the package ``pyarrow`` with its module ``parquet``.

    Raises:
        PackageMissing: it is not installed.
    """
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise PackageMissing(f"data: parquet files cannot be read ({error}); pip install {PACKAGES[0]}") from error


class ParquetFiles:
    """The rows of several parquet files, one file after the other, numbered from 0.

    One file is open at a time, and each process opens it for itself. Rows are read fastest in ascending order.

    Args:
        folder: the folder that the files are in.
        names: their paths below it, with ``/``.

    Raises:
        InputError: a file cannot be read, is truncated, or is not a parquet file.
        PackageMissing: pyarrow is not installed.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = names
        self._opened: _OpenFile | None = None
        self._rows: _RowsOfGroup | None = None
        self._ends: list[int] = list(itertools.accumulate(self._open(file).rows for file in range(len(names))))

    def __len__(self) -> int:
        """The number of rows."""
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_rows": None}

    def file(self, number: int) -> str:
        """A file's full path, for messages."""
        return str(self.folder / self.names[number])

    def counts(self) -> list[int]:
        """The number of rows of each file."""
        return [end - start for start, end in itertools.pairwise([0, *self._ends])]

    def schema(self, number: int) -> Any:
        """The ``pyarrow.Schema`` of a file."""
        return self._open(number).reader.schema_arrow

    def columns(self, number: int, names: Sequence[str]) -> Any:
        """Whole columns of a file, as a ``pyarrow.Table``.

        Raises:
            InputError: the file is damaged.
        """
        with self._clear_errors(self.file(number)):
            table = self._open(number).reader.read(columns=list(names), use_threads=False)
            if len(table) != self._open(number).rows:
                raise ValueError(f"found {len(table):,} rows, expected {self._open(number).rows:,}")
            return table

    def value(self, row: int, column: str) -> tuple[Any, str]:
        """One value as a Python object, and where it is, for messages: the file and the row's number in it.

        Raises:
            InputError: the file is damaged.
        """
        number = bisect.bisect_right(self._ends, row)
        row_of_file = row - (self._ends[number - 1] if number else 0)
        where = f"{self.file(number)}: row {row_of_file}"
        with self._clear_errors(where):
            reader, ends = self._open(number).reader, self._open(number).group_ends
            group = bisect.bisect_right(ends, row_of_file)
            start = ends[group - 1] if group else 0
            key = (os.getpid(), number, group, column)
            if self._rows is None or self._rows.key != key or row_of_file - start < self._rows.start:
                self._rows = _RowsOfGroup(key, reader, group, column)
            return self._rows.value(row_of_file - start), where

    def _open(self, number: int) -> _OpenFile:
        if self._opened is None or self._opened.key != (os.getpid(), number):
            if self._opened is not None and self._opened.key[0] == os.getpid():
                self._opened.file.close()
            self._opened = self._rows = None
            self._opened = _OpenFile((os.getpid(), number), self.folder / self.names[number])
        return self._opened

    @contextmanager
    def _clear_errors(self, where: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # pyarrow's and the operating system's errors for broken data
            self._rows = None
            reason = str(error).partition("\n")[0]
            raise InputError(f"{where}: cannot be read: the parquet file is damaged ({reason})") from error


class _OpenFile:
    """An open parquet file."""

    def __init__(self, key: tuple[int, int], path: Path) -> None:
        self.key = key  #: the process that opened it, and its number
        parquet = load_pyarrow().parquet
        try:
            self.file = open_regular(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        try:
            self.reader: Any = parquet.ParquetFile(self.file, buffer_size=BUFFER_BYTES, pre_buffer=False)
            described = self.reader.metadata
            counts = (described.row_group(group).num_rows for group in range(described.num_row_groups))
            self.group_ends = list(itertools.accumulate(counts))  #: the number of rows up to the end of each row group
            self.rows = self.group_ends[-1] if self.group_ends else 0
            if self.rows != described.num_rows:
                raise ValueError("the row groups have another number of rows than the file")
        except Exception as error:  # pyarrow raises many exception types for a damaged file
            self.file.seek(0)
            head = self.file.read(1024)
            self.file.close()
            raise InputError(f"{path}: {_describe_damage(head, path)}") from error


class _RowsOfGroup:
    """Reads the rows of one row group, forwards, ``ROWS`` at a time."""

    def __init__(self, key: tuple[int, int, int, str], reader: Any, group: int, column: str) -> None:
        self.key = key
        self.start = 0  #: the first row that can still be read
        self._batch: Any = ()
        self._batches: Iterator[Any] = reader.iter_batches(
            batch_size=ROWS, row_groups=[group], columns=[column], use_threads=False
        )

    def value(self, row: int) -> Any:
        while row >= self.start + len(self._batch):
            self.start += len(self._batch)
            self._batch = next(self._batches).column(0)
        return self._batch[row - self.start].as_py()


def _describe_damage(head: bytes, path: Path) -> str:
    """The end of an error message: why the file at ``path``, which begins with ``head``, cannot be opened."""
    if looks_like_html(head):
        return "is a web page, not a parquet file; download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself; fetch it with git lfs pull"
    if not head:
        return "is empty, not a parquet file; download it again"
    if head.startswith(b"PAR1"):
        return f"is a truncated or damaged parquet file ({path.stat().st_size:,} bytes); download it again"
    return f"is not a parquet file (it begins with {head[:8]!r})"
