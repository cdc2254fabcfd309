"""Reads CelebA's annotation files (attributes, partition, identities) in their text format or as Kaggle's CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.messages import counted
from igan_fast.errors import InputError
from igan_fast.files import open_regular

__all__ = [
    "MAX_ANNOTATION_BYTES",
    "AnnotationFile",
    "AttributeTable",
    "annotation_file",
    "is_decodable",
    "looks_like_html",
    "read_attributes",
    "read_identities",
    "read_originals",
    "read_partition",
]

#: The largest annotation file that is read: ten times the size of CelebA's attribute file.
MAX_ANNOTATION_BYTES = 256 * 2**20

#: The longest line that is read, in characters. The longest legitimate line is the header with the attribute names.
MAX_LINE = 2**24

#: The longest field that is read, in characters: the limit of Python's CSV reader.
MAX_FIELD = 131_072

#: The spellings of a label. ``0`` and ``−1`` have different codes: both mean "no", but a file with both is ambiguous
#: (see ``_check_zeros``).
NO, YES, ZERO, MINUS = range(4)
LABEL_CODES = {
    **dict.fromkeys(("1", "+1", "1.0", "+1.0", "True", "TRUE", "true"), YES),
    **dict.fromkeys(("-1", "-1.0"), MINUS),
    **dict.fromkeys(("0", "0.0", "-0.0"), ZERO),
    **dict.fromkeys(("False", "FALSE", "false"), NO),
}


@dataclass(frozen=True)
class AnnotationFile:
    """An annotation file, in a folder or in a zip."""

    where: str  #: path for error messages
    name: str  #: file name without folders; a name that ends in ``.csv`` is read as CSV
    open: Callable[[], BinaryIO]  #: opens the file at its first byte

    @property
    def is_csv(self) -> bool:
        """Whether the file is CSV; otherwise it has CelebA's original text format."""
        return self.name.lower().endswith(".csv")


@dataclass(frozen=True)
class AttributeTable:
    """The contents of an attribute file: R photos with A labels each."""

    attributes: tuple[str, ...]  #: the names of the A label columns
    files: list[str]  #: the R photo names, without repetition
    lines: list[int]  #: the line number of each of the R rows
    labels: NDArray[np.uint8]  #: (R, A), values 0 and 1
    stated_count: int | None  #: the number of rows that the first line of the file states; None if it states none


def annotation_file(path: Path) -> AnnotationFile:
    """The annotation file at ``path``, which is not in a zip."""
    return AnnotationFile(str(path), path.name, lambda: open_regular(path))


def looks_like_html(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a web page. Google Drive sends one when its quota is used up."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html", b"<head"))


def is_decodable(text: str) -> bool:
    """Whether ``text`` was decoded from valid UTF-8. Invalid bytes become surrogates, as in Python's file names."""
    return text.isascii() or not re.search("[\udc80-\udcff]", text)


def read_attributes(file: AnnotationFile, wanted: Sequence[str] = ()) -> AttributeTable:
    """Read ``list_attr_celeba.txt`` (count, names, then ``file ±1 …``) or ``.csv`` (``image_id,names…``).

    Labels are written as 1 and −1, as 1 and 0, or as True and False; 1.0, −1.0 and 0.0 are accepted too. Any line
    ending is accepted; repeated spaces and blank lines are ignored. The text format may lack the count. Photo names may
    contain bytes that are not UTF-8.

    Args:
        wanted: the attributes that will be used. Default: all. An ambiguous 0 in another column is no error.

    Raises:
        InputError: the file cannot be read; a line does not have one value for each attribute; a value is not a label;
            a file has both 0 and −1, so that 0 may mean "unknown"; or an attribute or a photo is listed twice. The
            message contains the line number.
    """
    rows = _rows(file)
    line, header = next(rows, (1, []))
    stated_count = None
    if file.is_csv:
        header = header[1:]  # the first column holds the photo names
    elif len(header) == 1 and _is_number(header[0]):
        stated_count = int(header[0])
        line, header = next(rows, (line + 1, []))
    attributes = tuple(header)
    _check_names(attributes, file, line)

    lines_by_file: dict[str, int] = {}
    codes = bytearray()
    for line, (photo, *values) in rows:
        if len(values) != len(attributes):
            raise InputError(
                f"{file.where}: line {line}: found {len(values)} values after {_quoted(photo)}, expected "
                f"{len(attributes)}, one for each attribute that the header names"
            )
        if not photo:
            raise InputError(f"{file.where}: line {line}: the name of the photo is missing")
        if photo in lines_by_file:
            raise InputError(
                f"{file.where}: line {line}: {_quoted(photo)} is already listed in line {lines_by_file[photo]}"
            )
        lines_by_file[photo] = line
        try:
            codes += bytes([LABEL_CODES[value] for value in values])
        except KeyError as error:
            wrong = str(error.args[0])
            name = _quoted(attributes[values.index(wrong)])[1:-1]
            found = f"is {_quoted(wrong)}" if wrong else "is missing"
            raise InputError(
                f"{file.where}: line {line}: {name} of {_quoted(photo)} {found}, expected -1, 0 or 1, or True or False"
            ) from None
    table = np.frombuffer(codes, dtype=np.uint8).reshape(-1, len(attributes))
    lines = list(lines_by_file.values())
    _check_zeros(table, attributes, lines, wanted, file)
    return AttributeTable(attributes, list(lines_by_file), lines, (table == YES).astype(np.uint8), stated_count)


