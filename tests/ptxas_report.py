"""Registers, stacks, loads and products of the convolutions' Triton kernels, compiled on a machine without a GPU.

``python tests/ptxas_report.py 80,90 bf16,tf32`` prints a line of JSON for each kernel, for the layers of D: the compute
capabilities, then the types (bf16, fp16, tf32, fp32, fp64). With ``--tiles`` each product is compiled with all the
tiles among which a measurement chooses. ``--calls NAME`` compiles only the call of this name, and may be given several
times.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# The checkout in which this file is, not an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction, MockTensor

LAYERS = ((3, 64, 128), (64, 128, 64), (256, 512, 16))  # channels of the input and the output, and the input's side
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}  # others: float32
BATCH = 64


class NoDevice:
    """All that compiling asks of a driver. The number of the device is its compute capability."""

    capability = 80

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def described(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return MockTensor(argument.dtype)
    return tuple(map(described, argument)) if isinstance(argument, tuple) else argument


def usage(cubin: bytes) -> dict[str, int]:
    """What a thread of a compiled kernel takes: registers, and bytes of a stack, for what finds no register."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found is not None, said
    return {"registers": int(found[1]), "stack": int(found[2])}


class OfChannels(NamedTuple):
    """What a normalisation of so many channels has."""

    affine: Tensor
    var: Tensor
    terms: Tensor
    one: Tensor


def channels_of(channels: int, wide: torch.dtype) -> OfChannels:
    shapes = (1, 3, channels), (1, channels), (2, 1, channels), ()
    return OfChannels(*(torch.empty(shape, dtype=wide, device="meta") for shape in shapes))


