"""The passes of an iteration over feature maps, beside the products: ``python -m bench.traffic``. It needs no GPU.

The unit is A, the bytes of D's four feature maps of a batch, written once; G's four maps are as large. Counted are the
bytes of all calls that read or write a feature map, but for the factors and results of convolutions
(``counting.beside_product``), in bfloat16. The weights and sums of channels among them are less than 1 %.

A second table says what it would save and cost to compute D's first map again wherever it is read, from the image,
instead of storing it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.counting import Call, beside_product
from bench.fake_step import calls_of_an_iteration

#: Options of ``calls_of_an_iteration``.
ITERATIONS = {
    "plain PyTorch": {"fused": False},
    "fused": {},
    "blocks": {"convolution": "blocks"},
}

NORMS = "Normalisation, activation and bias"
DISTANCE = "Perceptual loss"
OTHERS = "Sums of gradients, and copies"
PARTS = (NORMS, DISTANCE, OTHERS)

#: The operators of the second and third part; of the first part are all others.
_OF_DISTANCE = (
    "feature_l1",
    "feature_l1_backward",
    "feature_l1_raw",
    "sub",
    "abs",
    "sgn",
    "mul",
    "div",
    "mean",
    "_to_copy",
)
_OF_OTHERS = ("add", "add_", "cat", "clone", "copy_", "slice_backward", "new_zeros")


def maps_of(image_size: int, width: int, batch: int) -> set[tuple[int, ...]]:
    """The shapes of G's and D's feature maps, of a batch and of two."""
    return {
        (count * batch, width * 2**i, image_size // 2 ** (i + 1), image_size // 2 ** (i + 1))
        for i in range(4)
        for count in (1, 2)
    }


def traffic(calls: Iterable[Call], image_size: int, width: int, batch: int) -> dict[str, float]:
    """The passes over feature maps in each part, in A.

    Args:
        calls: of an iteration in bfloat16.
    """
    maps = maps_of(image_size, width, batch)
    elements = {channels * side * side * batch for n, channels, side, _ in maps if n == batch}
    parts = dict.fromkeys(PARTS, 0.0)
    for call in calls:
        masked = call.operator == "feature_l1_backward" and call.results[0][0] in elements
        if not masked and maps.isdisjoint((*call.shapes, *call.results)):
            continue
        part = DISTANCE if call.operator in _OF_DISTANCE else OTHERS if call.operator in _OF_OTHERS else NORMS
        parts[part] += beside_product(call) / (2 * sum(elements))
    return parts


def counted(image_size: int = 128, width: int = 64, batch: int = 64) -> dict[str, dict[str, float]]:
    """The passes of each of ``ITERATIONS``."""
    found = {}
    for name, options in ITERATIONS.items():
        calls = calls_of_an_iteration(image_size, width, batch, "bf16", **options)  # type: ignore[arg-type]
        found[name] = traffic(calls, image_size, width, batch)
    return found


def render(batch: int = 64) -> str:
    """The table."""
    columns = counted(batch=batch)
    lines = [f"| In A | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for part in PARTS:
        lines.append(f"| {part} | {' | '.join(f'{column[part]:.1f}' for column in columns.values())} |")
    lines.append(f"| All | {' | '.join(f'**{sum(column.values()):.1f}**' for column in columns.values())} |")
    return "\n".join(lines)


#: The images of the second table.
FIRST_MAP_BATCH = 256


class Reader(NamedTuple):
    """Who reads D's first map, with blocks.

    Attributes:
        name: in the table.
        position: of the map among the tensors of the operator; None if each tensor of this shape is one.
        loads: how often a launch loads each number. The second layer has 25 taps in steps of 2, and takes its 128
            channels in one tile: 25 / 4. The product to an image loads each number for four blocks of 4×4 pixels.
    """

    name: str
    position: int | None
    loads: float


READERS = {
    "convolution_statistics": Reader("Second convolution", 0, 25 / 4),
    "convolution_weight_gradient": Reader("Its weight gradient", 1, 25 / 4),
    "convolution_image_weight_gradient": Reader("First weight gradient, signs", 2, 1),
    "convolution_to_image": Reader("Image gradient, signs", 2, 4),
    "feature_l1_raw": Reader("Perceptual loss", None, 1),
}


class Reads(NamedTuple):
    """How often D's first map is read, of each image of a batch, and what that is.

    Attributes:
        passes: over the map.
        read: bytes of the map.
        image: bytes of the image that would be read instead.
        flops: to compute each number again where it is loaded.
    """

    passes: float
    read: float
    image: float
    flops: float


def first_map(image_size: int = 128, width: int = 64, batch: int = FIRST_MAP_BATCH) -> tuple[float, dict[str, Reads]]:
    """The bytes that an iteration with blocks writes of D's first map, and its readers by operator."""
    calls = calls_of_an_iteration(image_size, width, batch, "bf16", convolution="blocks")
    shape = width, image_size // 2, image_size // 2
    taps = 3 * 25  # of the three colours

    def images(shapes: Iterable[tuple[int, ...]]) -> int:
        return sum(each[0] for each in shapes if each[1:] == shape)

    written = sum(images(call.results) for call in calls if call.operator == "convolution_from_image")
    found = {}
    for operator, reader in READERS.items():
        at = reader.position
        shapes = [
            call.shapes if at is None else call.shapes[at : at + 1] for call in calls if call.operator == operator
        ]
        count = sum(map(images, shapes))
        numbers = count * math.prod(shape)
        found[operator] = Reads(
            count / batch, 2 * numbers, 2 * count * 3 * image_size**2, numbers * reader.loads * 2 * taps
        )
    return 2 * written * math.prod(shape), found


def render_first_map(batch: int = FIRST_MAP_BATCH) -> str:
    """The table."""
    written, reads = first_map(batch=batch)
    lines = [
        "| Reads D's first map | Times | Loads of a number | Read | Read of the image instead | Computed again |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for operator, found in reads.items():
        reader = READERS[operator]
        lines.append(
            f"| {reader.name} | {found.passes:.0f} | {reader.loads:g} | {found.read / 1e6:.0f} MB | "
            f"{found.image / 1e6:.0f} MB | {found.flops / 1e9:.0f} GFLOP |"
        )
    read, image, flops = (sum(getattr(each, name) for each in reads.values()) for name in ("read", "image", "flops"))
    lines.append(
        f"| All, with {written / 1e6:.0f} MB written | | | {(written + read) / 1e6:.0f} MB | {image / 1e6:.0f} MB | "
        f"{flops / 1e9:.0f} GFLOP |"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.traffic", description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args(arguments)
    try:
        print(render(options.batch))
        print(f"\nD's first map, for {FIRST_MAP_BATCH} images:\n\n{render_first_map()}")
    except RuntimeError as error:
        print(f"bench.traffic: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
