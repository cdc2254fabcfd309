"""The implementations, each on each device that it has, as one fixture: what is missing is skipped with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import triton_interpreter

from igan_fast.ops import backend

PLACES = [
    pytest.param(("native", "cpu"), id="native-cpu"),
    pytest.param(("triton", "cpu"), id="triton-interpreted", marks=pytest.mark.any_build),
    pytest.param(("native", "cuda"), id="native-cuda", marks=pytest.mark.gpu),
    pytest.param(("triton", "cuda"), id="triton-cuda", marks=pytest.mark.gpu),
]


@dataclass(frozen=True)
class Place:
    """An implementation on a device."""

    impl: str
    device: torch.device

    @property
    def interpreted(self) -> bool:
        """Slow: small inputs only."""
        return self.impl == "triton" and self.device.type == "cpu"

    @property
    def cuda_kernels(self) -> bool:
        """The native kernels for GPUs, be it on a CPU (tests/cuda_on_cpu)."""
        return self.impl == "native" and (self.device.type == "cuda" or backend.NATIVE == "igan_fast_emulated")

    @property
    def ops(self) -> Any:
        """The dispatcher's operators."""
        return getattr(torch.ops, {"native": backend.NATIVE, "triton": backend.TRITON}[self.impl])


def available(impl: str, device: str) -> Place:
    """Skips where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    try:
        backend.namespace(impl, torch.device(device), ())
    except RuntimeError as reason:
        pytest.skip(str(reason))
    if (impl, device) == ("triton", "cpu"):
        triton_interpreter.speed_up()
    return Place(impl, torch.device(device))


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    return available(*request.param)


@pytest.fixture(params=[PLACES[0], PLACES[2]])
def native(request: pytest.FixtureRequest) -> Place:
    """The native kernels alone, for what would take an interpreter too long."""
    return available(*request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
