"""The passes of an iteration over feature maps, beside the products: ``python -m bench.traffic``. It needs no GPU.

The unit is A, the bytes of D's four feature maps of a batch, written once; G's four maps are as large. Counted are the
bytes of all calls that read or write a feature map, but for the factors and results of convolutions
(``counting.beside_product``), in bfloat16. The weights and sums of channels among them are less than 1 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

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


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.traffic", description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args(arguments)
    try:
        print(render(options.batch))
    except RuntimeError as error:
        print(f"bench.traffic: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
