"""Measures from which sizes on oneDNN computes linear layers faster than MKL, for ``igan_fast/ops/linear_limits.json``.

    OMP_NUM_THREADS=1 python -m bench.linear_limits

It replaces the entry of the instruction set in use. ``ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`` limits PyTorch
and oneDNN to AVX2 on any newer processor. All times are of one thread and in the process's own time, so that other
programs disturb them less. Each is the smallest of several rounds, in which both take turns.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from igan_fast.ops import linear_limits
from igan_fast.ops.linear import product
from igan_fast.ops.linear_limits import COMPUTATIONS, NEVER, Limits, instruction_set, pays

#: Seconds of one measurement, and the number of measurements of which the shortest counts.
MEASURE, ROUNDS = 0.005, 5

BATCHES = (1, 2, 4, 8, 16, 64)

#: Input and output features of the measured layers.
LAYERS = (
    *((32768, 1024), (16384, 1024), (8192, 1024), (4096, 512), (2048, 64), (16384, 1)),
    *((1024, 1024), (1024, 128), (784, 512), (512, 512), (512, 4096)),
    *((140, 32768), (140, 8192), (256, 16384), (1024, 8192)),
)

#: The limits among which the best ones are looked for.
CHOICES = {
    "batch": (1, 2, 4, 8, 16, NEVER.batch),
    "weights": (1 << 18, 1 << 19, 1 << 20, 1 << 21),
    "side": (64, 128, 256, 512, 1024),
    "wide": (1 << 20, 1 << 21, 1 << 22, NEVER.wide),
    "memory": (1 << 23, NEVER.memory),
}


class Sample(NamedTuple):
    """A measured layer.

    Attributes:
        sizes: rows of the input, input features, output features.
        ratio: oneDNN's time, divided by MKL's.
    """

    sizes: tuple[int, int, int]
    ratio: float


def measure() -> dict[str, list[Sample]]:
    """The measured layers, for each computation."""
    found: dict[str, list[Sample]] = {computation: [] for computation in COMPUTATIONS}
    for batch, (inputs, outputs) in itertools.product(BATCHES, LAYERS):
        x, weight = torch.randn(batch, inputs), torch.randn(outputs, inputs)
        bias, grad = torch.randn(outputs), torch.randn(batch, outputs)
        ways: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "forward": (
                functools.partial(product, x, weight, bias),
                functools.partial(F.linear, x, weight, bias),
            ),
            "input_gradient": (
                functools.partial(product, grad, weight.t()),
                functools.partial(torch.mm, grad, weight),
            ),
            "weight_gradient": (
                functools.partial(product, grad.t(), x.t()),
                functools.partial(torch.mm, grad.t(), x),
            ),
        }
        for computation, (onednn, mkl) in ways.items():
            found[computation].append(Sample((batch, inputs, outputs), ratio(onednn, mkl)))
    return found


def ratio(first: Callable[[], Any], second: Callable[[], Any]) -> float:
    """The time of the first call, divided by that of the second."""
    calls, repeats, best = (first, second), [], [math.inf, math.inf]
    for call in calls:
        call(), call()
        start = time.process_time()
        call()
        repeats.append(max(1, int(MEASURE / max(time.process_time() - start, 1e-6))))
    for _, index in itertools.product(range(ROUNDS), (0, 1)):
        start = time.process_time()
        for _ in range(repeats[index]):
            calls[index]()
        best[index] = min(best[index], (time.process_time() - start) / repeats[index])
    return best[0] / best[1]


def best_limits(samples: Sequence[Sample]) -> Limits:
    """The limits that choose best among the samples. Of equal ones the first, which take most layers."""
    return min(itertools.starmap(Limits, itertools.product(*CHOICES.values())), key=functools.partial(_regret, samples))


def _regret(samples: Sequence[Sample], limits: Limits) -> float:
    """The sum of the logarithms of the taken ratios. A ratio above 1, of a slower choice, counts four times."""
    logs = [math.log(sample.ratio) for sample in samples if pays(*sample.sizes, limits)]
    return sum(4 * log if log > 0 else log for log in logs)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=linear_limits.FILE, help="the file to write, %(default)s")
    options = parser.parse_args()
    if not linear_limits.IS_AVAILABLE:
        parser.error("this PyTorch has no oneDNN")
    torch.set_num_threads(1)
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    entry: dict[str, Any] = {}
    for computation, samples in measure().items():
        limits = best_limits(samples)
        entry[computation] = limits._asdict()
        taken = [sample for sample in samples if pays(*sample.sizes, limits)] or [Sample((0, 0, 0), 1.0)]
        mean = math.exp(sum(math.log(sample.ratio) for sample in taken) / len(taken))
        slowest = max(taken, key=lambda sample: sample.ratio)
        print(
            f"{computation}: {limits}; {len(taken)} of {len(samples)} by oneDNN, in {mean:.2f} of MKL's time; "
            f"the slowest {slowest.ratio:.2f}, {slowest.sizes}"
        )
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    limited = "" if limit is None else f", oneDNN limited to {limit}"
    entry["measured_on"] = f"{processor()}{limited}, one thread, PyTorch {torch.__version__}"
    known[instruction_set()] = entry
    options.out.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def processor() -> str:
    """The processor's name, with its family and model where Linux tells them: a virtual machine may hide the name."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    lines = [line.partition(":") for line in info.read_text(encoding="utf-8").splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in lines}
    return (
        f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family')}, model {facts.get('model')})"
    )


if __name__ == "__main__":
    main()
