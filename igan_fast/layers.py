"""The layers of G and D on the fused operators, with the same names as in ``igan_fast.reference.layers``.

Arguments, parameters, buffers and ``state_dict`` are those of the reference, and are documented there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import nn

from igan_fast import ops
from igan_fast.reference import layers as reference
from igan_fast.reference.layers import set_process_group

__all__ = ["ConvNormAct2d", "ConvTransposeNormAct2d", "NormAct2d", "normalised_apart", "set_process_group"]


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


@contextmanager
def normalised_apart(module: nn.Module, groups: int) -> Iterator[None]:
    """Inside the block, every batch normalisation (``NormAct2d``) of ``module`` splits its batch into ``groups`` equal
    parts, and normalises each part by its mean and variance. Several batches can then pass through the network in one
    call, with the same results as in separate calls.

    Instance normalisations do not change: they always normalise each image separately.
    """
    norms = [p for p in module.modules() if isinstance(p, reference.NormAct2d) and p.groups != "instance"]
    before = [norm.groups for norm in norms]
    for norm in norms:
        norm.groups = groups
    try:
        yield
    finally:
        for norm, count in zip(norms, before, strict=True):
            norm.groups = count
