"""README.md, CONTRIBUTING.md and docs/: every name and path that they mention exists, and the picture of the
architecture shows the code."""

from __future__ import annotations

import importlib
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "docs").is_dir():
    pytest.skip("the pages are not here: the installed package is tested", allow_module_level=True)

TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]
#: Folders that a command makes.
MADE = ("build/", "runs/", "samples/", "checkpoints/", "dist/")
#: In place of this word the reader puts a name.
PLACEHOLDER = "NAME"


def spans(path: Path) -> list[str]:
    """What stands between single backticks."""
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_names_exist(path: Path) -> None:
    for span in spans(path):
        name = re.match(r"igan_fast(\.\w+)+", span)
        if name and PLACEHOLDER not in name[0]:
            resolve(name[0])


def resolve(name: str) -> object:
    """The object of a dotted name; the longest part of it that is a module is imported."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_paths_exist(path: Path) -> None:
    roots = tuple(f"{entry.name}/" for entry in ROOT.iterdir() if entry.is_dir())
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", re.sub(r"`[^`]*`", "", path.read_text(encoding="utf-8")))
    for link in links:
        assert (path.parent / link).exists(), f"{path.name} links to {link}"
    for span in spans(path):
        if span.startswith(MADE) or PLACEHOLDER in span:
            continue
        if span.startswith(roots) and re.fullmatch(r"[\w./-]+", span):
            assert (ROOT / span).exists(), f"{path.name} names {span}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_code_fits_its_column(path: Path) -> None:
    """``make docs`` looks at the built pages too, which hold docstrings and signatures."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert [line for block in blocks for line in block.splitlines() if len(line) > 80] == []


@pytest.fixture(scope="module")
def architecture() -> Iterator[ModuleType]:
    pytest.importorskip("grimp")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("architecture")
    sys.modules.pop("architecture")


def test_the_picture_shows_every_folder_and_its_imports_run_downward(architecture: ModuleType) -> None:
    boxes = architecture.read()
    folders = {path.parent.name for path in (ROOT / "igan_fast").glob("*/__init__.py")}
    assert folders <= set(boxes)
    for box in boxes.values():
        assert all(boxes[used].level < box.level for used in box.uses)
        assert box.purpose
    assert {"ops", "reference"} <= boxes["layers"].uses
    assert ("models", "layers") in architecture.arrows(boxes)
    assert ("models", "reference") not in architecture.arrows(boxes), "it follows from models -> layers -> reference"


def test_the_picture_is_drawn_within_its_frame(architecture: ModuleType) -> None:
    boxes = architecture.read()
    picture = ET.fromstring(architecture.svg(boxes))
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    name = "{http://www.w3.org/2000/svg}"
    drawn = list(picture.iter(f"{name}rect"))
    assert len(drawn) == len(boxes)
    for rectangle in drawn:
        x, y, w, h = (float(rectangle.attrib[key]) for key in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + w <= width
        assert y + h <= height
    for box in boxes.values():
        widest = max(map(len, box.lines), default=0) * architecture.SMALL * 0.6
        assert max(widest, len(box.name) * architecture.TITLE * 0.6) <= box.width


def test_modules_that_import_each_other_are_named(architecture: ModuleType) -> None:
    boxes = {"a": architecture.Box("a", [], "", {"b"}), "b": architecture.Box("b", [], "", {"a"})}
    with pytest.raises(ValueError, match="a -> b -> a"):
        architecture._set_levels(boxes)
