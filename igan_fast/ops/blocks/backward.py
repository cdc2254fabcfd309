"""The backward pass of a network of blocks, and what it takes from the forward pass.

Inside of it the gradient of a raw map is (dz, terms): dz is the gradient of the LeakyReLU's input, and the products of
the block compute the gradient of the raw map from both. Such gradients never leave the node: its inputs, its result and
the distance have ordinary ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.ops.blocks.description import Block, Norm, RawMap
from igan_fast.ops.convolution import ConvSettings
from igan_fast.ops.sign_mask import sign_mask_bytes

__all__ = ["Backward", "Map", "Plan"]


class Plan(NamedTuple):
    """What a network computes, but for the tensors that are differentiated."""

    operators: Any  #: Triton's, of the dispatcher
    blocks: tuple[Block, ...]
    norm: Norm | None  #: of x, before the first block; None if x is an activation
    to_image: ConvSettings | None  #: of the transposed convolution after the last block; None for its activation
    targets: Sequence[RawMap] | None  #: of x and of each block's map


class Map(NamedTuple):
    """A feature map as the forward pass leaves it: x, or a block's raw map; without ``norm`` an activation."""

    y: Tensor
    norm: Norm | None = None
    mean: Tensor | None = None
    var: Tensor | None = None
    affine: Tensor | None = None
    film: Tensor | None = None

    @property
    def slope(self) -> float:
        return 1.0 if self.norm is None else self.norm.negative_slope

    @property
    def before(self) -> tuple[Tensor | None, Tensor | None, float, float]:
        """What ``convolution_block_gradient`` takes of the map before a block, beside its raw map."""
        return self.affine, self.var, self.slope, self.eps

    @property
    def eps(self) -> float:
        return 0.0 if self.norm is None else self.norm.eps


class _Gradient(NamedTuple):
    """The gradient of a map: ``grad`` itself; or with the rest, which ``convolution_block_gradient`` explains."""

    grad: Tensor
    raw: Tensor | None = None
    affine: Tensor | None = None
    terms: Tensor | None = None


