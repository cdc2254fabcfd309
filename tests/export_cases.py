"""What the tests of the export share."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from numpy.typing import NDArray

NAMES = ("Smiling", "Eyeglasses", "Bangs", "Brille, größer")

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra export is not installed: onnx, onnxscript, onnxruntime",
)


def photos(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """(count, 48, 48, 3): blocks of colour, so that the pictures differ in what a network sees."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)
