"""The calls of an iteration that only move memory, with the lines that cause them: ``python -m bench.passes``.

They are the passes over tensors that no convolution, linear layer, norm_act, feature_l1 or optimiser makes: casts,
copies, sums of gradients, activations that are not fused. Counted as ``bench.expected`` counts, without a GPU.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench import expected
from bench.counting import Call
from bench.fake_step import calls_of_an_iteration
from bench.parts import ADAM, CONVOLUTIONS, FEATURE_L1, IMAGE_CONVOLUTIONS, LINEAR, NORM_ACT, part_of

#: The machine at whose speed of a copy the times are given.
MACHINE = "nvidia-h100-80gb-hbm3"

#: Passes of fewer bytes are left out.
LEAST = 10**7

WORK = (
    *(CONVOLUTIONS, IMAGE_CONVOLUTIONS, LINEAR),
    *(NORM_ACT, FEATURE_L1, ADAM),
)


class Pass(NamedTuple):
    """Calls of one operator that one line causes.

    Attributes:
        operator, line: as of ``Call``.
        callers: the lines of the iteration from which they are reached.
        count: the number of calls.
        largest: the largest shape among arguments and results.
        moved: the bytes of all calls together.
    """

    operator: str
    line: str
    callers: tuple[str, ...]
    count: int
    largest: tuple[int, ...]
    moved: int


def passes(calls: Iterable[Call], least: int = LEAST) -> list[Pass]:
    """The passes of at least ``least`` bytes, the largest first. ``calls``: with their lines."""
    found: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        if part_of(call.operator, call.shapes) not in WORK:
            found.setdefault((call.operator, call.line), []).append(call)
    summed = [
        Pass(
            operator,
            line,
            tuple(sorted({call.caller for call in same} - {"", line})),
            len(same),
            max((shape for call in same for shape in (*call.shapes, *call.results)), key=math.prod, default=()),
            sum(call.moved for call in same),
        )
        for (operator, line), same in found.items()
    ]
    return sorted((each for each in summed if each.moved >= least), key=lambda each: -each.moved)


def render(batch: int = 256, precision: str = "bf16", least: int = LEAST) -> str:
    """The passes of an iteration as a table, with their time at the speed of a copy."""
    calls = calls_of_an_iteration(expected.IMAGE_SIZE, expected.WIDTH, batch, precision, lines=True)
    copy = expected.ceilings_of(MACHINE).copy
    found = passes(calls, least)
    lines = [
        "| Pass | Calls | Largest tensor | MB | µs | Caused by | Reached from |",
        "|---|---:|---|---:|---:|---|---|",
    ]
    for each in found:
        cells = [
            f"`{each.operator}`",
            str(each.count),
            "×".join(map(str, each.largest)),
            f"{each.moved / 1e6:.0f}",
            f"{each.moved / copy * 1e6:.0f}",
            f"`{each.line}`",
            ", ".join(f"`{caller}`" for caller in each.callers),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    moved = sum(each.moved for each in found)
    lines.append(f"| all | {sum(p.count for p in found)} | | {moved / 1e6:.0f} | {moved / copy * 1e6:.0f} | | |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.passes", description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--precision", choices=expected.PRECISIONS, default="bf16")
    options = parser.parse_args(arguments)
    try:
        print(render(options.batch, options.precision))
    except RuntimeError as error:
        print(f"bench.passes: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
