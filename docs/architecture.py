"""Draws the package's folders, modules and imports: ``python docs/architecture.py picture.svg``.

The imports are read from the code (grimp, which import-linter brings), so the picture and the table of
docs/pages/architecture.md are those of the code that they are built with. A box is a folder or a module of the
package. It stands above everything that it imports. An arrow is an import; one that follows from other arrows is left
out. Modules that import nothing but each other are one bar at the foot, which everything may import.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from unittest import mock

import grimp

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "igan_fast"
SOURCES = "csrc"
HELPERS = "helpers"

# In the picture's units; a character of its monospaced type is 0.6 of the type's size wide.
WIDTH, GAP, PADDING, ROW_GAP = 760, 14, 9, 34
TITLE, SMALL = 13, 10.5
LINE = 14


@dataclass
class Box:
    """A folder, a module, or the helpers together."""

    name: str
    """As the picture shows it."""
    parts: list[str]
    """The modules and folders in it."""
    purpose: str
    """The first paragraph of its docstring."""
    uses: set[str] = field(default_factory=set)
    """The boxes that it imports."""
    level: int = 0
    """Its row, counted from below."""
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    lines: list[str] = field(default_factory=list)
    """The parts, as many on a line as fit."""


def read(root: Path = ROOT, package: str = PACKAGE) -> dict[str, Box]:
    """The boxes by name, each with what it imports, read from the sources below ``root``."""
    with mock.patch.object(sys, "path", [str(root), *sys.path]):
        graph = grimp.build_graph(package, cache_dir=None)
    modules = sorted(name for name in graph.modules if name != package and not name.endswith(".__main__"))
    top = {module: module.split(".")[1] for module in modules}
    uses: dict[str, set[str]] = {name: set() for name in top.values()}
    for module in modules:
        imported = graph.find_modules_directly_imported_by(module)
        uses[top[module]] |= {top[name] for name in imported if name in top and top[name] != top[module]}
    folders = {name for name in uses if (root / package / name).is_dir()}
    boxes = {}
    helpers = _closed(set(uses) - folders, uses)
    for name in sorted(set(uses) - helpers):
        folder = root / package / name
        path = folder / "__init__.py" if name in folders else folder.with_suffix(".py")
        parts = sorted(_parts(folder)) if name in folders else []
        boxes[name] = Box(f"{name}/" if name in folders else name, parts, _purpose(path), uses[name] - helpers)
    if (root / SOURCES).is_dir() and "ops" in boxes:
        folders_there = sorted(p.name + "/" for p in (root / SOURCES).iterdir() if p.is_dir())
        boxes[SOURCES] = Box(f"{SOURCES}/", folders_there, "The kernels in C++ and CUDA, which torch.ops calls.")
        boxes["ops"].uses.add(SOURCES)
    _set_levels(boxes)
    if helpers:
        purpose = "Modules that import nothing but each other: errors, files, paths and the like."
        boxes[HELPERS] = Box(HELPERS, sorted(helpers), purpose, level=-1)
    return boxes


def _closed(modules: set[str], uses: dict[str, set[str]]) -> set[str]:
    """The largest set of ``modules`` that import nothing outside of it."""
    while outside := {name for name in modules if uses[name] - modules}:
        modules = modules - outside
    return modules


def _parts(folder: Path) -> Iterable[str]:
    for path in folder.iterdir():
        if path.is_dir() and (path / "__init__.py").is_file():
            yield f"{path.name}/"
        elif path.suffix == ".py" and not path.stem.startswith("__"):
            yield path.stem


def _purpose(path: Path) -> str:
    """The first paragraph of a module's docstring; of a folder that has none, that of its first module."""
    if path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip():
        path = min(p for p in path.parent.glob("*.py") if not p.stem.startswith("__"))
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _set_levels(boxes: dict[str, Box]) -> None:
    """Each box stands one row above the highest that it imports.

    Raises:
        ValueError: boxes import each other in a circle.
    """

    def level(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            raise ValueError(f"an import runs in a circle: {' -> '.join([*above[above.index(name) :], name])}")
        return max((level(used, (*above, name)) + 1 for used in boxes[name].uses), default=0)

    for name, box in boxes.items():
        box.level = level(name, ())


def arrows(boxes: dict[str, Box]) -> list[tuple[str, str]]:
    """The imports that do not follow from other imports."""

    def reached(name: str) -> set[str]:
        return boxes[name].uses.union(*(reached(used) for used in boxes[name].uses))

    found = []
    for name, box in boxes.items():
        indirect = set().union(*(reached(used) for used in box.uses))
        found += [(name, used) for used in sorted(box.uses - indirect)]
    return found


def svg(boxes: dict[str, Box]) -> str:
    """The picture; its colours are those of the text around it."""
    height = _lay_out(boxes)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="Folders and modules of {PACKAGE} and their imports" '
        'font-family="ui-monospace, SFMono-Regular, Menlo, monospace" fill="currentColor">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z"/></marker></defs>',
    ]
    drawn += [_arrow(boxes[above], boxes[below], boxes) for above, below in arrows(boxes)]
    drawn += [_drawn(box) for box in boxes.values()]
    return "\n".join([*drawn, "</svg>"])


