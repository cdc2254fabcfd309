"""How a comparison is measured.

A round runs every peer once, forward and backward, starting with another one each time; so whatever the machine does
besides, it does to all of them. A figure is the median over the rounds, a ratio that of two medians of the same run.
The share of the ceiling counts the fewest bytes that the work can move, against a large copy timed in the same rounds.

On a CPU every peer allocates from memory that the process keeps (``keep_freed_memory``, as ``igan-fast train`` has it):
else the kernel's page faults, which hit the peers with many temporaries hardest, would be most of what is measured.
``--memory malloc`` leaves them in, as a plain PyTorch process has them. Inputs are as warm as in training: what fits
the caches is found there. On a CUDA device the timers are events, and the second-level cache is overwritten before each
run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

#: forward() → outputs; backward(outputs) → gradients, or None where only the forward is measured.
Peer = tuple[Callable[[], Any], Callable[[Any], Any] | None]

#: The ceilings among the peers.
COPY, PRODUCT = "copy", "product"
PASSES = ("forward", "backward", "both")


@dataclass
class Comparison:
    """The measured rounds: seconds per peer and pass."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, peer: str, forward: float, backward: float) -> None:
        """One run of one peer."""
        passes = self.seconds.setdefault(peer, {name: [] for name in PASSES})
        for name, value in zip(PASSES, (forward, backward, forward + backward), strict=True):
            passes[name].append(value)

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Median and quartiles in milliseconds."""
        return {
            peer: {name: _quartiles(values) for name, values in passes.items()} for peer, passes in self.seconds.items()
        }


def _quartiles(seconds: Sequence[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    return {"median_ms": middle * 1e3, "q1_ms": low * 1e3, "q3_ms": high * 1e3}


class Timer:
    """Times one run of a peer on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
            self._flush = torch.empty(max(size, 1 << 26), dtype=torch.uint8, device=device)

    def __call__(self, peer: Peer) -> tuple[float, float]:
        """Seconds of the forward and of the backward."""
        forward, backward = peer
        if self.device.type == "cuda":
            return self._with_events(forward, backward)
        start = time.perf_counter()
        outputs = forward()
        middle = time.perf_counter()
        if backward is not None:
            backward(outputs)
        return middle - start, time.perf_counter() - middle if backward is not None else 0.0

    def _with_events(self, forward: Callable[[], Any], backward: Callable[[Any], Any] | None) -> tuple[float, float]:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        self._flush.zero_()
        marks[0].record()
        outputs = forward()
        marks[1].record()
        if backward is not None:
            self._flush.zero_()
            marks[2].record()
            backward(outputs)
            marks[3].record()
        torch.cuda.synchronize(self.device)
        there = marks[0].elapsed_time(marks[1]) / 1e3
        return there, marks[2].elapsed_time(marks[3]) / 1e3 if backward is not None else 0.0


def copy_peer(device: torch.device, total_bytes: int) -> Peer:
    """A copy that reads and writes ``total_bytes`` in all, between tensors that are there already."""
    source = torch.ones(total_bytes // 8, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return (lambda: target.copy_(source)), None


def product_peer(device: torch.device, side: int, precision: str) -> Peer:
    """A product of two square matrices of random numbers, in the arithmetic of ``precision``."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return (lambda: torch.mm(a, b, out=out)), None


def rounds_of(peers: dict[str, Peer], device: torch.device) -> Callable[[], Comparison]:
    """A function that runs one more round and returns all the rounds so far."""
    timer, comparison, names = Timer(device), Comparison(), list(peers)
    count = 0

    def one_round() -> Comparison:
        nonlocal count
        for index in range(len(names)):
            name = names[(count + index) % len(names)]
            comparison.add(name, *timer(peers[name]))
        count += 1
        return comparison

    return one_round


def peak_bytes(peer: Peer, device: torch.device) -> int:
    """The most memory allocated at once during one run, inputs not counted."""
    forward, backward = peer

    def run() -> None:
        outputs = forward()
        if backward is not None:
            backward(outputs)

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def launches(peer: Peer) -> int:
    """Kernels that one run launches, after one that is not looked at; a graph counts as one.

    Nothing is to be timed in a process that has called this: CUPTI, by which the profiler sees launches, may stay.
    """
    forward, backward = peer

    def run() -> None:
        outputs = forward()
        if backward is not None:
            backward(outputs)
        torch.cuda.synchronize()

    run()
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profile:
        run()
    names = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
    return sum(event.count for event in profile.key_averages() if event.key in names)


def nbytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of all of them together."""
    return sum(t.numel() * t.element_size() for t in tensors)
