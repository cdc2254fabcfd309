"""Measures the constants of ``igan_fast/ops/convolution/winograd_costs.py``, for ``winograd_costs.json``.

    OMP_NUM_THREADS=1 python -m bench.winograd_costs

It replaces the constants of the instruction set in use; ``bench.winograd_1d_costs`` those of sequences.
``ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 IGAN_FAST_CPU_ISA=avx2`` limits PyTorch, oneDNN and our kernels to
AVX2 on any newer processor. All times are of one thread and in the process's own time, so that other programs disturb
them less. Each is the smallest of several rounds, in which all ways take turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.linear_limits import processor
from igan_fast.devices import keep_freed_memory
from igan_fast.ops.convolution import winograd_costs
from igan_fast.ops.convolution.winograd import FILTERS
from igan_fast.ops.convolution.winograd_costs import (
    COMPUTATIONS,
    TILES,
    Work,
    direct_counts,
    direct_in,
    filter_counts,
    winograd_counts,
)
from igan_fast.ops.instructions import products_of

#: Seconds of one measurement, and the number of measurements of which the shortest counts.
MEASURE, ROUNDS = 0.004, 4

#: Batch, side of the small feature map, input and output channels.
SIZES = (
    *((1, 7, 512, 512), (8, 7, 512, 512), (1, 14, 256, 256), (8, 14, 256, 256), (1, 28, 128, 128), (8, 28, 128, 128)),
    *((1, 56, 64, 64), (4, 56, 64, 64), (1, 64, 256, 256), (1, 32, 64, 32), (1, 32, 192, 32), (2, 64, 128, 32)),
    *((1, 4, 512, 512), (16, 4, 512, 512), (64, 4, 256, 256), (16, 8, 256, 512), (1, 8, 256, 512), (16, 16, 128, 256)),
    *((1, 16, 128, 128), (4, 16, 64, 64), (1, 32, 256, 512), (16, 32, 64, 128), (1, 64, 64, 128), (1, 128, 64, 64)),
    *((1, 128, 16, 16), (4, 64, 32, 32), (1, 256, 32, 32), (1, 8, 64, 64), (4, 8, 64, 64), (1, 12, 128, 128)),
    *((2, 6, 256, 256), (4, 12, 128, 128), (1, 31, 48, 96), (2, 33, 80, 40), (64, 8, 128, 64), (32, 16, 64, 32)),
)


class Sample(NamedTuple):
    """One measured way to compute something.

    Attributes:
        counts: of its work.
        seconds: that it took.
    """

    counts: Sequence[float]
    seconds: float


def measure(kernel: int, stride: int) -> dict[str, dict[str, list[Sample]]]:
    """The samples of a filter, for each computation and each way: "direct", "winograd" and "filter"; and "direct in
    bfloat16", where the CPU multiplies vectors of bfloat16."""
    found: dict[str, dict[str, list[Sample]]] = {c: {"direct": [], "winograd": [], "filter": []} for c in COMPUTATIONS}
    half = products_of(torch.bfloat16) == "vectors"
    padding = (kernel - 1) // 2
    for batch, side, inputs, outputs in SIZES:
        large_side = stride * side
        small_side = (large_side + 2 * padding - kernel) // stride + 1
        work = Work(batch, (large_side,) * 2, (small_side,) * 2, inputs, outputs, kernel, stride)
        large, small = (
            torch.randn(batch, large_side, large_side, inputs),
            torch.randn(batch, *[small_side] * 2, outputs),
        )
        weight = torch.randn(outputs, inputs, kernel, kernel)
        for computation in COMPUTATIONS:
            ways = [_direct(computation, large, small, weight, stride, padding)]
            filters: list[Callable[[], Any]] = []
            for tile in TILES:
                if computation == "weight_gradient":
                    ways.append(_gradient(large, small, kernel, stride, padding, tile))
                    continue
                transposed = computation == "transposed"
                filters.append(_filter(weight, stride, transposed, tile))
                ways.append(_winograd(large, small, filters[-1](), kernel, stride, padding, transposed, tile))
            halves = [t.bfloat16() for t in (large, small, weight)] if half else []
            in_half = [_direct(computation, *halves, stride, padding)] if half else []
            direct, *others = best_seconds([*ways, *filters, *in_half])
            samples = found[computation]
            if half:
                samples.setdefault(direct_in(torch.bfloat16), []).append(Sample(direct_counts(work), others.pop()))
            samples["direct"].append(Sample(direct_counts(work), direct))
            for tile, seconds in zip(TILES, others[: len(TILES)], strict=True):
                samples["winograd"].append(Sample(winograd_counts(work, tile, computation), seconds))
            for tile, seconds in zip(TILES, others[len(TILES) :], strict=False):
                samples["filter"].append(Sample(filter_counts(work, tile), seconds))
    return found