def _lay_out(boxes: dict[str, Box]) -> float:
    """Give each box its place and size; returns the height of all."""
    y = 1.0
    for level in range(max(box.level for box in boxes.values()), -2, -1):
        row = [name for name, box in boxes.items() if box.level == level]
        if not row:
            continue
        row.sort(key=lambda name: _middle_of_users(name, boxes))
        # Each box gets its title's width at least; the rest goes to those with many parts.
        least = {name: _least(boxes[name]) for name in row}
        wanted = {name: max(least[name], _wide(boxes[name]) + 2 * PADDING) for name in row}
        beyond = {name: wanted[name] - least[name] for name in row}
        room = WIDTH - 2 - GAP * (len(row) - 1)
        fills = room < sum(wanted.values()) or level == -1
        if fills and any(beyond.values()):
            stretch = (room - sum(least.values())) / sum(beyond.values())
            wanted = {name: least[name] + stretch * beyond[name] for name in row}
        gap = GAP if fills else (WIDTH - 2 - sum(wanted.values())) / (len(row) + 1)
        x = 1.0 if fills else 1 + gap
        for name in row:
            box = boxes[name]
            box.x, box.y, box.width = x, y, wanted[name]
            box.lines = _wrapped(box.parts, int((box.width - 2 * PADDING) / (SMALL * 0.6)))
            box.height = 2 * PADDING + TITLE + LINE * len(box.lines)
            x += box.width + gap
        y += max(boxes[name].height for name in row) + ROW_GAP
    return y - ROW_GAP + 1


def _middle_of_users(name: str, boxes: dict[str, Box]) -> float:
    """Where the boxes that import this one stand, on average: arrows cross less so."""
    users = [box for box in boxes.values() if name in box.uses]
    return sum(box.x + box.width / 2 for box in users) / len(users) if users else WIDTH


def _least(box: Box) -> float:
    """The width of the title and of the longest part."""
    return max(len(box.name) * TITLE * 0.6, max(map(len, box.parts), default=0) * SMALL * 0.6) + 2 * PADDING


def _wide(box: Box) -> float:
    """The width that shows the parts in about as many lines as look well."""
    letters = sum(len(part) + 2 for part in box.parts)
    columns = max([letters // 4, *map(len, box.parts)], default=0)
    return (columns + 1) * SMALL * 0.6


def _wrapped(words: list[str], columns: int) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) + 2 <= columns:
            lines[-1] += f"  {word}"
        else:
            lines.append(word)
    return lines


def _arrow(above: Box, below: Box, boxes: dict[str, Box]) -> str:
    """A line from one box down to another; through the rows between them it passes beside the boxes."""
    x, y = above.x + above.width / 2, above.y + above.height
    end = below.x + below.width / 2
    path = [f"M{x:.1f} {y:.1f}"]
    for level in range(above.level - 1, below.level, -1):
        row = [box for box in boxes.values() if box.level == level]
        wanted = x + (end - x) / (level - below.level + 1)
        x_next = _beside(wanted, row)
        top, bottom = row[0].y, max(box.y + box.height for box in row)
        path += [_curve(x, y, x_next, top), f"L{x_next:.1f} {bottom:.1f}"]
        x, y = x_next, bottom
    path.append(_curve(x, y, end, below.y - 1))
    return (
        f'<path d="{"".join(path)}" fill="none" stroke="currentColor" stroke-opacity="0.45" marker-end="url(#head)"/>'
    )


def _beside(x: float, row: list[Box]) -> float:
    """The place nearest to ``x`` that no box of the row covers."""
    taken = [(box.x - GAP / 2, box.x + box.width + GAP / 2) for box in row]
    places = [x, *(edge for interval in taken for edge in interval)]
    free = [place for place in places if not any(left < place < right for left, right in taken)]
    return min(free, key=lambda place: abs(place - x))


def _curve(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (y1 + y2) / 2
    return f"C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2:.1f}"


def _drawn(box: Box) -> str:
    left, top = box.x + PADDING, box.y + PADDING + TITLE * 0.8
    texts = [f'<text x="{left:.1f}" y="{top:.1f}" font-size="{TITLE}" font-weight="bold">{escape(box.name)}</text>']
    for number, line in enumerate(box.lines, 1):
        texts.append(
            f'<text x="{left:.1f}" y="{top + LINE * number:.1f}" font-size="{SMALL}" xml:space="preserve" '
            f'fill-opacity="0.8">{escape(line)}</text>'
        )
    return (
        f'<g><title>{escape(box.purpose)}</title><rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="5" fill="var(--md-default-bg-color, white)" stroke="currentColor"/>'
        f"{''.join(texts)}</g>"
    )


def table(boxes: dict[str, Box]) -> str:
    """What each box is for, in Markdown, in the order of the picture."""
    rows = ["| Where | What it is for |", "|---|---|"]
    for box in sorted(boxes.values(), key=lambda box: (-box.level, box.name)):
        rows.append(f"| `{box.name}` | {box.purpose.replace('``', '`').replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    Path(sys.argv[1]).write_text(svg(read()) + "\n", encoding="utf-8")
