"""The operators that a network calls, counted by the profiler."""

from __future__ import annotations

from collections import Counter

from torch.profiler import ProfilerActivity, profile

__all__ = ["LARGE", "operators", "ours"]

#: An input whose feature maps have 16 channels of 32 × 32, in a batch of 8: large enough that fusing is faster.
LARGE = (8, 16, 32, 32)


def operators(net, way, x, backward: bool) -> Counter[str]:
    """How often each operator was called, by the profiler's names."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        y = way(net, x)
        if backward:
            y.square().sum().backward()
    return Counter({event.key: event.count for event in profiled.key_averages()})


def ours(counts: Counter[str]) -> Counter[str]:
    """The operators of this package."""
    return Counter({name: n for name, n in counts.items() if name.startswith("igan_fast::")})
