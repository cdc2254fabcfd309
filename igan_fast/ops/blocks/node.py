"""The autograd node of a network of blocks.

Inside of it the gradient of a raw map is (dz, terms): dz is the gradient of the LeakyReLU's input, and the products of
the block compute the gradient of the raw map from both. Such gradients never leave the node: its inputs, its result and
the distance have ordinary ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from igan_fast.ops.blocks.description import Block, Norm, RawMap
from igan_fast.ops.convolution import ConvSettings
from igan_fast.ops.norm_act import check_count
from igan_fast.ops.sign_mask import sign_mask_bytes

__all__ = ["Network", "Plan"]


class Plan(NamedTuple):
    """What a network computes, but for the tensors that are differentiated."""

    operators: Any  #: Triton's, of the dispatcher
    blocks: tuple[Block, ...]
    norm: Norm | None  #: of x, before the first block; None if x is an activation
    to_image: ConvSettings | None  #: of the transposed convolution after the last block; None for its activation
    targets: Sequence[RawMap] | None  #: of x and of each block's map


class _Map(NamedTuple):
    """A feature map as the forward pass leaves it: x, or a block's raw map; without ``norm`` an activation."""

    y: Tensor
    norm: Norm | None = None
    mean: Tensor | None = None
    var: Tensor | None = None
    affine: Tensor | None = None

    @property
    def slope(self) -> float:
        return 1.0 if self.norm is None else self.norm.negative_slope

    @property
    def eps(self) -> float:
        return 0.0 if self.norm is None else self.norm.eps


class _Gradient(NamedTuple):
    """The gradient of a map: ``grad`` itself; or with the rest, which ``convolution_block_gradient`` explains."""

    grad: Tensor
    raw: Tensor | None = None
    affine: Tensor | None = None
    terms: Tensor | None = None


class Network(torch.autograd.Function):
    """Takes a plan, x, the weight and bias of the convolution to an image or None, the weight and bias of the
    normalisation of x if there is one, and for each block the weight of its convolution and the weight and bias of its
    normalisation. Returns the result, the distance (0 without targets), and the raw map and affine of each block.

    It saves x, the raw maps, the statistics, the parameters, and the sign masks of the distance.
    """

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, x: Tensor, weight: Tensor | None, bias: Tensor | None, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        operators = plan.operators
        x = x.contiguous(memory_format=torch.channels_last)
        maps = [_Map(x)]
        if plan.norm is not None:
            mean, var = operators.norm_act_statistics(x, plan.norm.groups)
            maps = [_normalised(operators, x, plan.norm, mean, var)]
        for block in plan.blocks:
            settings, before = block.settings, maps[-1]
            y, mean, var = operators.convolution_statistics(
                before.y,
                block.conv_weight,
                block.output_shape(before.y.shape)[2:],
                settings.stride,
                settings.padding,
                settings.transposed,
                block.norm.groups,
                before.affine,
                before.slope,
            )
            maps.append(_normalised(operators, y, block.norm, mean, var))
        result = _result(plan, maps[-1], weight, bias)
        distance, signs = x.new_zeros((), dtype=torch.float32), None
        if plan.targets is not None:
            distance, signs = operators.feature_l1_raw(
                [each.y for each in maps],
                [target.y for target in plan.targets],
                [each.affine for each in maps],
                [target.affine for target in plan.targets],
                [each.slope for each in maps],
                [target.negative_slope for target in plan.targets],
                [1.0] * len(maps),
            )
        ctx.save_for_backward(weight, signs, *parameters, *(t for m in maps for t in (m.y, m.mean, m.var, m.affine)))
        ctx.plan = plan._replace(targets=None)  # freed before the backward pass if nobody else has them
        ctx.set_materialize_grads(False)
        raw: list[Any] = [t for each in maps[1:] for t in (each.y, each.affine)]
        ctx.mark_non_differentiable(*raw, *(() if plan.targets is not None else (distance,)))
        return result, distance, *raw

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_distance: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        weight, signs, *saved = ctx.saved_tensors
        if grad is None and grad_distance is None:
            return (None,) * len(ctx.needs_input_grad)
        return _Backward(plan, weight, signs, saved, grad_distance, ctx.needs_input_grad).run(grad)


