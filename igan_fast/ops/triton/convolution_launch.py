"""What the launches of the convolutions share: the sizes of their matrix products, and checks."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor

from igan_fast.ops import tuning
from igan_fast.ops.convolution.triton import MOST_POSITIONS, asked_for
from igan_fast.ops.triton.common import triton_dtype

_SIDE = 128  # rows of the part of a matrix product that a program computes, and its columns at most
_WIDE_SIDE = 64  # the same for float64, and for float32 that is not rounded to tf32: larger parts spill registers
_STEP_BYTES = 128  # of a row of a factor that a program reads at once
FEW_COLUMNS = 64  # of the products of blocks' gradients; with more, they spill registers
_LEAST = 16  # the smallest side of a product of tensor cores


def options_of(x: Tensor, columns: int) -> dict[str, Any]:
    """The options of a kernel that computes a matrix product with so many columns of values of x's dtype.

    Of float32 numbers PyTorch's flag for convolutions says whether the product may round them to tf32.
    """
    cudnn: Any = torch.backends.cudnn  # its type annotations lack the newer flags
    tf32 = cudnn.conv.fp32_precision == "tf32"
    wide = x.dtype == torch.float64 or (x.dtype == torch.float32 and not tf32)
    side = _WIDE_SIDE if wide else _SIDE
    n = min(side, max(_LEAST, triton.next_power_of_2(columns)))
    return {
        "PRECISION": "tf32" if tf32 else "ieee",
        "ACC": triton_dtype(x.dtype),
        "M": side,
        "N": n,
        "K": _LEAST if wide else max(_LEAST, _STEP_BYTES // x.dtype.itemsize),
        "num_warps": 8 if n >= 128 else 4,
    }


def major_of(device: torch.device) -> int:
    """The first number of a GPU's compute capability; 0 without a GPU."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 0


def sums_of_thread(major: int) -> int:
    """How many sums of a product a thread holds at most, by ``major_of`` its device. It holds more where the product
    reads both factors from shared memory (wgmma, tcgen05); mma.sync reads them from registers, which would spill."""
    return 128 if major in (9, 10) else 64


