"""The FLOPs of this package's convolutions; a multiplication and an addition count as two.

They are those that ``torch.utils.flop_counter`` counts for PyTorch's convolution or gradient of the same sizes: each
number of the weight is multiplied at each position of the smaller side, also where a tap lies in the padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["flops_of"]


def flops_of(operator: str, arguments: Mapping[str, Any]) -> int:
    """The FLOPs of a call; 0 of an operator that computes no convolution.

    Args:
        operator: its name without namespace.
        arguments: by the names of its schema.
    """
    formula = _FORMULAS.get(operator)
    return formula(arguments) if formula else 0


def _product(images: int, size: Sequence[int], weight: Sequence[int]) -> int:
    return 2 * images * math.prod(size) * math.prod(weight)


def _convolution(of: Mapping[str, Any]) -> int:
    """Of a convolution to ``size``, or of a transposed one from the size of its input."""
    x: Tensor = of.get("x", of.get("grad"))
    return _product(x.shape[0], x.shape[2:] if of["transposed"] else of["size"], of["weight"].shape)


def _from_image(of: Mapping[str, Any]) -> int:
    return _convolution({**of, "transposed": False})


def _to_image(of: Mapping[str, Any]) -> int:
    return _convolution({**of, "transposed": True})


def _weight_gradient(of: Mapping[str, Any]) -> int:
    grad, x = of["grad"], of["x"]
    small = x if of["transposed"] else grad
    return _product(x.shape[0], small.shape[2:], (grad.shape[1], x.shape[1], *of["kernel"]))


def _image_weight_gradient(of: Mapping[str, Any]) -> int:
    features, image = of["features"], of["x"]
    return _product(image.shape[0], features.shape[2:], (features.shape[1], image.shape[1], *of["kernel"]))


_FORMULAS: dict[str, Callable[[Mapping[str, Any]], int]] = {
    "convolution": _convolution,
    "convolution_statistics": _convolution,
    "convolution_block_gradient": _convolution,
    "convolution_from_image": _from_image,
    "convolution_image_block_gradient": _from_image,
    "convolution_to_image": _to_image,
    "convolution_weight_gradient": _weight_gradient,
    "convolution_image_weight_gradient": _image_weight_gradient,
}
