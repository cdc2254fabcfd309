"""Measures the constants of ``igan_fast/ops/convolution/winograd_1d_costs.py``, as ``bench.winograd_costs`` does.

    OMP_NUM_THREADS=1 python -m bench.winograd_1d_costs

It replaces the constants of sequences of the instruction set in use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.winograd_costs import Sample, best_seconds, described, fit, start, write
from igan_fast.ops.convolution.winograd_1d_costs import (
    Work,
    direct_counts,
    direct_way,
    filter_counts,
    winograd_counts,
)
from igan_fast.ops.convolution.winograd_costs import COMPUTATIONS

#: Batch, length, input and output channels.
SIZES = (
    *((1, 32, 512, 512), (4, 32, 512, 512), (1, 64, 1024, 1024), (8, 64, 1024, 1024), (1, 256, 256, 256)),
    *((4, 256, 256, 256), (16, 256, 256, 256), (1, 2048, 128, 128), (4, 512, 128, 128), (1, 4096, 64, 64)),
    *((4, 4096, 64, 64), (16, 1024, 64, 64), (1, 8192, 32, 32), (4, 8192, 32, 32), (4, 8192, 16, 16)),
    *((1, 4096, 16, 64), (2, 1000, 80, 256), (1, 100, 80, 512), (8, 120, 64, 200), (1, 512, 128, 128)),
)

#: Kernel, stride and dilation, of which a size takes every third.
FILTERS = (
    *((3, 1, 1), (3, 1, 3), (4, 1, 1), (5, 1, 1), (5, 1, 4), (7, 1, 1), (7, 1, 3), (11, 1, 1), (11, 1, 5)),
    *((4, 2, 1), (5, 3, 1), (16, 8, 1), (25, 4, 1)),
)

#: The same with groups: batch, length, input and output channels, then kernel, stride, dilation and groups.
GROUPED = (
    *((1, 8192, 128, 128, 41, 2, 1, 4), (4, 4096, 128, 256, 41, 2, 1, 16), (1, 4096, 128, 256, 41, 2, 1, 16)),
    *((4, 2048, 256, 512, 41, 4, 1, 16), (1, 512, 512, 1024, 41, 4, 1, 16), (4, 128, 1024, 1024, 41, 1, 1, 16)),
    *((2, 2000, 64, 64, 5, 1, 1, 4), (1, 1024, 256, 256, 11, 1, 1, 2), (4, 300, 128, 128, 3, 1, 2, 8)),
    *((1, 8192, 64, 256, 41, 4, 1, 4), (4, 1024, 256, 1024, 41, 4, 1, 16), (1, 1000, 64, 64, 15, 1, 1, 8)),
)


class Case(NamedTuple):
    batch: int
    length: int
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel - 1) // 2

    @property
    def work(self) -> Work:
        free = self.length + 2 * self.padding - self.dilation * (self.kernel - 1) - 1
        small = free // self.stride + 1
        channels = self.inputs, self.outputs
        settings = self.kernel, self.stride, self.dilation, self.groups, self.padding
        return Work(self.batch, self.length, small, *channels, *settings)


def measure() -> dict[str, dict[str, list[Sample]]]:
    """The samples, for each computation and each way: "direct", "direct in groups", "winograd" and "filter"."""
    ways = ("direct", "direct in groups", "winograd", "filter")
    found: dict[str, dict[str, list[Sample]]] = {c: {way: [] for way in ways} for c in COMPUTATIONS}
    cases = [Case(*size, *filter) for index, size in enumerate(SIZES) for filter in FILTERS[index % 3 :: 3]]
    for case in (*cases, *(Case(*each) for each in GROUPED)):
        work = case.work
        large = torch.randn(case.batch, case.inputs, work.large)
        small = torch.randn(case.batch, case.outputs, work.small)
        weight = torch.randn(case.outputs, case.inputs // case.groups, case.kernel)
        for computation in COMPUTATIONS:
            direct, winograd, *filter = best_seconds(_ways(computation, large, small, weight, case))
            samples = found[computation]
            samples[direct_way(work)].append(Sample(direct_counts(work), direct))
            samples["winograd"].append(Sample(winograd_counts(work, computation), winograd))
            samples["filter"] += [Sample(filter_counts(work), seconds) for seconds in filter]
    return found


def _ways(computation: str, large: Tensor, small: Tensor, weight: Tensor, case: Case) -> list[Callable[[], Any]]:
    """PyTorch's convolution, minimal filtering with a transformed filter, and the filter's transform if it has one."""
    settings: Sequence[Any] = [case.stride], [case.padding], [case.dilation], False, [0], case.groups
    of_kernels = case.kernel, case.stride, case.padding, case.dilation, case.groups
    operators, mask = torch.ops.igan_fast, [computation == "transposed", computation == "weight_gradient", False]

    def direct() -> Any:
        if computation == "convolution":
            return torch.ops.aten.convolution(large, weight, None, *settings)
        return torch.ops.aten.convolution_backward(small, large, weight, None, *settings, mask)

    if computation == "weight_gradient":
        return [direct, lambda: operators.winograd_1d_weight_gradient(large, small, *of_kernels)]
    transposed = computation == "transposed"
    x, y = (small, large) if transposed else (large, small)
    of_filter = case.stride, case.groups, transposed
    filter = operators.winograd_1d_filter(weight, *of_filter)
    return [
        direct,
        lambda: operators.winograd_1d_conv(x, filter, y.shape[2], y.shape[1], *of_kernels, None, 1.0, transposed),
        lambda: operators.winograd_1d_filter(weight, *of_filter),
    ]


def main() -> None:
    out = start(str(__doc__))
    measured = measure()
    costs = {c: {way: fit(samples) for way, samples in ways.items()} for c, ways in measured.items()}
    for computation, ways in measured.items():
        print(computation, *(described(ways[way], costs[computation][way]) for way in ways), sep="; ")
    write(out, "costs_1d", costs)


if __name__ == "__main__":
    main()
