"""Markdown tables out of result files.

``python -m bench.table bench/results/*.json`` prints them; with ``--write README.md`` they are put between that file's
``<!-- bench:start -->`` and ``<!-- bench:end -->``; ``--check README.md`` fails where they are not what stands there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def render(documents: Sequence[dict[str, Any]]) -> str:
    """A heading and a table for each machine."""
    return "\n\n".join(_machine(document) for document in documents)


def _machine(document: dict[str, Any]) -> str:
    machine = document["machine"]
    lines = [
        f"**{machine['hardware']}**, torch {machine['torch']}, {machine['date']}; forward + backward, medians of "
        f"{min(r['rounds'] for r in document['results'])} interleaved rounds:",
        "",
        "| Operator | Batch | Type | Layout | Ours | Eager | torch.compile | Of copy ceiling | Peak memory, eager's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(result) for result in document["results"]]
    return "\n".join(lines)


def _row(result: dict[str, Any]) -> str:
    ours = result["times"]["ours"]["both"]["median_ms"]
    eager, compiled = (best(result, kind) for kind in ("eager", "compile"))
    share = result["share_of_copy"].get("both")
    eager_peaks = [value for name, value in result["peak_bytes"].items() if name.startswith("eager")]
    cells = [
        result["operator"],
        str(result["batch"]),
        result["dtype"],
        result["layout"],
        f"{ours:.2f} ms",
        _against(eager, ours),
        _against(compiled, ours),
        "" if share is None else f"{share:.0%}",
        f"{result['peak_bytes']['ours'] / 1e6:.0f} / {min(eager_peaks) / 1e6:.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def best(result: dict[str, Any], kind: str, which: str = "both") -> float:
    """The faster of the two layouts' medians, in milliseconds."""
    return min(times[which]["median_ms"] for name, times in result["times"].items() if name.startswith(kind))


def _against(theirs: float, ours: float) -> str:
    return f"{theirs:.1f} ms, {theirs / ours:.1f}×"


def _between_marks(text: str, new: str) -> str:
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"the file lacks {START} or {END}")
    return f"{before}{START}\n{new}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--check", type=Path)
    options = parser.parse_args(arguments)
    tables = render([json.loads(path.read_text(encoding="utf-8")) for path in options.results])
    target = options.write or options.check
    if target is None:
        print(tables)
        return 0
    text = target.read_text(encoding="utf-8")
    wanted = _between_marks(text, tables)
    if options.write:
        target.write_text(wanted, encoding="utf-8")
    elif wanted != text:
        print(f"{target} does not hold the tables of {', '.join(map(str, options.results))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