def read_partition(file: AnnotationFile) -> dict[str, int]:
    """Read ``list_eval_partition.txt`` or ``.csv``: photo name → 0 (train), 1 (validation) or 2 (test).

    Raises:
        InputError: the file cannot be read, a line is not ``file 0|1|2``, or a photo is listed twice.
    """
    partition = _read_pairs(file)
    for photo, part in partition.items():
        if part not in (0, 1, 2):
            raise InputError(
                f"{file.where}: the split of {_quoted(photo)} is {part}, expected 0 (train), 1 (validation) or 2 (test)"
            )
    return partition


def read_identities(file: AnnotationFile) -> dict[str, int]:
    """Read ``identity_CelebA.txt`` or ``.csv``: photo name → number of the person, at least 0.

    Raises:
        InputError: the file cannot be read, a line is not ``file number``, or a photo is listed twice.
    """
    return _read_pairs(file)


def read_originals(file: AnnotationFile) -> dict[str, str]:
    """Read ``CelebA-HQ-to-CelebA-mapping.txt``: number of a CelebA-HQ photo → name of the CelebA photo it comes from.

    Raises:
        InputError: the file cannot be read, or a line is not ``number number file``.
    """
    originals: dict[str, str] = {}
    for line, fields in _rows(file):
        if line == 1 and not _is_number(fields[0]):
            continue
        if len(fields) != 3 or not _is_number(fields[0]):
            raise InputError(f"{file.where}: line {line}: expected two numbers and a photo of CelebA")
        originals[fields[0]] = fields[2]
    return originals


def _check_names(attributes: Sequence[str], file: AnnotationFile, line: int) -> None:
    if not attributes:
        commas = ", with commas between them" if file.is_csv else ""
        raise InputError(f"{file.where}: line {line}: expected the names of the attributes{commas}")
    seen: set[str] = set()
    for name in attributes:
        if not name:
            raise InputError(f"{file.where}: line {line}: attribute {len(seen) + 1} has no name")
        if name in LABEL_CODES:
            raise InputError(f"{file.where}: line {line}: found the label {name}, expected the names of the attributes")
        if not is_decodable(name):
            raise InputError(f"{file.where}: line {line}: is not UTF-8 text, so this is not an annotation file")
        if name in seen:
            raise InputError(f"{file.where}: line {line}: attribute {_quoted(name)} is named twice")
        seen.add(name)


def _check_zeros(
    table: NDArray[np.uint8],
    attributes: Sequence[str],
    lines: Sequence[int],
    wanted: Sequence[str],
    file: AnnotationFile,
) -> None:
    """Raise an error if a 0 may mean "unknown": once one column has both 0 and −1, every 0 of the file may."""
    has_zero, has_minus = (table == ZERO).any(axis=0), (table == MINUS).any(axis=0)
    unclear = has_zero & has_minus
    if unclear.any():
        unclear = has_zero
    names = [name for name, is_unclear in zip(attributes, unclear, strict=True) if is_unclear]
    chosen = set(wanted or names)
    if used := [name for name in names if name in chosen]:
        row = int(np.argmax(table[:, attributes.index(used[0])] == ZERO))
        more = f" (and {counted(used[1:], 'more column')})" if len(used) > 1 else ""
        raise InputError(
            f"{file.where}: line {lines[row]}: {used[0]}{more} is 0 in a file that also has -1, so 0 may mean unknown; "
            "expected -1 or 1, or 0 or 1 (or choose other columns: --attributes)"
        )


def _read_pairs(file: AnnotationFile) -> dict[str, int]:
    pairs: dict[str, int] = {}
    first = True
    for line, fields in _rows(file):
        is_header = first and file.is_csv and not fields[-1].isdecimal()
        first = False
        if is_header:
            continue
        if len(fields) != 2 or not fields[0] or not _is_number(fields[1]):
            found = _quoted(" ".join(fields))
            raise InputError(f"{file.where}: line {line}: found {found}, expected a photo and a number")
        if fields[0] in pairs:
            raise InputError(f"{file.where}: line {line}: {_quoted(fields[0])} is listed a second time")
        pairs[fields[0]] = int(fields[1])
    return pairs


def _rows(file: AnnotationFile) -> Iterator[tuple[int, list[str]]]:
    """The line number (from 1) and the fields of each line that is not blank."""
    if not file.is_csv:
        for number, line in enumerate(_lines(file), start=1):
            if fields := line.split():
                yield number, fields
        return
    reader = csv.reader(_lines(file), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{file.where}: line {number}: is not CSV ({error})") from None
        if any(fields):
            yield number, [field.strip() for field in fields]


def _lines(file: AnnotationFile) -> Iterator[str]:
    """The lines of the file, with any line ending. Bytes that are not UTF-8 become surrogates."""
    try:
        with file.open() as stream:
            if looks_like_html(stream.read(1024)):
                raise InputError(
                    f"{file.where}: is a web page, not an annotation file (Google Drive's quota page?); "
                    "download it again"
                )
            if stream.seek(0, 2) > MAX_ANNOTATION_BYTES:
                raise InputError(
                    f"{file.where}: has {stream.tell():,} bytes, expected at most {MAX_ANNOTATION_BYTES:,} for an "
                    "annotation file"
                )
            stream.seek(0)
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape")
            for number, line in enumerate(iter(lambda: text.readline(MAX_LINE), ""), start=1):
                if "\0" in line or len(line) == MAX_LINE:
                    what = "holds a NUL byte" if "\0" in line else f"has more than {MAX_LINE:,} characters"
                    raise InputError(f"{file.where}: line {number}: {what}, so this is not an annotation file")
                if len(line) > MAX_FIELD and max(map(len, re.split(r"[\s,]", line))) > MAX_FIELD:
                    raise InputError(f"{file.where}: line {number}: a field has more than {MAX_FIELD:,} characters")
                yield line
    except OSError as error:
        raise InputError(f"{file.where}: cannot be read: {error.strerror or error}") from error


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}…")
