"""The functions that compute a network of blocks. Both are differentiable once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend, tuning
from igan_fast.ops.blocks.backward import Plan
from igan_fast.ops.blocks.description import Block, Features, Norm, RawMap
from igan_fast.ops.blocks.layerwise import features_by_layers, image_by_layers
from igan_fast.ops.blocks.measured import is_faster_as_node
from igan_fast.ops.blocks.node import Network
from igan_fast.ops.convolution import ConvSettings, asked_for
from igan_fast.ops.convolution.plan import Problem
from igan_fast.ops.convolution.triton import operators, takes
from igan_fast.ops.norm_act import check_arguments, launchable

__all__ = ["are_blocks_asked_for", "block_features", "block_image", "can_run_blocks"]


def are_blocks_asked_for(device: str) -> bool:
    """Whether networks of blocks are asked for (``igan_fast.ops.convolution.asked_for``) on this type of device, or may
    be measured to be faster there."""
    asked = asked_for()
    return asked == "blocks" or (asked == "measure" and tuning.has_choices(device))


def can_run_blocks(
    x: Tensor, convolutions: Sequence[tuple[ConvSettings, Tensor]], *others: Tensor | None, film: bool = False
) -> bool:
    """Whether blocks are asked for (``are_blocks_asked_for``), and Triton's kernels can compute these.

    They cannot under a compiler, and where PyTorch's own functions have to compute the result
    (``backend.plain_only``).

    Args:
        x: the input (N, C, H, W) of the first convolution.
        convolutions: settings and weight of each.
        others: the other tensors that take part.
        film: whether each image has its own scale and shift.
    """
    if not are_blocks_asked_for(x.device.type) or torch.compiler.is_compiling() or x.dim() != 4 or not x.numel():
        return False
    if backend.plain_only(x, *(weight for _, weight in convolutions), *others):
        return False
    dtype, shape = _dtype_of(x), x.shape
    for settings, weight in convolutions:
        channels, out = settings.channels(weight) if weight.dim() == 4 else (0, 0)
        converted = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
        if not (
            (converted or weight.dtype == x.dtype)
            and weight.numel()
            and weight.device == x.device
            and shape[1] == channels
        ):
            return False
        problem = Problem(
            settings,
            native=False,
            input_shape=shape,
            weight_shape=weight.shape,
            input_dtype=dtype,
            weight_dtype=dtype,
            device=x.device.type,
            weight_contiguous=False,
            bias=False,
            activation=False,
            differentiable=False,
            triton=True,
        )
        size = settings.output_size(shape, weight.shape)
        if min(size) < 1 or not takes(problem):
            return False
        shape = torch.Size((shape[0], out, *size))
        if not launchable(backend.TRITON, torch.device("cuda"), shape, 1, film=film):
            return False
    return True


def block_features(x: Tensor, blocks: Sequence[Block], targets: Sequence[RawMap] | None = None) -> Features:
    """The feature maps of blocks, one after the other.

    Where blocks are not asked for but measured, the layers compute them one by one if that is faster. Then the maps
    are activations.

    Args:
        x: (N, C, H, W), of a floating dtype: an activation. Under autocast it is converted, as the weights are.
        blocks: at least one. The running statistics of their normalisations are updated.
        targets: maps of the shapes of x and of the blocks' outputs, to which the distance is computed. They are not
            differentiated.

    Raises:
        ValueError: as ``norm_act``; or a target has another shape.
    """
    x = x.to(_dtype_of(x))
    _check(x, blocks, [None] * len(blocks))
    if targets is not None:
        shape = x.shape
        shapes = [shape, *((shape := block.output_shape(shape)) for block in blocks)]
        for index, (target, expected) in enumerate(zip(targets, shapes, strict=True)):
            if target.y.shape != expected:
                raise ValueError(f"target {index} has shape {tuple(target.y.shape)}; expected {tuple(expected)}")
    both = _used(_features), _used(features_by_layers)
    if asked_for() == "measure" and not is_faster_as_node("features", *both, x, blocks, targets):
        return features_by_layers(x, blocks, targets)
    return _features(x, blocks, targets)


def _features(x: Tensor, blocks: Sequence[Block], targets: Sequence[RawMap] | None) -> Features:
    blocks = _converted(x, blocks)
    plan = Plan(operators(), blocks, None, None, targets)
    last, distance, *maps = _apply(plan, x, None, None, [None] * len(blocks))
    raw = [RawMap(x.detach())]
    for block, y, affine in zip(blocks, maps[::2], maps[1::2], strict=True):
        raw.append(RawMap(y, affine, block.norm.negative_slope))
    return Features(last, raw, distance if targets is not None else None)


def _used(compute: Callable[..., Features]) -> Callable[..., Tensor]:
    """The function that computes what has gradients: the distance, or without targets the last map."""

    def used(*arguments: Any) -> Tensor:
        found = compute(*arguments)
        return found.last if found.distance is None else found.distance

    return used


def block_image(
    x: Tensor,
    norm: Norm,
    blocks: Sequence[Block],
    weight: Tensor,
    bias: Tensor | None,
    settings: ConvSettings,
    films: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """The image (N, colours, H', W') that a transposed convolution makes of the last map of blocks.

    Where blocks are not asked for but measured, the layers compute it one by one if that is faster.

    Args:
        x: (N, C, H, W), of a floating dtype: ``norm`` normalises and activates it for the first block.
        blocks: as of ``block_features``.
        weight, bias, settings: of the transposed convolution to the image.
        films: for x and for the output of each block, ``film`` as ``norm_act`` takes it. None if there are none.

    Raises:
        ValueError: as ``norm_act``; or there is another number of films.
    """
    x = x.to(_dtype_of(x))
    films = [None] * (1 + len(blocks)) if films is None else films
    if len(films) != 1 + len(blocks):
        raise ValueError(f"found {len(films)} films; expected {1 + len(blocks)}, for x and for each block")
    check_arguments(x, x.shape[1], *norm[:4], norm.groups, films[0])
    _check(x, blocks, films[1:])
    arguments = x, norm, blocks, weight, bias, settings, films
    if asked_for() == "measure" and not is_faster_as_node("image", _image, image_by_layers, *arguments):
        return image_by_layers(*arguments)
    return _image(*arguments)


def _image(
    x: Tensor,
    norm: Norm,
    blocks: Sequence[Block],
    weight: Tensor,
    bias: Tensor | None,
    settings: ConvSettings,
    films: Sequence[Tensor | None],
) -> Tensor:
    plan = Plan(operators(), _converted(x, blocks), norm, settings, None)
    image, *_ = _apply(plan, x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), films)
    return image


def _check(x: Tensor, blocks: Sequence[Block], films: Sequence[Tensor | None]) -> None:
    for block, film in zip(blocks, films, strict=True):
        channels = block.settings.channels(block.conv_weight)[1]
        check_arguments(x, channels, *block.norm[:4], block.norm.groups, film)


def _converted(x: Tensor, blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks with their weights in x's dtype."""
    return tuple(block._replace(conv_weight=block.conv_weight.to(x.dtype)) for block in blocks)


def _dtype_of(x: Tensor) -> torch.dtype:
    """The dtype of the computation."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _apply(
    plan: Plan, x: Tensor, weight: Tensor | None, bias: Tensor | None, films: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """The node's results. films: of x if ``plan.norm`` is given, and of each block."""
    of_norms = iter(films)
    parameters = [] if plan.norm is None else [plan.norm.weight, plan.norm.bias, next(of_norms)]
    for block, film in zip(plan.blocks, of_norms, strict=True):
        parameters += [block.conv_weight, block.norm.weight, block.norm.bias, film]
    found: tuple[Tensor, ...] = Network.apply(plan, x, weight, bias, *parameters)  # type: ignore[no-untyped-call]
    return found
