"""What an iteration should take on a GPU: ``python -m bench.expected [RESULTS]``. It needs no GPU.

``fake_step`` counts the bytes and FLOPs of each operator call of an iteration. A call is expected to take as long as a
large copy takes for its bytes, or a large matrix product for its FLOPs, whichever is longer. Prints a table with the
sum of each part of the iteration, beside the measured iterations and profiles of RESULTS, files of bench/results; then
where the measurement departs most from it. A second table has the iteration with blocks beside the default one.
``bench.passes`` lists the calls that only move memory, with the lines that cause them.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.counting import Call
from bench.fake_step import calls_of_an_iteration
from bench.iterations import KINDS
from bench.parts import PARTS, part_of
from igan_fast.ops import backend

#: Image size and width of the iterations that are compared, and the name of the first one in result files.
IMAGE_SIZE, WIDTH = 128, 64
OPERATOR = KINDS["paper"].named(IMAGE_SIZE, WIDTH)

BATCHES, PRECISIONS = (64, 256, 1024), ("bf16", "tf32", "fp32")

#: The kinds of iterations in the second table, with their names there; each is counted for the first two batch sizes.
CHOICES = {
    "paper": "default",
    "blocks": "blocks",
    "default": "additions",
    "blocks_film": "additions, blocks",
}


class Ceilings(NamedTuple):
    """The best that was measured on a machine.

    Attributes:
        copy: bytes per second that a large copy reads and writes.
        product: FLOP per second of a large matrix product, by precision.
    """

    copy: float
    product: dict[str, float]


#: Measured without other work in between (docs/pages/gpu.md, and for the H200 an earlier measurement of the same kind).
#: In a result file products are slower, because the GPU is as warm there as the benchmark makes it.
MEASURED = {
    "nvidia-h100-80gb-hbm3": Ceilings(3.0e12, {"bf16": 800e12}),
    "nvidia-h200": Ceilings(4.3e12, {"bf16": 790e12}),
}


def ceilings_of(machine: str, results: Sequence[dict[str, Any]] = ()) -> Ceilings:
    """The best of ``MEASURED`` and of a result file.

    Raises:
        ValueError: there is no speed of a copy, or none of a product.
    """
    known = MEASURED.get(machine, Ceilings(0.0, {}))
    copy = max([known.copy, *(result["copy_gb_per_s"] * 1e9 for result in results if "copy_gb_per_s" in result)])
    product = dict(known.product)
    for result in results:
        name = {"float32": "fp32", "bfloat16": "bf16"}.get(result["dtype"], result["dtype"])
        if "product_gflop_per_s" in result:
            product[name] = max(product.get(name, 0.0), result["product_gflop_per_s"] * 1e9)
    if not copy or not product:
        raise ValueError(f"{machine}: no large copy or no large matrix product was measured on it")
    return Ceilings(copy, product)


def seconds(call: Call, ceilings: Ceilings, precision: str) -> float:
    """The time of a call at the ceilings.

    Args:
        precision: of the iteration: "bf16", "tf32" or "fp32". It decides how fast products of float32 are.
    """
    of_bytes = call.moved / ceilings.copy
    if not call.flops:
        return of_bytes
    kind = "bf16" if call.dtype.itemsize == 2 else "tf32" if precision == "tf32" else "fp32"
    return max(of_bytes, call.flops / ceilings.product[kind])


def expected(calls: Iterable[Call], ceilings: Ceilings, precision: str) -> dict[str, float]:
    """The milliseconds of each part."""
    parts = dict.fromkeys(PARTS, 0.0)
    for call in calls:
        parts[part_of(call.operator, call.shapes)] += seconds(call, ceilings, precision) * 1e3
    return parts


class Column(NamedTuple):
    """A column of the table: an iteration, what is expected of its parts, and what was measured, in milliseconds."""

    name: str
    batch: int
    calls: int
    parts: dict[str, float]
    measured: float | None
    measured_parts: dict[str, float] | None

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def columns(document: dict[str, Any], batches: Sequence[int] = BATCHES) -> list[Column]:
    """One column for each batch size and each precision whose products were measured.

    Args:
        document: a result file's.

    Raises:
        ValueError: as ``ceilings_of``.
        RuntimeError: as ``calls_of_an_iteration``.
    """
    ceilings = ceilings_of(document["machine"]["name"], document.get("results", []))
    return [
        _column(document, ceilings, f"{precision}, {batch}", "paper", batch, precision)
        for precision in PRECISIONS
        for batch in (batches if precision in ceilings.product else ())
    ]


def columns_of_choices(document: dict[str, Any]) -> list[Column]:
    """One column for each batch size and each of ``CHOICES``, in bfloat16.

    Raises:
        ValueError, RuntimeError: as of ``columns``.
    """
    ceilings = ceilings_of(document["machine"]["name"], document.get("results", []))
    return [
        _column(document, ceilings, f"{batch}, {name}", kind, batch, "bf16")
        for batch in BATCHES[:2]
        for kind, name in CHOICES.items()
    ]


def _column(document: dict[str, Any], ceilings: Ceilings, name: str, kind: str, batch: int, precision: str) -> Column:
    operator = KINDS[kind].named(IMAGE_SIZE, WIDTH)
    measured = {
        (r["dtype"], r["batch"]): r["times"]["ours"]["both"]["median_ms"]
        for r in document.get("results", [])
        if r["operator"] == operator
    }
    profiles = {
        (p["precision"], p["batch"]): p["parts"] for p in document.get("profiles", []) if p["operator"] == operator
    }
    calls = counted(batch, precision, kind)
    parts, key = expected(calls, ceilings, precision), (precision, batch)
    return Column(name, batch, len(calls), parts, measured.get(key), profiles.get(key))


@functools.cache
def _counted(batch: int, half: bool, kind: str) -> list[Call]:
    options = {"preset": KINDS[kind].preset, "convolution": KINDS[kind].convolution}
    return calls_of_an_iteration(IMAGE_SIZE, WIDTH, batch, "bf16" if half else "fp32", **options)  # type: ignore[arg-type]


def counted(batch: int, precision: str, kind: str = "paper") -> list[Call]:
    """The calls of an iteration; counted once for tf32 and fp32, whose calls are the same."""
    return _counted(batch, precision == "bf16", kind)


def render(document: dict[str, Any]) -> str:
    """The tables of a machine, and where its measurements depart from the first one."""
    machine = document["machine"]
    ceilings = ceilings_of(machine["name"], document.get("results", []))
    found = columns(document)
    products = ", ".join(
        f"{ceilings.product[name] / 1e12:.0f} TFLOP/s in {name}" for name in PRECISIONS if name in ceilings.product
    )
    lines = [
        f"**{machine.get('hardware', machine['name'])}**: a large copy moves {ceilings.copy / 1e12:.1f} TB/s, a large "
        f"product reaches {products}. Milliseconds of one iteration at these speeds:",
        "",
        *_table("Type, batch", found),
        "",
        *departures(found),
    ]
    if "bf16" not in ceilings.product:
        return "\n".join(lines)
    lines.append("")
    if backend._triton_can_load():
        lines += [
            "With `IGAN_FAST_CONVOLUTION=blocks` (in bf16; *additions* are those of the default preset, FiLM among "
            "them; a product of a block is one call with what it normalises and adds up):",
            "",
            *_table("Batch, iteration", columns_of_choices(document)),
        ]
    else:
        lines.append("Blocks are not counted, because Triton is not installed.")
    return "\n".join(lines)


def _table(head: str, found: Sequence[Column]) -> list[str]:
    lines = [f"| {head} | {' | '.join(column.name for column in found)} |", f"|---|{'---:|' * len(found)}"]

    def row(name: str, cell: Callable[[Column], str]) -> None:
        lines.append(f"| {' | '.join([name, *map(cell, found)])} |")

    for part in PARTS:
        row(part, lambda column, part=part: f"{column.parts[part]:.2f}")  # type: ignore[misc]
    row("**All, expected**", lambda column: f"**{column.total:.1f}**")
    row("Images per second", lambda column: f"{column.batch / column.total * 1e3:,.0f}")
    row("Calls that move data", lambda column: str(column.calls))
    if any(column.measured for column in found):
        row("**Measured**, as a CUDA graph", lambda column: f"**{column.measured:.1f}**" if column.measured else "")
        row("Measured / expected", lambda c: f"{c.measured / c.total:.2f}" if c.measured else "")
    return lines


def departures(found: Sequence[Column]) -> list[str]:
    """Sentences on where the measurement departs most from what is expected."""
    measured = [column for column in found if column.measured]
    if not measured:
        return ["No iteration of this size was measured on it."]
    worst = max(measured, key=lambda column: (column.measured or 0) / column.total)
    sentences = [
        f"Of the measured iterations, {worst.name} departs most: {worst.measured:.1f} ms, "
        f"{(worst.measured or 0) / worst.total:.2f} times what is expected, {(worst.measured or 0) - worst.total:.1f} "
        "ms more."
    ]
    for column in found:
        if column.measured_parts:
            excess = {part: ms - column.parts[part] for part, ms in column.measured_parts.items() if part in PARTS}
            longest = sorted(excess, key=lambda part: -excess[part])[:3]
            named = "; ".join(
                f"{part} {column.measured_parts[part]:.2f} instead of {column.parts[part]:.2f} ms" for part in longest
            )
            sentences.append(f"In the profile of {column.name} these parts take the most longer: {named}.")
    return sentences


def _files(path: Path) -> list[Path]:
    """The result file, or those of a folder.

    Raises:
        FileNotFoundError: the folder has none.
    """
    found = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not found:
        raise FileNotFoundError(f"{path} holds no result file (.json)")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.expected", description=__doc__)
    parser.add_argument(
        "results", nargs="*", type=Path, help="files as in bench/results, or folders of them (default: known machines)"
    )
    options = parser.parse_args(arguments)
    try:
        documents = [json.loads(file.read_text(encoding="utf-8")) for path in options.results for file in _files(path)]
        print("\n\n".join(map(render, documents or [{"machine": {"name": name}} for name in MEASURED])))
    except (OSError, RuntimeError, ValueError) as error:
        print(f"bench.expected: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