def _direct(
    computation: str, large: Tensor, small: Tensor, weight: Tensor, stride: int, padding: int
) -> Callable[[], Any]:
    x, grad = large.permute(0, 3, 1, 2), small.permute(0, 3, 1, 2)
    settings = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
    if computation == "convolution":
        return lambda: torch.ops.aten.convolution(x, weight, None, *settings)
    mask = [computation == "transposed", computation == "weight_gradient", False]
    return lambda: torch.ops.aten.convolution_backward(grad, x, weight, None, *settings, mask)


def _filter(weight: Tensor, stride: int, transposed: bool, tile: int) -> Callable[[], Tensor]:
    return lambda: torch.ops.igan_fast.winograd_filter(weight, stride, transposed, tile)  # type: ignore[no-any-return]


def _winograd(
    large: Tensor, small: Tensor, filter: Tensor, kernel: int, stride: int, padding: int, transposed: bool, tile: int
) -> Callable[[], Any]:
    x, out = (small, large) if transposed else (large, small)
    size, channels = list(out.shape[1:3]), out.shape[3]
    return lambda: torch.ops.igan_fast.winograd_conv(
        x, filter, size, channels, kernel, stride, padding, None, 1.0, transposed, tile
    )


def _gradient(large: Tensor, small: Tensor, kernel: int, stride: int, padding: int, tile: int) -> Callable[[], Any]:
    return lambda: torch.ops.igan_fast.winograd_conv_weight_gradient(large, small, kernel, stride, padding, tile)


def best_seconds(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """The shortest time of each call."""
    repeats, best = [], [math.inf] * len(calls)
    for call in calls:
        call(), call()
        start = time.process_time()
        call()
        repeats.append(max(1, int(MEASURE / max(time.process_time() - start, 1e-6))))
    for _, index in itertools.product(range(ROUNDS), range(len(calls))):
        start = time.process_time()
        for _ in range(repeats[index]):
            calls[index]()
        best[index] = min(best[index], (time.process_time() - start) / repeats[index])
    return best


def fit(samples: Sequence[Sample]) -> list[float]:
    """The constants, in nanoseconds and not negative, with the smallest squares of the relative errors."""
    if not samples:
        return []
    counts = torch.tensor([sample.counts for sample in samples], dtype=torch.float64)
    rows = counts * 1e-9 / torch.tensor([[sample.seconds] for sample in samples], dtype=torch.float64)
    ones = torch.ones(len(samples), dtype=torch.float64)
    terms = range(counts.shape[1])
    best, least = [0.0] * len(terms), math.inf
    for chosen in itertools.chain(*(itertools.combinations(terms, size) for size in terms), [tuple(terms)]):
        if not chosen:
            continue
        scale = rows[:, chosen].norm(dim=0)
        solution = torch.linalg.lstsq(rows[:, chosen] / scale, ones[:, None]).solution[:, 0] / scale
        error = float((rows[:, chosen] @ solution - ones).square().sum())
        if bool((solution >= 0).all()) and error < least:
            least, best = error, [0.0] * len(terms)
            for term, value in zip(chosen, solution.tolist(), strict=True):
                best[term] = value
    return [float(f"{value:.4g}") for value in best]


def start(description: str) -> Path:
    """Prepare this process for a measurement. Returns the file that the command line asks for."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=winograd_costs.FILE, help="the file to write, %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    return Path(options.out)


def main() -> None:
    out = start(str(__doc__))
    costs: dict[str, Any] = {}
    for kernel, stride in FILTERS:
        name = f"{kernel}x{kernel} stride {stride}"
        measured = measure(kernel, stride)
        costs[name] = {c: {way: fit(samples) for way, samples in ways.items()} for c, ways in measured.items()}
        for computation, ways in measured.items():
            print(name, computation, *(described(ways[way], costs[name][computation][way]) for way in ways), sep="; ")
    write(out, "costs", costs)


def write(out: Path, name: str, costs: dict[str, Any]) -> None:
    """Replace the constants of the instruction set in use in a file; those of other names stay."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    limited = "" if limit is None else f", oneDNN limited to {limit}"
    known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    entry = known.setdefault(winograd_costs.INSTRUCTION_SET, {})
    entry["measured_on"] = f"{processor()}{limited}, one thread, PyTorch {torch.__version__}"
    entry[name] = costs
    out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def described(samples: Sequence[Sample], costs: Sequence[float]) -> str:
    """The constants, and how far predictions are from what was measured."""
    if not samples:
        return "–"
    errors = sorted(
        abs(math.log(sum(a * b for a, b in zip(costs, sample.counts, strict=True)) * 1e-9 / sample.seconds))
        for sample in samples
    )
    return f"{costs} ns, off by {errors[len(errors) // 2]:.0%}, at most {errors[-1]:.0%}"


if __name__ == "__main__":
    main()
