"""Networks of blocks layer by layer, on the operators that compute single layers: what a network of blocks is compared
with, and what computes it where that is faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from igan_fast.ops.blocks.description import Block, Features, Norm, RawMap
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.conv_norm_act import conv_norm_act
from igan_fast.ops.convolution import ConvSettings
from igan_fast.ops.feature_l1 import feature_l1
from igan_fast.ops.norm_act import norm_act

__all__ = ["features_by_layers", "image_by_layers"]


def features_by_layers(x: Tensor, blocks: Sequence[Block], targets: Sequence[RawMap] | None) -> Features:
    """What ``block_features`` returns. Its maps are activations."""
    maps = [x]
    for block in blocks:
        maps.append(_activation(maps[-1], block, None))
    distance = None if targets is None else feature_l1(maps, [target.activation().detach() for target in targets])
    return Features(maps[-1], [RawMap(each.detach()) for each in maps], distance)


def image_by_layers(
    x: Tensor,
    norm: Norm,
    blocks: Sequence[Block],
    weight: Tensor,
    bias: Tensor | None,
    settings: ConvSettings,
    films: Sequence[Tensor | None],
) -> Tensor:
    """What ``block_image`` returns."""
    x = x.contiguous(memory_format=torch.channels_last)
    x = norm_act(x, *norm[:4], film=films[0], **_options(norm))
    for block, film in zip(blocks, films[1:], strict=True):
        x = _activation(x, block, film)
    sizes: dict[str, Any] = {name: getattr(settings, name) for name in ("stride", "padding", "output_padding")}
    return conv_act(x, weight, bias, transposed=True, negative_slope=1.0, **sizes)


def _activation(x: Tensor, block: Block, film: Tensor | None) -> Tensor:
    """The activation of a block."""
    settings, norm = block.settings, block.norm
    return conv_norm_act(
        x,
        block.conv_weight,
        *norm[:4],
        transposed=settings.transposed,
        stride=settings.stride,
        padding=settings.padding,
        output_padding=settings.output_padding,
        dilation=settings.dilation,
        conv_groups=settings.groups,
        film=film,
        **_options(norm),
    )


def _options(norm: Norm) -> dict[str, Any]:
    """What an operator takes of a normalisation beside its tensors."""
    return {name: getattr(norm, name) for name in ("momentum", "eps", "negative_slope", "groups")}
