"""What the tests of blocks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from triton_devices import DEVICES, triton_device


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return triton_device(request.param)


@pytest.fixture
def asked(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks are asked for, and new tensors are on the device. The launches have few programs, each of which takes the
    interpreter long."""
    from igan_fast.ops.convolution import triton
    from igan_fast.ops.triton import convolution_image_weight, convolution_weight

    torch.manual_seed(0)
    monkeypatch.setattr(triton, "_CHOICE", "blocks")
    for module in (convolution_weight, convolution_image_weight):
        monkeypatch.setattr(module, "_PROGRAMS", 4)
    if device.type == "cpu":
        import triton_interpreter

        triton_interpreter.round_to_nearest(monkeypatch)
    with device:
        yield


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs have many parts, and edges in all places."""
    from igan_fast.ops.triton import (
        convolution,
        convolution_blocks,
        convolution_image,
        convolution_image_weight,
        convolution_launch,
        convolution_weight,
    )

    for name in ("_SIDE", "_WIDE_SIDE"):
        monkeypatch.setattr(convolution_launch, name, 16)
    monkeypatch.setattr(convolution_launch, "_STEP_BYTES", 32)
    for module in (convolution_weight, convolution_image, convolution_image_weight):
        monkeypatch.setattr(module, "_BLOCK", 64)
    for module in (convolution, convolution_blocks):
        monkeypatch.setattr(module, "_COMBINE_SEGMENTS", 4)
