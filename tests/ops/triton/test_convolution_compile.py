"""Triton's convolutions compiled for the layers of D, without a GPU: tensor cores, wide loads, and no registers that
spill."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

TESTS = Path(__file__).resolve().parents[2]

#: By compute capability: the instruction of a matrix product, and the bytes of shared memory of a block.
DEVICES = {80: ("mma.sync", 163 * 1024), 90: ("wgmma.mma", 227 * 1024), 100: ("tcgen05.mma", 227 * 1024)}

#: A call for each rule by which tiles are chosen: the factors are read as they are, are no neighbours in memory, or are
#: computed; the result goes on to the block before.
OF_EACH_KIND = (
    "64 to 128 channels, forward",
    "3 to 64 channels, weight gradient",
    "64 to 128 channels, fused weight gradient",
    "64 to 128 channels, block gradient of the last",
)


def report(*capabilities: int, tiles_of: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What ``ptxas_report`` prints of the kernels in bfloat16: of all calls, or of some with each tile."""
    options = ["--tiles", *(f"--calls={call}" for call in tiles_of)] if tiles_of else []
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(TESTS / "ptxas_report.py"), ",".join(map(str, capabilities)), "bf16", *options]
    finished = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if ("ptxas" in finished.stderr and "not found" in finished.stderr) or "Cannot find cuobjdump" in finished.stderr:
        pytest.skip("Triton came without ptxas or cuobjdump")
    assert finished.returncode == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines()]


def has_registers(kernel: dict[str, Any]) -> bool:
    """Whether a thread of a kernel needs no more registers than there are.

    Up to four numbers go to a stack without that: ptxas gives a kernel 128 or 168 registers instead of one more, so
    that another block of threads fits into a multiprocessor.
    """
    return bool(kernel["stack"] <= 16)


@pytest.mark.slow
@pytest.mark.parametrize("capability", DEVICES)
def test_products_run_on_tensor_cores_loads_are_wide_and_nothing_spills(capability: int) -> None:
    product, shared = DEVICES[capability]
    kernels = report(capability)
    products = {"convolve", "weight_gradient", "convolve_image", "image_weight_gradient"}
    rest = {"combine_tiles", "add_segments", "pack_taps", "add_many_segments"}
    rest |= {"combine_sums", "combine_film", "forward_raw", "add_up"}
    assert {kernel["kernel"] for kernel in kernels} == products | rest
    for kernel in kernels:
        assert has_registers(kernel), kernel
        assert kernel["shared"] <= shared, kernel
        if kernel["kernel"] in products:
            # A program with the few positions of one image has less than the 4 warps that wgmma and tcgen05 take.
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


@pytest.mark.slow
def test_every_tile_fits() -> None:
    """A tile that lacks registers, or needs more shared memory than there is, would only be measured in vain."""
    kernels = report(*DEVICES, tiles_of=OF_EACH_KIND)
    products = [kernel for kernel in kernels if kernel["kernel"] in ("convolve", "weight_gradient")]
    tiles = Counter((kernel["capability"], kernel["call"]) for kernel in products)
    assert set(tiles) == set(itertools.product(DEVICES, OF_EACH_KIND))
    assert [tiles[capability, "64 to 128 channels, forward"] for capability in DEVICES] == [4, 6, 6]
    assert min(tiles.values()) >= 3
    for kernel in kernels:
        assert has_registers(kernel), kernel
        assert kernel["shared"] <= DEVICES[kernel["capability"]][1], kernel
