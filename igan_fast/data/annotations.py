"""CelebA's annotation files, as the original text or as Kaggle's CSV: attributes, partition and identities."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from igan_fast.errors import InputError

__all__ = ["AttributeTable", "looks_like_html", "read_attributes", "read_identities", "read_partition"]

#: What a label may be, and what it becomes.
LABEL_VALUES = {"-1": 0, "0": 0, "1": 1}


@dataclass(frozen=True)
class AttributeTable:
    """The attribute file: which photo has which labels."""

    attributes: tuple[str, ...]  #: the names of the A columns
    files: list[str]  #: R photo names, each once
    labels: NDArray[np.uint8]  #: (R, A), values 0 and 1
    announced: int | None  #: how many rows the file's first line says it has


def looks_like_html(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a web page: what Google Drive sends when its quota is used up."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html", b"<head"))


def read_attributes(path: Path) -> AttributeTable:
    """Read ``list_attr_celeba.txt`` (count, names, then ``file ±1 …``) or ``.csv`` (``image_id,names…``).

    −1 becomes 0. Line ends, repeated spaces and blank lines do not matter; in the text form the count may be missing.

    Raises:
        InputError: the file cannot be read or is not UTF-8, a line has another number of columns than the header has
            names, a value is none of −1, 0 and 1, or a name or a photo comes twice. The line number is in the message.
    """
    rows = _rows(path)
    line, header = next(rows, (1, []))
    announced = None
    if path.suffix.lower() == ".csv":
        header = header[1:]  # the first is the name of the photo column
    elif len(header) == 1 and header[0].isdecimal():
        announced = int(header[0])
        line, header = next(rows, (line + 1, []))
    attributes = tuple(header)
    if not attributes:
        raise InputError(f"{path}: line {line}: expected the names of the attributes")
    for name in attributes:
        if attributes.count(name) > 1:
            raise InputError(f"{path}: line {line}: attribute {name!r} is named twice")

    lines_by_file: dict[str, int] = {}
    labels = bytearray()
    for line, (file, *values) in rows:
        if len(values) != len(attributes):
            raise InputError(
                f"{path}: line {line}: found {len(values)} values after {file!r}, expected {len(attributes)}, one for "
                "each attribute that the header names"
            )
        if file in lines_by_file:
            raise InputError(f"{path}: line {line}: {file!r} is there already in line {lines_by_file[file]}")
        lines_by_file[file] = line
        try:
            labels += bytes([LABEL_VALUES[value] for value in values])
        except KeyError as error:
            wrong = str(error.args[0])
            name = attributes[values.index(wrong)]
            raise InputError(f"{path}: line {line}: {name} of {file!r} is {wrong!r}, expected -1, 0 or 1") from None
    table = np.frombuffer(labels, dtype=np.uint8).reshape(-1, len(attributes))
    return AttributeTable(attributes, list(lines_by_file), table, announced)


def read_partition(path: Path) -> dict[str, int]:
    """Read ``list_eval_partition.txt`` or ``.csv``: photo name → 0 (train), 1 (validation) or 2 (test).

    Raises:
        InputError: as ``read_attributes``, for lines that are not ``file 0|1|2``.
    """
    partition = _read_pairs(path)
    for file, part in partition.items():
        if part not in (0, 1, 2):
            raise InputError(f"{path}: the part of {file!r} is {part}, expected 0 (train), 1 (validation) or 2 (test)")
    return partition


def read_identities(path: Path) -> dict[str, int]:
    """Read ``identity_CelebA.txt`` or ``.csv``: photo name → number of the person, from 0 up.

    Raises:
        InputError: as ``read_attributes``, for lines that are not ``file number``.
    """
    return _read_pairs(path)


def _read_pairs(path: Path) -> dict[str, int]:
    pairs: dict[str, int] = {}
    first = True
    for line, fields in _rows(path):
        is_header = first and path.suffix.lower() == ".csv" and not fields[-1].isdecimal()
        first = False
        if is_header:
            continue
        if len(fields) != 2 or not fields[1].isdecimal():
            raise InputError(f"{path}: line {line}: found {' '.join(fields)[:80]!r}, expected a photo and a number")
        if fields[0] in pairs:
            raise InputError(f"{path}: line {line}: {fields[0]!r} is there a second time")
        pairs[fields[0]] = int(fields[1])
    return pairs


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers (from 1) and columns of the lines that are not blank."""
    text = _text(path)
    if path.suffix.lower() == ".csv":
        for number, fields in enumerate(csv.reader(text.splitlines()), start=1):
            if any(fields):
                yield number, [field.strip() for field in fields]
    else:
        for number, line in enumerate(text.splitlines(), start=1):
            if fields := line.split():
                yield number, fields


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if looks_like_html(content[:1024]):
        raise InputError(
            f"{path}: is a web page, not an annotation file (Google Drive's quota page?); download it again"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line}: is not UTF-8 text, so this is no annotation file") from None
