"""Settings of the tests of ``fuse``."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from igan_fast import ops
from igan_fast.fusion import fused_module, ways

#: Files that also run without kernels for the CPU: fused modules then call PyTorch's, and ``unfuse`` still has to work.
EVERY_BUILD = ("test_fuse.py", "test_modified_networks.py", "test_unusual_networks.py", "test_zoo.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without kernels for the CPU skip the other files: fused modules then call PyTorch's, and the many ways of calling
    them would only test PyTorch."""
    reason = ops.backends()["native-cpu"]
    if reason == "available":
        return
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name not in EVERY_BUILD:
            item.add_marker(pytest.mark.skip(reason=f"fused modules call PyTorch's: {reason}"))


@pytest.fixture(autouse=True)
def fuse_small_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors, which would be left to PyTorch, are computed by the fused operators, as large ones are."""
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS", 0)
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS_PER_INSTANCE", 0)
    monkeypatch.setattr(ways, "MARGIN", math.inf)
    monkeypatch.setattr(ways, "TRAINING_MARGIN", math.inf)
