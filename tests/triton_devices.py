"""The devices on which tests run Triton's kernels: the CPU in Triton's interpreter, or a GPU.

One process has only one of the two: where the kernels are interpreted, none is compiled.
"""

from __future__ import annotations

import pytest
import torch

__all__ = ["DEVICES", "triton_device"]

#: The parameters of a fixture, which passes them to ``triton_device``.
DEVICES = [pytest.param("cpu", id="interpreted"), pytest.param("cuda", id="cuda", marks=pytest.mark.gpu)]


def triton_device(name: str) -> torch.device:
    """The device. Skips where Triton's kernels cannot run on it."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from igan_fast.ops.triton import common

    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    if (name == "cpu") != common.INTERPRETED:
        pytest.skip(f"Triton's kernels are {'interpreted' if common.INTERPRETED else 'compiled'} here")
    if common.INTERPRETED:
        import triton_interpreter

        triton_interpreter.speed_up()
    return torch.device(name)
