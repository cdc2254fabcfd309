"""What the tests of Triton's convolutions share."""

from __future__ import annotations

import pytest
import torch
from triton_devices import DEVICES, triton_device


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return triton_device(request.param)


@pytest.fixture
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks and steps of the products."""
    from igan_fast.ops.triton import convolution_launch

    for name in ("_SIDE", "_WIDE_SIDE"):
        monkeypatch.setattr(convolution_launch, name, 16)
    monkeypatch.setattr(convolution_launch, "_STEP_BYTES", 32)
