"""The rule of indices (csrc/cuda/device.cuh, igan_fast/ops/triton/common.py): every kernel reads its position in the
grid through the one function that returns it with 64 bits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "csrc").is_dir():
    pytest.skip("the sources are not here: the installed package is tested", allow_module_level=True)
CUDA = sorted(p for p in (ROOT / "csrc" / "cuda").rglob("*") if p.suffix in (".cu", ".cuh"))
TRITON = sorted((ROOT / "igan_fast" / "ops" / "triton").glob("*.py"))


def code_of(path: Path) -> str:
    """Without comments."""
    return re.sub(r"//.*|#.*", "", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CUDA, ids=lambda p: f"{p.parent.name}/{p.name}")
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


def test_the_host_checks_what_a_partition_keeps_in_32_bits() -> None:
    text = code_of(ROOT / "csrc" / "cuda" / "norm_act" / "partition.cuh")
    check = re.search(r"STD_TORCH_CHECK\((.*?),\s*\"x has too many", text, re.DOTALL)
    assert check
    for bound in (
        "partition.steps <= INT_MAX - kThreads * kMaxInFlight",
        "partition.slices <= 65535",
        "s.groups <= 65535",
    ):
        assert bound in check[1]
