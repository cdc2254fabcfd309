"""Tables of text, and how they are written in Markdown."""

from __future__ import annotations

import re
from typing import NamedTuple

from igan_fast.errors import printable

__all__ = ["Table", "escaped", "markdown_table"]

#: What Markdown (GitHub's) would interpret inside a line. An underscore inside a word is left: it means nothing there.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&$!]|(?<![^\W_])_|_(?![^\W_])")


class Table(NamedTuple):
    """A table of text."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Each has as many cells as the header."""
    title: str = ""


def markdown_table(table: Table) -> str:
    """Return the lines of a table, without its title. Each cell shows its text literally, on one line.

    The first column is aligned to the left, the others to the right.
    """
    lines = ["|".join(f" {escaped(cell)} " for cell in cells) for cells in (table.header, *table.rows)]
    lines.insert(1, "|".join([" --- ", *[" ---: "] * (len(table.header) - 1)]))
    return "".join(f"|{line}|\n" for line in lines)


def escaped(text: str) -> str:
    """Return Markdown that shows exactly this text, in one line, without spaces at its ends."""
    return _SPECIAL.sub(r"\\\g<0>", printable(text).strip())