def tiles_of(
    options: dict[str, Any], adapted: Callable[[dict[str, Any]], dict[str, Any]], most_sums: int
) -> dict[str, dict[str, Any]]:
    """The options of a product among which ``by_fastest_tile`` chooses, by their names: some with larger and smaller
    parts of the product and steps, and last the usual ones. Of float32 and float64 only these, because larger parts
    spill registers.

    Args:
        options, adapted: as of ``by_fastest_tile``.
        most_sums: of the product, in a thread.
    """
    found = [usual := adapted(options)]
    if options["K"] > _LEAST:
        m, n, k = (options[name] for name in "MNK")
        others = [(2 * m, n, k, 8), (m, n, k, 4), (m, n, k // 2, 8), (m // 2, n, k, 4), (m, n // 2, k, 4)]
        tiles = [dict(zip(("M", "N", "K", "num_warps"), each, strict=True)) for each in others]
        adapted_tiles = [adapted(options | tile) for tile in tiles if min(tile["N"], tile["K"]) >= _LEAST]
        fitting = [each for each in adapted_tiles if each["M"] * each["N"] <= each["num_warps"] * 32 * most_sums]
        found = [*(each for each in fitting if each != usual), usual]
    return {"{M} x {N} x {K}, {num_warps} warps".format(**each): each for each in found}


_Result = TypeVar("_Result")


def by_fastest_tile(
    compute: Callable[[dict[str, Any]], _Result],
    options: dict[str, Any],
    adapted: Callable[[dict[str, Any]], dict[str, Any]],
    device: torch.device,
    *kind: object,
) -> _Result:
    """What ``compute`` returns with the options of ``tiles_of`` that are measured to be the fastest, where choices by
    measurement are asked for; else with the usual ones.

    Args:
        compute: launches a product with the options. It may be called several times.
        options: of ``options_of``.
        adapted: changes options into those with which this kind of product is launched.
        device: of the tensors.
        kind: all that the speed depends on, except for the options and the device.
    """
    if asked_for() != "measure" or not tuning.has_choices(device.type):
        return compute(adapted(options))
    tiles = tiles_of(options, adapted, sums_of_thread(major_of(device)))
    if len(tiles) == 1:
        return compute(adapted(options))
    key = json.dumps(["tile", *map(str, kind), *map(str, options.values())])
    ways = {name: functools.partial(compute, each) for name, each in tiles.items()}
    return compute(tiles[tuning.fastest(key, ways, device.type)])


def steps_of(options: dict[str, Any], taps: int, channels: int) -> dict[str, Any]:
    """The options of ``convolve`` for so many taps and input channels: the step, and whether each is of one tap.

    Where the channels of a step may be of several taps, the step is the one that reads fewer terms in vain. A longer
    one takes more registers than there are.
    """
    if channels % options["K"] == 0:
        return options | {"WHOLE": True}
    steps = [k for k in (32, 16) if k <= options["K"]]
    shortest = min(steps, key=lambda k: triton.cdiv(taps * channels, k) * k)
    rows = min(options["M"], _SIDE)
    return options | {"M": rows, "K": shortest, "num_warps": rows // 16, "WHOLE": False}


def with_registers(options: dict[str, Any], columns: int) -> dict[str, Any]:
    """The options of a product whose factors are computed while they are read or are not neighbours in memory, or that
    has more to do with its result: with at most so many columns, no more rows than usual, and more warps, because each
    thread has to hold more numbers."""
    return options | {"M": min(options["M"], _SIDE), "N": min(options["N"], columns), "num_warps": 8}


def rows_of_parts(options: dict[str, Any], positions: int) -> dict[str, Any]:
    """The options of a product whose rows are positions of single images: no more rows, and warps for them, than one
    image has positions."""
    rows = min(options["M"], max(_LEAST, triton.next_power_of_2(positions)))
    return options | {"M": rows, "num_warps": max(1, options["num_warps"] * rows // options["M"])}


def steps_of_images(options: dict[str, Any], positions: int, film: Tensor | None) -> dict[str, Any]:
    """The options of a weight gradient: with film, a step is of one image and no longer than its positions need."""
    if film is None:
        return options
    return options | {"K": min(options["K"], max(_LEAST, triton.next_power_of_2(positions)))}


def padded_positions(options: dict[str, Any], positions: int, film: Tensor | None) -> int:
    """With film, the positions of an image, rounded up to whole steps; 1 without."""
    return 1 if film is None else triton.cdiv(positions, options["K"]) * options["K"]


def check_numbers(**numbers: int) -> None:
    """Check what the kernels keep in 32 bits.

    Raises:
        RuntimeError: one of the numbers is too large. Its name is part of the message.
    """
    for name, number in numbers.items():
        if number > MOST_POSITIONS:
            raise RuntimeError(
                f"the tensors are too large for one launch: {number} {name} (at most {MOST_POSITIONS}); "
                "use impl='reference'"
            )


def channels_last(x: Tensor) -> Tensor:
    """x itself if it is channels_last, else a copy."""
    return x.contiguous(memory_format=torch.channels_last)


def new(x: Tensor, *shape: int) -> Tensor:
    """A new channels_last tensor of x's dtype and device."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def groups_of(x: Tensor, *affines: Tensor | None) -> int:
    """The number of groups into which the images are divided: that of the affines (groups, 3, C); 1 without any.

    Raises:
        ValueError: two of them differ, or do not divide the number of images.
    """
    counts = {affine.shape[0] for affine in affines if affine is not None} or {1}
    if len(counts) > 1 or x.shape[0] % max(counts):
        raise ValueError(
            f"found {x.shape[0]} images and {sorted(counts)} groups; expected one number that divides them"
        )
    return counts.pop()


def film_operand(film: Tensor | None, x: Tensor) -> Tensor | None:
    """The kernels' argument ``film``: γ and β of each image of x.

    Raises:
        ValueError: it does not fit x.
    """
    if film is not None and film.shape != (x.shape[0], 2 * x.shape[1]):
        raise ValueError(f"film has shape {tuple(film.shape)}; expected {(x.shape[0], 2 * x.shape[1])}")
    return None if film is None else film.contiguous()


def gradient_operand(
    grad: Tensor, raw: Tensor | None, affine: Tensor | None, terms: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """The kernels' argument ``gradient``; None if ``grad`` is that of the convolution's output itself.

    Raises:
        ValueError: some of the three are missing, or do not fit ``grad``.
    """
    if raw is None and affine is None and terms is None:
        return None
    if raw is None or affine is None or terms is None:
        raise ValueError("raw, affine and terms: some are None; expected all or none")
    groups, channels = affine.shape[0], grad.shape[1]
    if raw.shape != grad.shape or raw.dtype != grad.dtype:
        raise ValueError(f"raw is {tuple(raw.shape)} in {raw.dtype}; expected {tuple(grad.shape)} in {grad.dtype}")
    if affine.shape != (groups, 3, channels) or terms.shape != (2, groups, channels):
        raise ValueError(
            f"affine has shape {tuple(affine.shape)}, terms {tuple(terms.shape)}; expected (groups, 3, {channels}) and "
            f"(2, groups, {channels})"
        )
    mean_grads, slopes = terms.contiguous().unbind()
    return channels_last(raw), affine.contiguous(), mean_grads, slopes
