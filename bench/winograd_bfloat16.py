"""How exact minimal filtering would be with bfloat16 products: ``python -m bench.winograd_bfloat16``.

Processors with bfloat16 instructions multiply pairs of bfloat16 numbers and add the products up in float32. Minimal
filtering would have to round its transformed inputs and filters to bfloat16 for them. Here this is computed in float64,
with this rounding alone, for 3×3 filters. The errors are those of the whole result, relative to it, and are compared
with those of PyTorch's convolution in bfloat16, which are the rounding of its output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Of F(m, 3) for tiles of m outputs (Lavin and Gray 2016): the transforms of the input, the filter and the output.
TRANSFORMS: dict[int, tuple[list[list[float]], ...]] = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}

#: Channels of the convolutions.
CHANNELS = (32, 128, 512)


class Errors(NamedTuple):
    """Root mean squares of errors, each divided by that of the exact result."""

    channels: int
    tile: int
    filtering: float
    plain: float


def minimal_filtering(x: Tensor, weight: Tensor, tile: int, *, rounded: bool) -> Tensor:
    """The 3×3 convolution of x (N, C, H, W) in float64, padded by 1; H and W are multiples of ``tile``.

    Args:
        rounded: round the transformed input and filter to bfloat16.
    """
    of_input, of_filter, of_output = (torch.tensor(each, dtype=torch.float64) for each in TRANSFORMS[tile])
    patches = F.pad(x, (1, 1, 1, 1)).unfold(2, tile + 2, tile).unfold(3, tile + 2, tile)
    data = torch.einsum("ij,nchwjk,lk->nchwil", of_input, patches, of_input)
    filters = torch.einsum("ij,ocjk,lk->ocil", of_filter, weight, of_filter)
    if rounded:
        data, filters = data.bfloat16().double(), filters.bfloat16().double()
    products = torch.einsum("nchwil,ocil->nohwil", data, filters)
    tiles = torch.einsum("ai,nohwil,bl->nohawb", of_output, products, of_output)
    return tiles.reshape(len(x), len(weight), *x.shape[2:])


def measured() -> Iterator[Errors]:
    """The errors of each number of channels and each tile, with inputs as a LeakyReLU gives them."""
    generator = torch.Generator().manual_seed(0)
    for channels in CHANNELS:
        x = F.leaky_relu(torch.randn(4, channels, 16, 16, generator=generator), 0.2).bfloat16()
        weight = (torch.randn(channels, channels, 3, 3, generator=generator) / (3 * channels**0.5)).bfloat16()
        exact = F.conv2d(x.double(), weight.double(), padding=1)
        plain = _error(F.conv2d(x, weight, padding=1).double(), exact)
        for tile in TRANSFORMS:
            found = minimal_filtering(x.double(), weight.double(), tile, rounded=True).bfloat16().double()
            yield Errors(channels, tile, _error(found, exact), plain)


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def main() -> int:
    """The exit status."""
    print("| Channels | Tile | Minimal filtering | Plain bfloat16 | |")
    print("|---:|---|---:|---:|---:|")
    for each in measured():
        ratio = each.filtering / each.plain
        print(
            f"| {each.channels} | {each.tile} × {each.tile} | {each.filtering:.1e} | {each.plain:.1e} | {ratio:.1f}× |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
