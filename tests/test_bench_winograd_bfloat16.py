"""``bench.winograd_bfloat16``: without rounding, minimal filtering is the convolution."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))

from bench.winograd_bfloat16 import TRANSFORMS, minimal_filtering  # noqa: E402


@pytest.mark.parametrize("tile", TRANSFORMS)
def test_only_the_rounding_is_an_error(tile: int) -> None:
    x, weight = torch.randn(2, 3, 8, 12).double(), torch.randn(5, 3, 3, 3).double()
    exact = F.conv2d(x, weight, padding=1)
    torch.testing.assert_close(minimal_filtering(x, weight, tile, rounded=False), exact, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(minimal_filtering(x, weight, tile, rounded=True), exact, rtol=1e-4, atol=1e-4)