class Backward:
    """One backward pass, from the last map to x.

    Attributes:
        found: the gradients of the node's arguments.
    """

    def __init__(
        self,
        plan: Plan,
        weight: Tensor | None,
        signs: Tensor | None,
        saved: list[Tensor | None],
        grad_distance: Tensor | None,
        needs: Sequence[bool],
    ) -> None:
        blocks, self.head = plan.blocks, 0 if plan.norm is None else 3
        self.operators, self.plan, self.weight, self.needs = plan.operators, plan, weight, needs
        count = self.head + 4 * len(blocks)
        self.parameters, tensors = saved[:count], saved[count:]
        norms = [plan.norm, *(block.norm for block in blocks)]
        self.maps = []
        for index, norm in enumerate(norms):
            y, mean, var, affine = tensors[4 * index : 4 * index + 4]
            assert y is not None
            film = None if norm is None else self._norm_of(index)[2]
            self.maps.append(Map(y, norm, mean, var, affine, film))
        self.signs, self.grad_distance = None if grad_distance is None else signs, grad_distance
        self.found: list[Tensor | None] = [None] * len(needs)

    def run(self, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients of the node's arguments, from that of its result."""
        gradient = self._of_last_map(grad)
        for index in range(len(self.plan.blocks), 0, -1):
            before = self._of_block(index, gradient)
            if before is None:
                return tuple(self.found)
            gradient = before
        if self.needs[1]:
            x, dz = self.maps[0], gradient.grad
            if x.norm is not None:
                dz = self.operators.convolution_norm_gradient(
                    dz, x.y, self.parameters[0], x.mean, x.var, x.eps, gradient.terms
                )
            self.found[1] = dz
        return tuple(self.found)

    def _of_last_map(self, grad: Tensor | None) -> _Gradient:
        last, index, settings = self.maps[-1], len(self.maps) - 1, self.plan.to_image
        if settings is not None:
            assert grad is not None
            assert self.weight is not None
            geometry = settings.stride, settings.padding
            dz, terms, *of_norm = self.operators.convolution_image_block_gradient(
                grad, self.weight, last.y.shape[2:], *geometry, last.y, *last.before, last.film
            )
            if self.needs[2]:
                self.found[2], _ = self.operators.convolution_image_weight_gradient(
                    last.y, grad, self.weight.shape[2:], *geometry, False, None, last.slope, last.affine, last.film
                )
            if self.needs[3]:
                self.found[3] = grad.sum((0, 2, 3))
            self._of_norm(index, *of_norm)
            return _Gradient(dz, last.y, last.affine, terms)
        if self.signs is not None:
            of_distance = self._of_distance(index)
            grad = of_distance if grad is None else grad + of_distance
        assert grad is not None
        weight, bias, film = self._norm_of(index)
        dy, *of_norm = self.operators.norm_act_backward(
            grad.contiguous(memory_format=torch.channels_last),
            last.y,
            weight,
            bias,
            last.mean,
            last.var,
            last.eps,
            last.slope,
            True,
            film,
        )
        self._of_norm(index, *of_norm)
        return _Gradient(dy)

    def _of_block(self, index: int, gradient: _Gradient) -> _Gradient | None:
        """Store the gradient of a block's convolution, whose output's is given; return that of the map before it, or
        None if nothing needs it."""
        block, before, place = self.plan.blocks[index - 1], self.maps[index - 1], self.head + 4 * (index - 1)
        settings, weight = block.settings, self.parameters[place]
        assert weight is not None
        geometry = settings.stride, settings.padding
        if self.needs[4 + place]:
            self.found[4 + place] = self.operators.convolution_weight_gradient(
                gradient.grad,
                before.y,
                weight.shape[2:],
                *geometry,
                settings.transposed,
                before.affine,
                before.slope,
                *gradient[1:],
                before.film,
            )
        if not self.needs[1] and not any(self.needs[4 : 4 + place]):
            return None
        raw = None if before.norm is None else before.y
        signs = None if self.signs is None else self.signs[self._first_byte(index - 1) : self._first_byte(index)]
        dz, terms, *of_norm = self.operators.convolution_block_gradient(
            gradient.grad,
            weight,
            before.y.shape[2:],
            *geometry,
            not settings.transposed,
            *gradient[1:],
            raw,
            *before.before,
            signs,
            self.grad_distance,
            1 / before.y.numel(),
            before.film,
        )
        if raw is None:
            return _Gradient(dz)
        self._of_norm(index - 1, *of_norm)
        return _Gradient(dz, raw, before.affine, terms)

    def _of_distance(self, index: int) -> Tensor:
        """The gradient of a map's activation that the distance gives."""
        y = self.maps[index].y
        numel = y.numel()
        (flat,) = self.operators.feature_l1_backward(
            self.grad_distance, self.signs, [numel], [self._first_byte(index)], [1 / numel], y.dtype
        )
        return flat.as_strided(y.shape, y.stride())  # type: ignore[no-any-return]

    def _first_byte(self, index: int) -> int:
        """Of a map's sign mask."""
        return sum(sign_mask_bytes(each.y.numel()) for each in self.maps[:index])

    def _place(self, index: int) -> int:
        """Of the parameters of a map's normalisation, among all parameters."""
        return self.head + 4 * index - 3 if index else 0

    def _norm_of(self, index: int) -> list[Tensor | None]:
        """Weight, bias and film."""
        place = self._place(index)
        return self.parameters[place : place + 3]

    def _of_norm(self, index: int, *gradients: Tensor) -> None:
        """Store the gradients of weight, bias and film of a map's normalisation."""
        for at, gradient in enumerate(gradients, self._place(index)):
            parameter = self.parameters[at]
            if parameter is not None and self.needs[4 + at]:
                self.found[4 + at] = gradient.to(parameter.dtype)