def calls(dtype: torch.dtype) -> list[tuple[str, str, tuple[Any, ...]]]:
    """A name, an operator and its arguments, for each layer."""
    found: list[tuple[str, str, tuple[Any, ...]]] = []
    for channels, out, side in LAYERS:
        x, weight = torch.empty(BATCH, channels, side, side), torch.empty(out, channels, 5, 5)
        x, weight, y = (t.to("meta", dtype) for t in (x, weight, torch.empty(BATCH, out, side // 2, side // 2)))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        affine = torch.empty(1, 3, channels, dtype=wide, device="meta")
        size, large, geometry = [side // 2] * 2, [side] * 2, ([2, 2], [2, 2])
        layer = f"{channels} to {out} channels, "
        of_x, of_y = (channels_of(n, wide) for n in (channels, out))
        gradient = y, of_y.affine, of_y.terms
        nothing = None, None, 1.0
        found += [
            (layer + "forward", "convolution", (x, weight, None, size, *geometry, False, 1.0)),
            (layer + "fused forward", "convolution_statistics", (x, weight, size, *geometry, False, 1, affine, 0.2)),
            (layer + "input gradient", "convolution", (y, weight, None, large, *geometry, True, 1.0)),
            (layer + "weight gradient", "convolution_weight_gradient", (y, x, [5, 5], *geometry, False)),
            (
                layer + "fused weight gradient",
                "convolution_weight_gradient",
                (y, x, [5, 5], *geometry, False, affine, 0.2),
            ),
        ]
        if channels != 64:  # the kernels of the wider layer have the same tiles
            continue
        before = x, of_x.affine, of_x.var, 0.2, 1e-5
        distance = torch.empty(x.numel() // 4, dtype=torch.uint8, device="meta"), of_x.one, 0.5
        block = "convolution_block_gradient"
        found += [
            (layer + "block gradient", block, (y, weight, large, *geometry, True, *gradient, *before, *distance)),
            (
                layer + "block gradient of the first",
                block,
                (y, weight, large, *geometry, True, *gradient, *[None] * 3, 1.0, 0.0, *distance),
            ),
            (
                layer + "block gradient of the last",
                block,
                (y, weight, large, *geometry, True, *[None] * 3, *before, *nothing),
            ),
            (
                layer + "block weight gradient",
                "convolution_weight_gradient",
                (y, x, [5, 5], *geometry, False, affine, 0.2, *gradient),
            ),
        ]
        # G's layer of the same weight: its input is y, its output x.
        found += [
            (
                layer + "transposed block forward",
                "convolution_statistics",
                (y, weight, large, *geometry, True, 1, of_y.affine, 0.0),
            ),
            (
                layer + "transposed block gradient",
                block,
                (x, weight, size, *geometry, False, x, *of_x[::2], y, *of_y[:2], 0.0, 1e-5, *nothing),
            ),
            (
                layer + "transposed block weight gradient",
                "convolution_weight_gradient",
                (x, y, [5, 5], *geometry, True, of_y.affine, 0.0, x, of_x.affine, of_x.terms),
            ),
        ]
        films = [torch.empty(BATCH, 2 * n, dtype=dtype, device="meta") for n in (channels, out)]
        found += [
            (
                layer + "transposed block forward with film",
                "convolution_statistics",
                (y, weight, large, *geometry, True, 1, of_y.affine, 0.0, films[1]),
            ),
            (
                layer + "transposed block gradient with film",
                block,
                (x, weight, size, *geometry, False, x, *of_x[::2], y, *of_y[:2], 0.0, 1e-5, *nothing, films[1]),
            ),
            (
                layer + "transposed block weight gradient with film",
                "convolution_weight_gradient",
                (x, y, [5, 5], *geometry, True, of_y.affine, 0.0, x, of_x.affine, of_x.terms, films[1]),
            ),
        ]
        # G's first layers have maps of few positions, of which a program takes those of one image.
        small = torch.empty(BATCH, out, 4, 4, dtype=dtype, device="meta")
        found.append(
            (
                layer + "transposed block forward with film, small",
                "convolution_statistics",
                (small, weight, [8, 8], *geometry, True, 1, of_y.affine, 0.0, films[1]),
            )
        )
    image, weight, features = (
        torch.empty(shape, dtype=dtype, device="meta")
        for shape in ((BATCH, 3, 128, 128), (64, 3, 5, 5), (BATCH, 64, 64, 64))
    )
    bias, geometry = torch.empty(64, dtype=dtype, device="meta"), ([2, 2], [2, 2])
    weight_gradient, of_features = "convolution_image_weight_gradient", channels_of(64, wide)
    film = torch.empty(BATCH, 128, dtype=dtype, device="meta")
    return [
        *found,
        (
            "to an image, of a raw map with film",
            "convolution_to_image",
            (features, weight, bias[:3], [128, 128], *geometry, 1.0, None, 0.0, of_features.affine, film),
        ),
        (
            "from an image, block gradient with film",
            "convolution_image_block_gradient",
            (image, weight, [64, 64], *geometry, features, of_features.affine, of_features.var, 0.0, 1e-5, film),
        ),
        (
            "weight gradient of a raw map with film to an image",
            weight_gradient,
            (features, image, [5, 5], *geometry, False, None, 0.0, of_features.affine, film),
        ),
        ("from an image", "convolution_from_image", (image, weight, bias, [64, 64], *geometry, 0.2)),
        ("to an image", "convolution_to_image", (features, weight, bias[:3], [128, 128], *geometry, 1.0)),
        (
            "input gradient of an image",
            "convolution_to_image",
            (features, weight, None, [128, 128], *geometry, 1.0, features, 0.2),
        ),
        ("weight gradient to an image", weight_gradient, (features, image, [5, 5], *geometry, False)),
        ("weight gradient from an image", weight_gradient, (features, image, [5, 5], *geometry, True, features, 0.2)),
        (
            "to an image, of a raw map",
            "convolution_to_image",
            (features, weight, bias[:3], [128, 128], *geometry, 1.0, None, 0.0, of_features.affine),
        ),
        (
            "from an image, block gradient",
            "convolution_image_block_gradient",
            (image, weight, [64, 64], *geometry, features, of_features.affine, of_features.var, 0.0, 1e-5),
        ),
        (
            "weight gradient of a raw map to an image",
            weight_gradient,
            (features, image, [5, 5], *geometry, False, None, 0.0, of_features.affine),
        ),
        (
            "distance of raw maps",
            "feature_l1_raw",
            ([features] * 2, [features] * 2, [of_features.affine] * 2, [of_features.affine] * 2, *[[0.2] * 2] * 3),
        ),
    ]


def main(capabilities: list[int], types: list[str], only: list[str], *, tiles: bool) -> None:
    driver.set_active(device := NoDevice())
    from igan_fast.ops import tuning
    from igan_fast.ops.convolution import asking_for
    from igan_fast.ops.triton import convolution_launch
    from igan_fast.ops.triton.common import OPERATORS

    launch = JITFunction.run
    context: dict[str, Any] = {}  # of the launch

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = launch(self, *map(described, arguments), grid=grid, warmup=True, **options)
        found = {"kernel": self.__name__, **usage(kernel.asm["cubin"]), **reads_of(kernel.asm["ptx"])}
        found |= {"shared": kernel.metadata.shared, "warps": kernel.metadata.num_warps}
        print(json.dumps(context | found), flush=True)
        return kernel

    def every_tile(key: str, ways: Mapping[str, Callable[[], Any]], device: str) -> str:
        *others, usual = ways
        for name in others:
            context["tile"] = name
            ways[name]()
        context["tile"] = usual
        return usual

    JITFunction.run = compile_only
    if tiles:
        tuning.has_choices, tuning.fastest = lambda device: True, every_tile
        convolution_launch.major_of = lambda _: device.capability // 10
    for device.capability in capabilities:
        for kind in types:
            torch.backends.cudnn.conv.fp32_precision = "tf32" if kind == "tf32" else "ieee"
            for name, operator, arguments in calls(DTYPES.get(kind, torch.float32)):
                context = {"capability": device.capability, "type": kind, "call": name}
                if not only or name in only:
                    with asking_for("measure" if tiles else "triton"):
                        OPERATORS[operator](*arguments)


def reads_of(ptx: str) -> dict[str, Any]:
    """The instruction of a kernel's matrix product, and the numbers of its loads of one and of two bfloat16 numbers and
    of 16 bytes."""
    # Loads of one number: of a factor whose neighbours are not known to be neighbours in memory.
    narrow = len(re.findall(r"ld\.global(?:\.\w+)*\.[bu]16\b", ptx))
    wide = len(re.findall(r"ld\.global\S*\.v4\.[bu]32|cp\.async\.cg\S* \[[^]]*\], \[[^]]*\], (?:0x10|16)", ptx))
    pairs = len(re.findall(r"ld\.global(?:\.\w+)*\.[bu]32\b|cp\.async\.ca\S* \[[^]]*\], \[[^]]*\], (?:0x4|4)", ptx))
    product = next((name for name in ("wgmma.mma", "tcgen05.mma", "mma.sync") if name in ptx), "")
    return {"product": product, "narrow": narrow, "pairs": pairs, "wide": wide}


if __name__ == "__main__":
    # Loads all of the package's operators, which the module of one operator alone does not.
    import igan_fast.ops.triton  # noqa: F401

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capabilities", type=lambda text: [int(number) for number in text.split(",")])
    parser.add_argument("types", type=lambda text: text.split(","))
    parser.add_argument("--tiles", action="store_true")
    parser.add_argument("--calls", action="append", default=[])
    given = parser.parse_args()
    main(given.capabilities, given.types, given.calls, tiles=given.tiles)
