"""What fuse's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from igan_fast import ops
from igan_fast.fusion import fused_module

#: Files that say something of a build without kernels too: a fused network is PyTorch's then, and comes back whole.
EVERY_BUILD = ("test_fuse.py", "test_modified_networks.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without kernels for the CPU the twins leave everything to PyTorch: the thousands of ways of calling them are then
    ways of calling PyTorch."""
    reason = ops.backends()["native-cpu"]
    if reason == "available":
        return
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name not in EVERY_BUILD:
            item.add_marker(pytest.mark.skip(reason=f"a fused network is PyTorch's: {reason}"))


@pytest.fixture(autouse=True)
def nothing_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors, which PyTorch would be left with, go the way of large ones."""
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS", 0)
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS_PER_INSTANCE", 0)
