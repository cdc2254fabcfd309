"""What the tests of Triton's convolutions share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """A GPU, or the CPU in Triton's interpreter."""
    from igan_fast.ops.triton import common

    if common.INTERPRETED:
        import triton_interpreter

        triton_interpreter.speed_up()
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device, and Triton's kernels are compiled here")
    return torch.device("cuda")


@pytest.fixture
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks and steps of the products."""
    from igan_fast.ops.triton import convolution_launch

    for name in ("_SIDE", "_WIDE_SIDE"):
        monkeypatch.setattr(convolution_launch, name, 16)
    monkeypatch.setattr(convolution_launch, "_STEP_BYTES", 32)
