"""The layers of G and D on the fused operators, with the same names as in ``igan_fast.reference.layers``.

Arguments, parameters, buffers and ``state_dict`` are those of the reference, and are documented there.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from igan_fast import ops
from igan_fast.ops.blocks import Block, Norm
from igan_fast.ops.convolution import ConvSettings
from igan_fast.ops.linear import linear
from igan_fast.reference import layers as reference
from igan_fast.reference.layers import normalised_apart, set_process_group
from igan_fast.reference.layers.untouched import untouched

__all__ = [
    "ConvNormAct2d",
    "ConvTransposeNormAct2d",
    "Linear",
    "NormAct2d",
    "are_blocks",
    "block_of",
    "norm_of",
    "normalised_apart",
    "set_process_group",
    "settings_of",
]


class NormAct2d(reference.NormAct2d):
    """``reference.layers.NormAct2d``, fused."""

    operators: ClassVar[Any] = ops


class ConvNormAct2d(reference.ConvNormAct2d):
    """``reference.layers.ConvNormAct2d``, fused."""

    operators: ClassVar[Any] = ops
    norm_type: ClassVar[type[reference.NormAct2d]] = NormAct2d


class ConvTransposeNormAct2d(reference.ConvTransposeNormAct2d):
    """``reference.layers.ConvTransposeNormAct2d``, fused."""

    operators: ClassVar[Any] = ops
    norm_type: ClassVar[type[reference.NormAct2d]] = NormAct2d


class Linear(nn.Linear):
    """``nn.Linear``, on a CPU by the fastest of MKL, oneDNN and, for few rows, a kernel of this package."""

    def forward(self, input: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features)."""
        return linear(input, self.weight, self.bias)


def are_blocks(*layers: nn.Module) -> bool:
    """Whether a network of blocks (``igan_fast.ops.blocks``) may compute the layers from their parameters, without
    calling them: blocks and normalisations of this module in training, without hooks and parametrisations, and with
    nothing that a ``Block`` does not have, such as a convolution's bias."""
    return all(_is_norm(layer) or _is_block(layer) for layer in layers)


def settings_of(conv: nn.Conv2d | nn.ConvTranspose2d) -> ConvSettings:
    """The settings of a convolution, which pads by numbers."""
    return ConvSettings.cached(
        2,
        transposed=conv.transposed,
        stride=conv.stride,
        padding=[int(side) for side in conv.padding],
        output_padding=conv.output_padding,
        dilation=conv.dilation,
        groups=conv.groups,
    )


def block_of(layer: ConvNormAct2d | ConvTransposeNormAct2d, x: Tensor) -> Block:
    """One of ``are_blocks`` as the operators take it, for a batch of as many images as x."""
    return Block(settings_of(layer.conv), layer.conv.weight, norm_of(layer.norm, x))


def norm_of(norm: reference.NormAct2d, x: Tensor) -> Norm:
    """One of ``are_blocks`` as the operators take it, for a batch of as many images as x. It counts the batch."""
    options = norm.begin_pass(x)
    return Norm(norm.weight, norm.bias, *(options[name] for name in Norm._fields[2:]))


def _is_norm(layer: nn.Module) -> bool:
    return (
        type(layer) is NormAct2d
        and untouched(layer)
        and layer.training
        and layer.groups != "instance"
        and layer.momentum is not None
        and layer.process_group is None
    )


def _is_block(layer: nn.Module) -> bool:
    if type(layer) not in (ConvNormAct2d, ConvTransposeNormAct2d) or not untouched(layer):
        return False
    conv: Any = layer.conv
    return (
        type(conv) in (nn.Conv2d, nn.ConvTranspose2d)
        and untouched(conv)
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and _is_norm(layer.norm)  # type: ignore[arg-type]
    )
