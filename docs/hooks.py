"""What the pages take from elsewhere, so that nothing is written twice.

A line ``<!-- readme: Heading -->`` becomes that section of README.md (``start``: what stands above the first heading),
``<!-- file: NAME -->`` a file of the repository, ``<!-- help: COMMAND -->`` what ``igan-fast COMMAND --help`` says.
What is not there ends the build.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from igan_fast.app import cli

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: Any) -> Files:
    """README's pictures stand in docs/."""
    for picture in sorted((ROOT / "docs").glob("*.png")):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what a page names."""

    def replaced(match: re.Match[str]) -> str:
        return {"readme": _section, "file": _file, "help": _help}[match[1]](match[2])

    return re.sub(r"^<!-- (readme|file|help): (.*) -->$", replaced, markdown, flags=re.MULTILINE)


def _section(heading: str) -> str:
    """A section of README.md without its heading."""
    text = "## start\n" + (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise PluginError(f"README.md has no section {heading!r}; a page under docs/pages takes it from there")
    return _links(re.sub(r"^# .*\n", "", found[1]))


def _file(name: str) -> str:
    return _links((ROOT / name).read_text(encoding="utf-8"))


def _links(text: str) -> str:
    """Pictures as the pages find them; links to files of the repository, which are no pages, as their text."""
    text = text.replace("](docs/", "](")
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)[^)]*\)", r"\1", text)


def _help(command: str) -> str:
    said = io.StringIO()
    setting = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, setting), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        cli.main([*command.split(), "--help"])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
    if "usage: igan-fast" not in plain:
        raise PluginError(f"igan-fast {command} --help says {plain!r}")
    return "```text\n" + "\n".join(line.rstrip() for line in plain.strip().splitlines()) + "\n```"
