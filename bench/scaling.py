"""A model of training on many GPUs: ``python -m bench.scaling [--picture FILE]``. It needs no GPU.

It is a model: no iteration was ever measured on several GPUs. It takes the operator calls of one process's share of an
iteration, and what the process exchanges with others, in the order of the code (``exchanges``). A call takes as long as
``expected`` says for an H200, times what an H100 was measured to take beyond that. An exchange takes as long as is
published for NCCL. Sums of gradients go on beside the computing until the code waits for them.

Left out: that exchanges take memory traffic and a few multiprocessors from the computing, and that processes are not
equally fast. Prints a table, and what follows from it.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import expected
from bench.counting import Call
from bench.exchanges import GRADIENTS, STATISTICS, Event, Exchange, Share, share_of_an_iteration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MACHINE, PRECISION = "nvidia-h200", "bf16"

#: The measured iterations by which the model is corrected: those of one process on this machine.
MEASURED = Path(__file__).parent / "results" / "nvidia-h100-80gb-hbm3.json"

#: In such a file, the names of the iteration as a CUDA graph, and launched call by call.
RECORDED, UNRECORDED = "ours", "ours, without graphs"

#: GPUs of a node.
NODE = 8

#: The photos of each GPU that the table has, and those among which the largest useful batch is looked for.
ROWS, SEARCHED = (64, 256, 1024), tuple(2**power for power in range(4, 13))

#: The number of GPUs and of norm groups of the table's rows.
SETTINGS = ((8, 8), (8, 1), (64, 64), (64, 8), (64, 1))

#: The share of the ideal from which on a larger batch is of no use.
ENOUGH = 0.95


class Network(NamedTuple):
    """How fast GPUs exchange.

    Attributes:
        small, large: seconds that an exchange of less and of more than ``SMALL`` takes beyond what its bytes need.
        bandwidth: bytes per second of a GPU, as nccl-tests counts them ("bus bandwidth").
    """

    small: float
    large: float
    bandwidth: float


SMALL = 10**6

#: Eight GPUs on NVSwitch with NVLink 4. Of it, NVIDIA says, applications get 370 GB/s (NVIDIA/nccl #1442); all-reduces
#: of gigabytes on eight H200s reach 475 (NVIDIA/nccl-tests #272). Small exchanges between eight H20s, which have the
#: same links, take 11 µs (all-gather) and 16 µs (all-reduce; deepseek-ai/DeepEP #303).
INSIDE = Network(11e-6, 16e-6, 370e9)

#: Nodes of eight with one 400 Gb/s InfiniBand adapter for each GPU, of which NVIDIA expects 46 to 48 GB/s each
#: (NVIDIA/nccl-tests #290). On two such nodes of H20s all-reduces from 17 to 67 MB take 115 µs and their bytes at 350
#: GB/s (NVIDIA/nccl #1244). NCCL's own model (src/graph/tuning.cc) has 70 µs for a small all-gather of 64 GPUs: 3.6 µs,
#: 56 steps over NVLink of 0.47 · 1.8 µs, and 7 over the network of 2.7 µs.
BETWEEN = Network(70e-6, 115e-6, 350e9)


class Iteration(NamedTuple):
    """The seconds of a GPU in an iteration.

    Attributes:
        computing: operator calls.
        gradients: waiting for sums of gradients.
        statistics: waiting for statistics, losses and codes.
    """

    computing: float
    gradients: float
    statistics: float

    @property
    def total(self) -> float:
        return sum(self)


class Beyond(NamedTuple):
    """What the H100 takes beyond its ceilings.

    Attributes:
        slowness: the time of a large iteration, recorded as a CUDA graph, divided by the expected time.
        host: the seconds in which the host launches an iteration that is not recorded.
    """

    slowness: float
    host: float


def simulated(share: Share, of_call: Callable[[Call], float], of_exchange: Callable[[Exchange], float]) -> Iteration:
    """Let the calls and the exchanges of an iteration take these seconds.

    Exchanges go on beside the calls, one after the other; those of the processes that share a norm group beside those
    of all.
    """
    now = computing = 0.0
    free, ends = {True: 0.0, False: 0.0}, {}
    waited = {GRADIENTS: 0.0, STATISTICS: 0.0}
    events = iter([*share.events, Event(Exchange(-1, STATISTICS, 0, False), len(share.calls) + 1, False)])
    event = next(events)
    for index in range(len(share.calls) + 1):
        while event.calls == index:
            exchange = event.exchange
            if event.waits:
                late = max(0.0, ends[exchange.number] - now)
                waited[exchange.kind] += late
                now += late
            else:
                begin = max(now, free[exchange.shared])
                ends[exchange.number] = free[exchange.shared] = begin + of_exchange(exchange)
            event = next(events)
        if index < len(share.calls):
            took = of_call(share.calls[index])
            now, computing = now + took, computing + took
    return Iteration(computing, waited[GRADIENTS], waited[STATISTICS])


def seconds(exchange: Exchange, world: int, norm_groups: int) -> float:
    """The time of an exchange between W GPUs, or between those of them that share one of S norm groups."""
    taking_part = world // norm_groups if exchange.shared else world
    network = INSIDE if taking_part <= NODE else BETWEEN
    moved = exchange.size * (taking_part - 1) * (2 / taking_part if exchange.kind == GRADIENTS else 1)
    return (network.small if exchange.size < SMALL else network.large) + moved / network.bandwidth


@functools.cache
def iteration(world: int, norm_groups: int, rows: int) -> Iteration:
    """The model of an iteration.

    Args:
        world, norm_groups: W and S; one divides the other.
        rows: the photos of each GPU.

    Raises:
        RuntimeError: as ``calls_of_an_iteration``.
    """
    ceilings, slowness = expected.ceilings_of(MACHINE), beyond().slowness
    share = scaled(*_counted(norm_groups < world), rows)
    return simulated(
        share,
        lambda call: slowness * expected.seconds(call, ceilings, PRECISION),
        lambda exchange: seconds(exchange, world, norm_groups),
    )


@functools.cache
def _counted(shared: bool) -> tuple[Share, Share]:
    """The shares of a process of two with 64 and with 128 photos. Their calls do not depend on the number of others."""
    sizes = {"world": 2, "norm_groups": 1 if shared else 2, "preset": "paper"}
    few, many = (
        share_of_an_iteration(expected.IMAGE_SIZE, expected.WIDTH, rows, PRECISION, **sizes)  # type: ignore[arg-type]
        for rows in (64, 128)
    )
    return few, many


def scaled(few: Share, many: Share, rows: int) -> Share:
    """The share with another number of photos, from those with 64 and 128: all sizes are linear in it.

    Raises:
        ValueError: the two do not consist of the same calls.
    """
    if [c.operator for c in few.calls] != [c.operator for c in many.calls] or len(few.events) != len(many.events):
        raise ValueError("an iteration has other calls with 128 photos than with 64")

    def at(first: int, second: int) -> int:
        return first + (second - first) * (rows - 64) // 64

    calls = [
        a._replace(read=at(a.read, b.read), written=at(a.written, b.written), flops=at(a.flops, b.flops))
        for a, b in zip(few.calls, many.calls, strict=True)
    ]
    events = [
        a._replace(exchange=a.exchange._replace(size=at(a.exchange.size, b.exchange.size)))
        for a, b in zip(few.events, many.events, strict=True)
    ]
    return Share(calls, events)


@functools.cache
def beyond() -> Beyond:
    """From ``MEASURED``."""
    results = json.loads(MEASURED.read_text(encoding="utf-8"))["results"]
    times = {
        result["batch"]: {name: result["times"][name]["both"]["median_ms"] / 1e3 for name in (RECORDED, UNRECORDED)}
        for result in results
        if (result["operator"], result["dtype"]) == (expected.OPERATOR, PRECISION)
    }
    ceilings, largest = expected.ceilings_of(MEASURED.stem, results), max(times)
    ideal = sum(expected.seconds(call, ceilings, PRECISION) for call in expected.counted(largest, PRECISION))
    return Beyond(times[largest][RECORDED] / ideal, min(each[UNRECORDED] for each in times.values()))


def largest_useful(world: int, norm_groups: int) -> int:
    """The photos of each GPU from which on more of them make no iteration faster per photo by more than 5 %."""
    shares = ((rows, iteration(world, norm_groups, rows)) for rows in SEARCHED)
    return next((rows for rows, found in shares if found.computing >= ENOUGH * found.total), SEARCHED[-1])


def render() -> str:
    """The table, and what follows from it."""
    slowness, host = beyond()
    lines = [
        f"**Model, not measured.** Milliseconds of an iteration at {expected.IMAGE_SIZE}², width {expected.WIDTH}, in "
        f"{PRECISION}, on H200s, {NODE} in each node. *Of the ideal*: the share of the time in which a GPU computes.",
        "",
        "| GPUs | S | Photos per GPU | in all | Computing | + gradients | + statistics | Of the ideal | Photos/s |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for world, groups in SETTINGS:
        for rows in ROWS:
            found = iteration(world, groups, rows)
            cells = [
                *(str(world), str(groups), f"{rows:,}", f"{world * rows:,}"),
                *(f"{part * 1e3:.2f}" for part in found),
                *(f"{found.computing / found.total:.0%}", f"{world * rows / found.total:,.0f}"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    useful = "; ".join(
        f"{world} GPUs with S = {groups}: {rows:,} per GPU, {world * rows:,} in all"
        for world, groups in SETTINGS
        for rows in [largest_useful(world, groups)]
    )
    launched = next(rows for rows in SEARCHED if iteration(8, 8, rows).total > host)
    return "\n".join(
        [
            *lines,
            "",
            f"Computing takes {slowness:.2f} times what the ceilings allow, as it does on an H100. A GPU computes 95 % "
            f"of the time from these batches on: {useful}. Larger ones gain nothing in speed.",
            "",
            f"The host needs {host * 1e3:.0f} ms to launch an iteration that is not recorded as a CUDA graph (measured "
            f"on an H100's host). Without recording, this would limit first: below about {launched:,} photos per GPU "
            "the GPUs would wait for their hosts, whatever they exchange. So the model takes recorded iterations.",
        ]
    )


def draw() -> Figure:
    """The share of the ideal, and photos per second, over the photos of each GPU."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    host = beyond().host
    colours = dict(zip(SETTINGS, ("#4c72b0", "#8fb0e0", "#c44e52", "#dd8452", "#e6b89c"), strict=True))
    for world, groups in SETTINGS:
        found = [iteration(world, groups, rows) for rows in SEARCHED]
        line = {"color": colours[world, groups], "label": f"{world} GPUs, S = {groups}", "marker": "o", "markersize": 3}
        left.plot(SEARCHED, [each.computing / each.total for each in found], **line)
        speeds = [world * rows / each.total for rows, each in zip(SEARCHED, found, strict=True)]
        right.plot(SEARCHED, speeds, **line)
    for world, colour in ((8, "#4c72b0"), (64, "#c44e52")):
        speeds = [world * rows / max(host, iteration(world, world, rows).total) for rows in SEARCHED]
        label = f"{world} GPUs, S = {world}, not recorded as CUDA graphs"
        right.plot(SEARCHED, speeds, color=colour, linestyle=":", label=label)
    left.axhline(ENOUGH, color="#888888", linewidth=0.8, linestyle="--")
    left.set(title="Share of the time in which a GPU computes", ylim=(0, 1.02))
    right.set(title="Photos per second", yscale="log")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(SEARCHED, [f"{rows:,}" for rows in SEARCHED], fontsize=8)
        axes.set_xlabel("photos per GPU")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.suptitle("A model of H200s, 8 in each node (bench/scaling.py); nothing was measured on several GPUs")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--picture", type=Path, help="also draw it into this file")
    options = parser.parse_args(arguments)
    try:
        print(render())
        if options.picture:
            draw().savefig(options.picture, dpi=110)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"bench.scaling: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
