"""The rule of indices (csrc/cuda/device.cuh, igan_fast/ops/triton/common.py): every kernel takes its place in the grid
from the one function that makes it 64 bits wide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "csrc").is_dir():
    pytest.skip("the sources are not here: the installed package is tested", allow_module_level=True)
CUDA = sorted(p for p in (ROOT / "csrc" / "cuda").iterdir() if p.suffix in (".cu", ".cuh"))
TRITON = sorted((ROOT / "igan_fast" / "ops" / "triton").glob("*.py"))


def code_of(path: Path) -> str:
    """Without comments."""
    return re.sub(r"//.*|#.*", "", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CUDA, ids=lambda p: p.name)
def test_cuda(path: Path) -> None:
    found = re.findall(r".*blockIdx.*", code_of(path))
    if path.name == "device.cuh":
        assert len(found) == 3
        assert all("int64_t block_" in line and "static_cast<int64_t>(blockIdx." in line for line in found)
    else:
        assert not found, "block_x(), block_y() and block_z() are the numbers as int64"


@pytest.mark.parametrize("path", TRITON, ids=lambda p: p.name)
def test_triton(path: Path) -> None:
    found = re.findall(r".*program_id.*", code_of(path))
    if path.name == "common.py":
        assert [line.strip() for line in found] == ["return tl.program_id(0).to(tl.int64)"]
    else:
        assert not found, "program() and places() are the numbers as int64"


def test_the_narrow_numbers_of_a_walk_are_checked_where_it_is_made() -> None:
    text = code_of(ROOT / "csrc" / "cuda" / "norm_act.cuh")
    check = re.search(r"STD_TORCH_CHECK\((.*?),\s*\"x has too many", text, re.DOTALL)
    assert check
    for bound in ("walk.steps <= INT_MAX - kThreads * kBatch", "walk.slices <= 65535", "s.groups <= 65535"):
        assert bound in check[1]
