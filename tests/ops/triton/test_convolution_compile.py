"""Triton's convolutions compiled for the layers of D, without a GPU: tensor cores, wide loads, and no registers that
spill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

TESTS = Path(__file__).resolve().parents[2]

#: By compute capability: the instruction of a matrix product, and the bytes of shared memory of a block.
DEVICES = {80: ("mma.sync", 163 * 1024), 90: ("wgmma.mma", 227 * 1024)}


@pytest.mark.slow
@pytest.mark.parametrize("capability", DEVICES)
def test_products_run_on_tensor_cores_loads_are_wide_and_nothing_spills(capability: int) -> None:
    product, shared = DEVICES[capability]
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(TESTS / "ptxas_report.py"), str(capability), "bf16"]
    finished = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if "ptxas" in finished.stderr and "not found" in finished.stderr:
        pytest.skip("Triton came without ptxas")
    assert finished.returncode == 0, finished.stderr
    kernels = [json.loads(line) for line in finished.stdout.splitlines()]
    products = {"convolve", "weight_gradient", "convolve_image", "image_weight_gradient"}
    rest = {"combine_tiles", "add_segments", "pack_taps", "add_many_segments"}
    rest |= {"combine_sums", "combine_film", "forward_raw", "add_up"}
    assert {kernel["kernel"] for kernel in kernels} == products | rest
    for kernel in kernels:
        assert kernel["spilled"] == 0, kernel
        assert kernel["shared"] <= shared, kernel
        if kernel["kernel"] in products:
            # A program with the few positions of one image has less than the 4 warps that wgmma takes.
            assert kernel["product"] == (product if kernel["warps"] >= 4 else "mma.sync"), kernel
        if kernel["kernel"] in ("convolve", "weight_gradient"):
            assert kernel["wide"] > 0 or kernel["call"].startswith("3 to"), kernel
            # Of an image with three channels a step's numbers are not neighbours in memory; the bias is of one colour.
            assert kernel["narrow"] == 0 or kernel["call"].startswith(("3 to", "to an image")), kernel
        if kernel["kernel"] in ("convolve_image", "image_weight_gradient"):
            # Loads of an image by each of 128 threads; of odd colours no more are neighbours at known places.
            assert kernel["pairs"] * kernel["warps"] >= 24 * 4, kernel
            assert kernel["narrow"] == 0 or kernel["call"].startswith("from an image"), kernel  # the weight's
            assert kernel["narrow"] < kernel["pairs"], kernel
