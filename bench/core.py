"""How a comparison is measured.

A *peer* is one implementation in a comparison: ours or a baseline. A round runs every peer once, forward and backward,
or several times in a row where that is how it is used; then the first half of these runs is not timed.
Each round starts with another peer, so a disturbance of the machine affects all peers alike. Times are medians over the
rounds; ratios are of two medians of the same run. For the share of the copy ceiling, the fewest bytes that the work has
to move are divided by its time. The share is this throughput relative to that of a large copy in the same rounds.

On a CPU, all peers allocate from memory that the process keeps (``keep_freed_memory``, as in ``igan-fast train``).
Otherwise the kernel's page faults would dominate the times, most of all for baselines with many temporary tensors.
``--memory malloc`` keeps the page faults, as in a plain PyTorch process. Inputs may be in the CPU's caches, as in
training. On a CUDA device, events measure the times, and the L2 cache is overwritten before each pass.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: forward() → outputs, and backward(outputs) → gradients, or None if only the forward pass is measured.
Peer = tuple[Callable[[], Any], Callable[[Any], Any] | None]

#: The names of the peers that measure a ceiling: a large copy and a large matrix product.
COPY, PRODUCT = "copy", "product"
PASSES = ("forward", "backward", "both")


@dataclass
class Comparison:
    """The times of all rounds so far, in seconds, by peer and pass."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, peer: str, forward: float, backward: float) -> None:
        """Add the times of one run of one peer."""
        passes = self.seconds.setdefault(peer, {name: [] for name in PASSES})
        for name, value in zip(PASSES, (forward, backward, forward + backward), strict=True):
            passes[name].append(value)

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """The median and quartiles in milliseconds, by peer and pass."""
        return {
            peer: {name: quartiles(values) for name, values in passes.items()} for peer, passes in self.seconds.items()
        }


def quartiles(seconds: Sequence[float]) -> dict[str, float]:
    """The median and the quartiles in milliseconds."""
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
        """Run ``peer`` once. Returns the seconds of its forward and of its backward pass."""
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
        events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        self._flush.zero_()
        events[0].record()
        outputs = forward()
        events[1].record()
        if backward is not None:
            self._flush.zero_()
            events[2].record()
            backward(outputs)
            events[3].record()
        torch.cuda.synchronize(self.device)
        forward_seconds = events[0].elapsed_time(events[1]) / 1e3
        return forward_seconds, events[2].elapsed_time(events[3]) / 1e3 if backward is not None else 0.0


def copy_peer(device: torch.device, total_bytes: int) -> Peer:
    """A copy between two allocated tensors, which reads and writes ``total_bytes`` altogether."""
    source = torch.ones(total_bytes // 8, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return (lambda: target.copy_(source)), None


def product_peer(device: torch.device, side: int, precision: str) -> Peer:
    """A matrix product of two (``side``, ``side``) matrices, in bfloat16 if ``precision`` is "bf16", else float32."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return (lambda: torch.mm(a, b, out=out)), None


def rounds_of(peers: dict[str, Peer], device: torch.device, in_a_row: int = 1) -> Callable[[], Comparison]:
    """A function that runs one round and returns the times of all rounds so far.

    With ``in_a_row`` above 1, a peer runs twice so often in each round, and its time is the mean of the second half: of
    a process that does nothing else. A single run would find another peer's data in the caches, and share the cores
    with the threads of a runtime that wait for its next call.
    """
    timer, comparison, names = Timer(device), Comparison(), list(peers)
    count = 0

    def one_round() -> Comparison:
        nonlocal count
        for index in range(len(names)):
            name = names[(count + index) % len(names)]
            for _ in range(in_a_row if in_a_row > 1 else 0):
                run_once(peers[name])
            runs = [timer(peers[name]) for _ in range(in_a_row)]
            comparison.add(name, *(sum(seconds) / in_a_row for seconds in zip(*runs, strict=True)))
        count += 1
        return comparison

    return one_round


def run_once(peer: Peer) -> None:
    """Run the forward and the backward pass of ``peer``."""
    forward, backward = peer
    outputs = forward()
    if backward is not None:
        backward(outputs)


def peak_bytes(peer: Peer, device: torch.device) -> int:
    """The peak memory of one run, in bytes, without the inputs."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run_once(peer)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run_once(peer)
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    allocated = peak = 0
    for _, change in changes:
        allocated += change
        peak = max(peak, allocated)
    return peak


def launches(peer: Peer) -> int:
    """The number of kernels that one run launches, after a warm-up run. A CUDA graph counts as one.

    A process that has called this should not measure times: the profiler may leave CUPTI active, which slows launches.
    """
    run_once(peer)
    torch.cuda.synchronize()
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profile:
        run_once(peer)
        torch.cuda.synchronize()
    names = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
    return sum(event.count for event in profile.key_averages() if event.key in names)


def nbytes(tensors: Sequence[Tensor]) -> int:
    """The total size of ``tensors`` in bytes."""
    return sum(t.numel() * t.element_size() for t in tensors)


def read_results(path: Path) -> dict[str, Any]:
    """The contents of a result file: "machine", "results", "profiles" (``profile_step``). Empty without the file."""
    if not path.is_file():
        return {}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def write_results(path: Path, document: dict[str, Any]) -> None:
    """Replace a result file at once, so that a process that is stopped leaves the old one or the new one."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