class _Backward:
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
        blocks, self.head = plan.blocks, 0 if plan.norm is None else 2
        self.operators, self.plan, self.weight, self.needs = plan.operators, plan, weight, needs
        self.parameters, tensors = saved[: self.head + 3 * len(blocks)], saved[self.head + 3 * len(blocks) :]
        norms = [plan.norm, *(block.norm for block in blocks)]
        self.maps = []
        for index, norm in enumerate(norms):
            y, mean, var, affine = tensors[4 * index : 4 * index + 4]
            assert y is not None
            self.maps.append(_Map(y, norm, mean, var, affine))
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
                grad, self.weight, last.y.shape[2:], *geometry, last.y, last.affine, last.var, last.slope, last.eps
            )
            if self.needs[2]:
                self.found[2], _ = self.operators.convolution_image_weight_gradient(
                    last.y, grad, self.weight.shape[2:], *geometry, False, None, last.slope, last.affine
                )
            if self.needs[3]:
                self.found[3] = grad.sum((0, 2, 3))
            self._of_norm(index, *of_norm)
            return _Gradient(dz, last.y, last.affine, terms)
        if self.signs is not None:
            of_distance = self._of_distance(index)
            grad = of_distance if grad is None else grad + of_distance
        assert grad is not None
        weight, bias = self._norm_of(index)
        dy, *of_norm, _ = self.operators.norm_act_backward(
            grad.contiguous(memory_format=torch.channels_last),
            last.y,
            weight,
            bias,
            last.mean,
            last.var,
            last.eps,
            last.slope,
            True,
            None,
        )
        self._of_norm(index, *of_norm)
        return _Gradient(dy)

    def _of_block(self, index: int, gradient: _Gradient) -> _Gradient | None:
        """Store the gradient of a block's convolution, whose output's is given; return that of the map before it, or
        None if nothing needs it."""
        block, before, place = self.plan.blocks[index - 1], self.maps[index - 1], self.head + 3 * (index - 1)
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
            before.affine,
            before.var,
            before.slope,
            before.eps,
            signs,
            self.grad_distance,
            1 / before.y.numel(),
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
        return self.head + 3 * index - 2 if index else 0

    def _norm_of(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        place = self._place(index)
        return self.parameters[place], self.parameters[place + 1]

    def _of_norm(self, index: int, *gradients: Tensor) -> None:
        """Store the gradients of the weight and the bias of a map's normalisation."""
        place = self._place(index)
        for at, gradient in zip((place, place + 1), gradients, strict=True):
            parameter = self.parameters[at]
            if parameter is not None and self.needs[4 + at]:
                self.found[4 + at] = gradient.to(parameter.dtype)


def _normalised(operators: Any, y: Tensor, norm: Norm, mean: Tensor, var: Tensor) -> _Map:
    """The map of a convolution's output; its statistics update the running ones."""
    count = check_count(y, norm.groups)
    if norm.running_mean is not None:
        operators.norm_act_update(norm.running_mean, norm.running_var, mean, var, count, norm.momentum)
    return _Map(y, norm, mean, var, operators.convolution_affine(norm.weight, norm.bias, mean, var, norm.eps))


def _result(plan: Plan, last: _Map, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The image, or the activation of the last map."""
    settings = plan.to_image
    if settings is None:
        norm = plan.blocks[-1].norm
        activation: Tensor = plan.operators.norm_act_inference(
            last.y, norm.weight, norm.bias, last.mean, last.var, last.eps, last.slope, None
        )
        return activation
    assert weight is not None
    size = settings.output_size(last.y.shape, weight.shape)
    image: Tensor = plan.operators.convolution_to_image(
        last.y, weight, bias, size, settings.stride, settings.padding, 1.0, None, last.slope, last.affine
    )
    return image
