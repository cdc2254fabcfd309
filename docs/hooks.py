"""Hooks of mkdocs: they put texts, tables and the picture into the pages, and check the width of code.

In a page these lines are replaced:

- ``<!-- file: NAME -->`` by a file of the repository;
- ``<!-- help: COMMAND -->`` by what ``igan-fast COMMAND --help`` prints;
- ``<!-- tables: RESULTS -->`` by the tables of a file of bench/results;
- ``<!-- expected: RESULTS -->`` by what an iteration should take on the machine of such a file, or on one that is
  named (``bench.expected``);
- ``<!-- scaling: table -->`` by the model of training on many GPUs (``bench.scaling``);
- ``<!-- processes: RESULTS -->`` by the times of several processes (``bench.processes``) from a file;
- ``<!-- networks: RESULTS -->`` by the times of others' networks after ``fuse`` (``bench.fused_networks``) from a file;
- ``<!-- passes: BATCH, PRECISION -->`` by the passes of an iteration that only move memory (``bench.passes``);
- ``<!-- architecture: picture -->`` and ``<!-- architecture: table -->`` by what architecture.py reads from the code.

A name that is not found ends the build, and so does a line of code that is wider than a page's column.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import architecture  # noqa: E402

from bench import expected, fused_networks, passes, processes, scaling, table  # noqa: E402
from igan_fast.__main__ import main  # noqa: E402

log = logging.getLogger("mkdocs.hooks")

#: Characters of code that fit a page's column on a wide screen.
COLUMN = 80


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures that README shows; they are kept in docs/."""
    for picture in sorted((ROOT / "docs").glob("*.png")):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the lines that the docstring of this module lists."""
    sources = {
        "file": _file,
        "help": _help,
        "tables": _tables,
        "expected": _expected,
        "scaling": lambda _: scaling.render(),
        "processes": lambda results: processes.render(json.loads((ROOT / results).read_text(encoding="utf-8"))),
        "networks": lambda results: fused_networks.render(json.loads((ROOT / results).read_text(encoding="utf-8"))),
        "passes": _passes,
        "architecture": _architecture,
    }

    def replaced(match: re.Match[str]) -> str:
        return sources[match[1]](match[2])

    whole = re.sub(rf"^<!-- ({'|'.join(sources)}): (.*) -->$", replaced, markdown, flags=re.MULTILINE)
    # In the repository these links lead to files. From the built page they would lead nowhere.
    return _with_links(lambda match: match[1], r"\.\./[^)]*", whole)


def on_page_content(html: str, page: Any, **_: Any) -> None:
    """Warn of lines of code that are wider than their column; a warning ends a strict build."""
    for line in code_lines(html):
        if len(line) > COLUMN:
            log.warning(
                "%s: %d characters of code in a line, at most %d: %s", page.file.src_uri, len(line), COLUMN, line
            )


def code_lines(html: str) -> list[str]:
    """The lines of all blocks of code."""
    reader = _Code()
    reader.feed(html)
    return "".join(reader.text).splitlines()


class _Code(HTMLParser):
    """Collects the text of ``<pre>``."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self._inside = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._inside += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._inside -= 1
            self.text.append("\n")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text.append(data)


def _file(name: str) -> str:
    """A file of the repository. Its links to pages lead to them, and its pictures are where ``on_files`` puts them.
    Links to other files, which are no pages, become their text."""
    path = ROOT / name
    if not path.is_file():
        raise PluginError(f"there is no {name}; a page under docs/pages takes it in")
    text = path.read_text(encoding="utf-8").replace("](docs/pages/", "](").replace("](docs/", "](")
    text = text.replace("](CONTRIBUTING.md", "](contributing.md").replace("](CHANGELOG.md", "](changelog.md")
    pages = {page.name for page in (ROOT / "docs" / "pages").glob("*.md")}

    def link(match: re.Match[str]) -> str:
        is_page = match[2].partition("#")[0] in pages
        return match[0] if is_page else match[1]

    return _with_links(link, r"(?!https?:|#)[^)]*", text)


def _with_links(change: Callable[[re.Match[str]], str], target: str, text: str) -> str:
    """``text`` with every link changed whose target the pattern ``target`` matches; code between backticks stays."""
    pattern = rf"`[^`]*`|(?<!!)\[([^\]]+)\]\(({target})\)"
    return re.sub(pattern, lambda match: match[0] if match[1] is None else change(match), text)


def _help(command: str) -> str:
    printed = io.StringIO()
    setting = {"COLUMNS": str(COLUMN), "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, setting), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
    if "usage: igan-fast" not in plain:
        raise PluginError(f"igan-fast {command} --help prints {plain!r}")
    lines = [wrapped for line in plain.strip().splitlines() for wrapped in _wrapped(line.rstrip())]
    return "\n".join(["```text", *lines, "```"])


def _wrapped(line: str) -> list[str]:
    """The line, wrapped if it is wider than a column."""
    if len(line) <= COLUMN:
        return [line]
    return textwrap.wrap(line, COLUMN, subsequent_indent="    ", break_on_hyphens=False)


def _tables(results: str) -> str:
    return table.render([json.loads((ROOT / results).read_text(encoding="utf-8"))])


def _expected(results: str) -> str:
    if not results.endswith(".json"):
        return expected.render({"machine": {"name": results}})
    return expected.render(json.loads((ROOT / results).read_text(encoding="utf-8")))


def _passes(iteration: str) -> str:
    batch, precision = iteration.split(", ")
    return passes.render(int(batch), precision)


def _architecture(what: str) -> str:
    boxes = _boxes()
    if what == "table":
        return architecture.table(boxes)
    return f'<div class="architecture">\n{architecture.svg(boxes)}\n</div>'


@functools.cache
def _boxes() -> dict[str, architecture.Box]:
    return architecture.read()
