"""The autograd node of a network of blocks, and its forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from igan_fast.ops.blocks.backward import Backward, Map, Plan
from igan_fast.ops.blocks.description import Norm
from igan_fast.ops.norm_act import check_count

__all__ = ["Network"]


class Network(torch.autograd.Function):
    """Takes a plan, x, the weight and bias of the convolution to an image or None, the weight, bias and film of the
    normalisation of x if there is one, and for each block the weight of its convolution and the weight, bias and film
    of its normalisation. Returns the result, the distance (0 without targets), and the raw map and affine of each
    block.

    It saves x, the raw maps, the statistics, the parameters, and the sign masks of the distance.
    """

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, x: Tensor, weight: Tensor | None, bias: Tensor | None, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        operators = plan.operators
        x = x.contiguous(memory_format=torch.channels_last)
        maps = [Map(x)]
        if plan.norm is not None:
            mean, var = operators.norm_act_statistics(x, plan.norm.groups)
            maps = [_normalised(operators, x, plan.norm, mean, var, parameters[2])]
        films = parameters[(0 if plan.norm is None else 3) + 3 :: 4]
        for block, film in zip(plan.blocks, films, strict=True):
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
                before.film,
            )
            maps.append(_normalised(operators, y, block.norm, mean, var, film))
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
        return Backward(plan, weight, signs, saved, grad_distance, ctx.needs_input_grad).run(grad)


def _normalised(operators: Any, y: Tensor, norm: Norm, mean: Tensor, var: Tensor, film: Tensor | None) -> Map:
    """The map of a convolution's output; its statistics update the running ones."""
    count = check_count(y, norm.groups)
    if norm.running_mean is not None:
        operators.norm_act_update(norm.running_mean, norm.running_var, mean, var, count, norm.momentum)
    affine = operators.convolution_affine(norm.weight, norm.bias, mean, var, norm.eps)
    return Map(y, norm, mean, var, affine, film)


def _result(plan: Plan, last: Map, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The image, or the activation of the last map."""
    settings = plan.to_image
    if settings is None:
        norm = plan.blocks[-1].norm
        activation: Tensor = plan.operators.norm_act_inference(
            last.y, norm.weight, norm.bias, last.mean, last.var, last.eps, last.slope, last.film
        )
        return activation
    assert weight is not None
    size = settings.output_size(last.y.shape, weight.shape)
    image: Tensor = plan.operators.convolution_to_image(
        last.y, weight, bias, size, settings.stride, settings.padding, 1.0, None, last.slope, last.affine, last.film
    )
    return image
