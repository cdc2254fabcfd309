"""What an iteration should take on a GPU: ``python -m bench.expected [RESULTS]``. It needs no GPU.

``fake_step`` counts the bytes and FLOPs of each operator call of an iteration. A call is expected to take as long as a
large copy takes for its bytes, or a large matrix product for its FLOPs, whichever is longer. Prints a table with the
sum of each part of the iteration, beside the measured iterations and profiles of RESULTS, files of bench/results; then
where the measurement departs most from it. ``bench.passes`` lists the calls that only move memory, with the lines that
cause them.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.counting import BIAS, Call
from bench.fake_step import calls_of_an_iteration

#: Image size and width of the iteration that is compared, and its name in result files.
IMAGE_SIZE, WIDTH, OPERATOR = 128, 64, "iteration, 128² width 64"

BATCHES, PRECISIONS = (64, 256, 1024), ("bf16", "tf32", "fp32")

#: A convolution with fewer channels than this on one side is one from or to an image: as blocks it has 16.
FEW = 17

CONVOLUTIONS = "5×5 convolutions"
IMAGE_CONVOLUTIONS = "Convolutions from and to images"
NORM_ACT = "norm_act"
FEATURE_L1 = "Perceptual and pixel loss"
LINEAR = "Linear layers"
ADAM = "Adam"
CASTS = "Casts"
COPIES = "Copies and fills"
SUMS = "Sums of gradients"
ACTIVATIONS = "LeakyReLU, tanh and biases alone"
REST = "All others"

#: The parts of an iteration, in the order of the table.
PARTS = (
    CONVOLUTIONS,
    IMAGE_CONVOLUTIONS,
    NORM_ACT,
    FEATURE_L1,
    LINEAR,
    ADAM,
    CASTS,
    COPIES,
    SUMS,
    ACTIVATIONS,
    REST,
)

#: The parts of the operators whose shapes do not matter.
PART_OF = {
    **dict.fromkeys(
        (f"norm_act{part}" for part in ("", "_backward", "_update", "_statistics", "_inference", "_sums", "_gradient")),
        NORM_ACT,
    ),
    **dict.fromkeys(("feature_l1", "feature_l1_backward"), FEATURE_L1),
    **dict.fromkeys(("mm", "addmm"), LINEAR),
    **dict.fromkeys(("_fused_adam_", "_foreach_add_"), ADAM),
    "_to_copy": CASTS,
    **dict.fromkeys(("clone", "cat", "constant_pad_nd", "slice_backward", "zeros", "copy_", "fill_", "zero_"), COPIES),
    **dict.fromkeys(("add", "add_"), SUMS),
    **dict.fromkeys(("leaky_relu", "leaky_relu_", "leaky_relu_backward", "tanh", "tanh_backward", BIAS), ACTIVATIONS),
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


def part_of(operator: str, shapes: Sequence[Sequence[int]]) -> str:
    """The part of the iteration that a call belongs to, from its operator and the shapes of its arguments."""
    if operator in ("convolution", "convolution_backward"):
        weight = shapes[1 if operator == "convolution" else 2]
        return IMAGE_CONVOLUTIONS if min(weight[:2]) < FEW else CONVOLUTIONS
    if operator == "sum" and shapes and len(shapes[0]) == 4:  # the gradient of a convolution's bias
        return ACTIVATIONS
    return PART_OF.get(operator, REST)


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

    batch: int
    precision: str
    calls: int
    parts: dict[str, float]
    measured: float | None
    measured_parts: dict[str, float] | None

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def name(self) -> str:
        return f"{self.precision}, {self.batch}"


def columns(document: dict[str, Any], batches: Sequence[int] = BATCHES) -> list[Column]:
    """One column for each batch size and each precision whose products were measured.

    Args:
        document: a result file's.

    Raises:
        ValueError: as ``ceilings_of``.
        RuntimeError: as ``calls_of_an_iteration``.
    """
    results = document.get("results", [])
    ceilings = ceilings_of(document["machine"]["name"], results)
    measured = {(r["dtype"], r["batch"]): r["times"]["ours"]["both"]["median_ms"] for r in results if _is_shown(r)}
    profiles = {(p["precision"], p["batch"]): p["parts"] for p in document.get("profiles", []) if _is_shown(p)}
    found = []
    for precision in PRECISIONS:
        for batch in batches if precision in ceilings.product else ():
            calls = counted(batch, precision)
            key = precision, batch
            parts = expected(calls, ceilings, precision)
            found.append(Column(batch, precision, len(calls), parts, measured.get(key), profiles.get(key)))
    return found


def _is_shown(result: dict[str, Any]) -> bool:
    return bool(result["operator"] == OPERATOR)


@functools.cache
def _counted(batch: int, half: bool) -> list[Call]:
    return calls_of_an_iteration(IMAGE_SIZE, WIDTH, batch, "bf16" if half else "fp32")


def counted(batch: int, precision: str) -> list[Call]:
    """The calls of an iteration; counted once for tf32 and fp32, whose calls are the same."""
    return _counted(batch, precision == "bf16")


def render(document: dict[str, Any]) -> str:
    """The table of a machine, and where its measurements depart from it."""
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
        f"| Type, batch | {' | '.join(column.name for column in found)} |",
        f"|---|{'---:|' * len(found)}",
    ]

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
    return "\n".join([*lines, "", *departures(found)])


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
