"""``python -m igan_fast.ops``: what the operators run on here, how they were built, and why anything is missing."""

from __future__ import annotations

import os

import torch

from igan_fast._version import __version__
from igan_fast.ops import backend


def report() -> str:
    """What there is, as text of several lines."""
    lines = [f"igan_fast {__version__}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads", ""]
    lines += [f"{name:12} {status}" for name, status in backend.backends().items()]
    lines.append("")
    for device in ("cpu", "cuda"):
        lines.append(f"auto on {device:4} → {_chosen(torch.device(device))}")
    info = backend.build_info()
    if info:
        lines += ["", "The native extension:"]
        lines += [f"  {name.replace('_', ' '):24} {value or '–'}" for name, value in info.items()]
    lines += ["", "Environment:"]
    for name, meaning in (
        ("IGAN_FAST_IMPL", f"what auto stands for ({', '.join(backend.IMPLEMENTATIONS)})"),
        ("IGAN_FAST_CPU_ISA", "the most that the CPU kernels may use (baseline, avx2, avx512)"),
        ("TRITON_INTERPRET", "1 runs Triton's kernels on the CPU, slowly, for tests"),
    ):
        lines.append(f"  {name:18} {os.environ.get(name, '(not set)'):10} {meaning}")
    return "\n".join(lines)


def _chosen(device: torch.device) -> str:
    if device.type == "cuda" and not torch.cuda.is_available():
        return "nothing: there is no CUDA device"
    try:
        return backend.chosen(device)
    except (RuntimeError, ValueError) as error:
        return f"an error: {error}"


if __name__ == "__main__":
    print(report())
