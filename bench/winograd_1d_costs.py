"""Measures the constants of ``igan_fast/ops/convolution/winograd_1d_costs.py``, as ``bench.winograd_costs`` does.

OMP_NUM_THREADS=1 python -m bench.winograd_1d_costs
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.winograd_costs import Sample, best_seconds, described, fit, write
from igan_fast.devices import keep_freed_memory
from igan_fast.ops.convolution import winograd_costs
from igan_fast.ops.convolution.winograd_1d_costs import Work, direct_counts, filter_counts, winograd_counts
from igan_fast.ops.convolution.winograd_costs import COMPUTATIONS

#: Batch, length, input and output channels.
SIZES = (
    *((1, 32, 512, 512), (4, 32, 512, 512), (1, 64, 1024, 1024), (8, 64, 1024, 1024), (1, 256, 256, 256)),
    *((4, 256, 256, 256), (16, 256, 256, 256), (1, 2048, 128, 128), (4, 512, 128, 128), (1, 4096, 64, 64)),
    *((4, 4096, 64, 64), (16, 1024, 64, 64), (1, 8192, 32, 32), (4, 8192, 32, 32), (4, 8192, 16, 16)),
    *((1, 4096, 16, 64), (2, 1000, 80, 256), (1, 100, 80, 512), (8, 120, 64, 200), (1, 512, 128, 128)),
)

#: Kernel and dilation.
FILTERS = ((3, 1), (3, 3), (4, 1), (5, 1), (5, 4), (7, 1), (7, 3), (11, 1), (11, 5))


def measure() -> dict[str, dict[str, list[Sample]]]:
    """The samples, for each computation and each way: "direct", "winograd" and "filter"."""
    found: dict[str, dict[str, list[Sample]]] = {c: {"direct": [], "winograd": [], "filter": []} for c in COMPUTATIONS}
    for index, (batch, length, inputs, outputs) in enumerate(SIZES):
        for kernel, dilation in FILTERS[index % 2 :: 2]:
            padding = dilation * (kernel - 1) // 2
            small_length = length + 2 * padding - dilation * (kernel - 1)
            work = Work(batch, length, small_length, inputs, outputs, kernel, dilation)
            large, small = torch.randn(batch, inputs, length), torch.randn(batch, outputs, small_length)
            weight = torch.randn(outputs, inputs, kernel)
            for computation in COMPUTATIONS:
                ways = _ways(computation, large, small, weight, padding, dilation)
                direct, winograd, *filter = best_seconds(ways)
                samples = found[computation]
                samples["direct"].append(Sample(direct_counts(work), direct))
                samples["winograd"].append(Sample(winograd_counts(work, computation), winograd))
                samples["filter"] += [Sample(filter_counts(work), seconds) for seconds in filter]
    return found


def _ways(
    computation: str, large: Tensor, small: Tensor, weight: Tensor, padding: int, dilation: int
) -> list[Callable[[], Any]]:
    """PyTorch's convolution, minimal filtering with a transformed filter, and the filter's transform if it has one."""
    settings: Sequence[Any] = [1], [padding], [dilation], False, [0], 1
    operators, kernel = torch.ops.igan_fast, weight.shape[2]
    mask = [computation == "transposed", computation == "weight_gradient", False]

    def direct() -> Any:
        if computation == "convolution":
            return torch.ops.aten.convolution(large, weight, None, *settings)
        return torch.ops.aten.convolution_backward(small, large, weight, None, *settings, mask)

    if computation == "weight_gradient":
        return [direct, lambda: operators.winograd_1d_weight_gradient(large, small, kernel, padding, dilation)]
    transposed = computation == "transposed"
    x, y = (small, large) if transposed else (large, small)
    filter = operators.winograd_1d_filter(weight, transposed)
    return [
        direct,
        lambda: operators.winograd_1d_conv(
            x, filter, y.shape[2], y.shape[1], kernel, padding, dilation, None, 1.0, transposed
        ),
        lambda: operators.winograd_1d_filter(weight, transposed),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=winograd_costs.FILE, help="the file to write, %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    measured = measure()
    costs = {c: {way: fit(samples) for way, samples in ways.items()} for c, ways in measured.items()}
    for computation, ways in measured.items():
        print(computation, *(described(ways[way], costs[computation][way]) for way in ways), sep="; ")
    write(options.out, "costs_1d", costs)


if __name__ == "__main__":
    main()
