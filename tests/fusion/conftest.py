"""What fuse's tests share."""

from __future__ import annotations

import pytest

from igan_fast.fusion import twin


@pytest.fixture(autouse=True)
def nothing_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors, which PyTorch would be left with, go the way of large ones."""
    monkeypatch.setattr(twin, "SMALLEST", 0)
    monkeypatch.setattr(twin, "SMALLEST_INSTANCE", 0)
