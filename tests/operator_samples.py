"""Every operator with arguments: the tests that hold for all of them take their cases from here.

``CALLS``: the public functions, for ``ops/test_every_operator.py`` (equality, compilers, forward mode),
``ops/test_transforms.py`` and ``ops/test_switched_off.py``. ``dispatched``: the dispatcher's operators, for
``ops/test_compile.py`` (PyTorch's own checks, and the same schema in C++ and Triton) and ``ops/triton/test_compile.py``
(every kernel compiles for a GPU). An operator that is missing here fails the last two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHANNELS = 16  # enough for the native convolutions


def film_of(x: Tensor, w: Tensor) -> Tensor:
    """A scale and a shift for each image and channel, (N, 2 · C): some columns of a larger matrix."""
    channels = x.shape[1]
    return (x.mean((2, 3)) @ w[:, :, 0, :3].reshape(channels, -1))[:, : 2 * channels]


#: Each public operator of ``module`` (ops or reference), of x (N, C, H, W), w (C, C, 5, 5) and b (C,).
CALLS: dict[str, Callable[..., Tensor]] = {
    "feature_l1": lambda module, x, w, b, **options: module.feature_l1(
        [x * 2, [x.square()]], [x.flip(0), [b.view(-1, 1, 1) + x]], [1, 2], **options
    ),
    "norm_act": lambda module, x, w, b, **options: module.norm_act(x, b, b.cos(), groups=2, **options),
    "norm_act, eval": lambda module, x, w, b, **options: module.norm_act(
        x, b, b, b.new_zeros(len(b)), b.new_ones(len(b)), training=False, **options
    ),
    "norm_act, film": lambda module, x, w, b, **options: module.norm_act(
        x, b, b.cos(), groups=2, film=film_of(x, w), **options
    ),
    "norm_act, film, eval": lambda module, x, w, b, **options: module.norm_act(
        x, b, b, b.new_zeros(len(b)), b.new_ones(len(b)), training=False, film=film_of(x, w), **options
    ),
    "conv_norm_act": lambda module, x, w, b, **options: module.conv_norm_act(x, w, b, None, **options),
    "conv_norm_act, transposed": lambda module, x, w, b, **options: module.conv_norm_act(
        x, w, b, b, transposed=True, output_padding=1, conv_bias=b, **options
    ),
    "conv_norm_act, eval": lambda module, x, w, b, **options: module.conv_norm_act(
        x, w, b, b, b.new_zeros(len(b)), b.new_ones(len(b)), training=False, **options
    ),
    "conv_norm_act, film": lambda module, x, w, b, **options: module.conv_norm_act(
        x, w, b, None, film=film_of(x, w), **options
    ),
    "conv_norm_act, film, eval": lambda module, x, w, b, **options: module.conv_norm_act(
        x, w, b, b, b.new_zeros(len(b)), b.new_ones(len(b)), training=False, film=film_of(x, w), **options
    ),
}


def tensors(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, channels: int = CHANNELS
) -> tuple[Tensor, Tensor, Tensor]:
    """x (4, C, 8, 8), w and b for ``CALLS``."""
    x, w, b = torch.randn(4, channels, 8, 8), torch.randn(channels, channels, 5, 5) * 0.1, torch.rand(channels) + 0.5
    return x.to(device, dtype), w.to(device, dtype), b.to(device, dtype)


def dispatched(
    device: torch.device, dtype: torch.dtype = torch.float32, channels: int = 6, side: int = 5
) -> dict[str, list[tuple[Any, ...]]]:
    """Arguments for each of the dispatcher's operators: small ones, but of every kind that a kernel is compiled for."""

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype).requires_grad_()

    x, y = (leaf(4, channels, side, side) for _ in range(2))
    weight, bias, film = leaf(channels), leaf(channels), leaf(4, 2 * channels)
    sliced = torch.randn(4, 2 * channels + 3, device=device).to(dtype)[:, 3:].requires_grad_()  # with a row stride
    last = y.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    mean = torch.randn(2, channels, device=device, dtype=sums)
    var = torch.rand(2, channels, device=device, dtype=sums) + 0.5
    mean_sums = torch.randn(3, 2, channels, device=device, dtype=torch.float64)
    mask = torch.randint(0, 255, (160,), dtype=torch.uint8, device=device)
    mask.view(-1, 2, 8)[:, 1] &= ~mask.view(-1, 2, 8)[:, 0]  # no difference is both positive and negative
    kernel, affine = leaf(channels, channels, 3, 3), torch.randn(2, 3, channels, device=device, dtype=sums)
    size = ((side + 1) // 2, (side + 1) // 2)
    small = leaf(4, channels, *size)
    picture, of_picture = leaf(2, 3, 2 * side, 2 * side), leaf(channels, 3, 5, 5)
    drawn = leaf(2, channels, side, side)
    terms = torch.randn(2, 2, channels, device=device, dtype=sums)
    gradient = small, affine, terms
    masks = torch.randint(0, 255, (x.numel() // 4 + 16,), dtype=torch.uint8, device=device)
    distance = masks, torch.ones((), device=device), 0.5
    images = torch.randint(0, 255, (9, 8, 8, 3), dtype=torch.uint8, device=device)
    index, mirrored = torch.tensor([8, 0, 0, 3], device=device), torch.tensor([True, False, True, False], device=device)
    return {
        "feature_l1": [([x, y], [y, last], [1.0, 0.5], True), ([x.detach()], [y.detach()], [1.0], False)],
        "feature_l1_backward": [
            (torch.ones((), device=device, requires_grad=True), mask, [70, 500], [0, 32], [0.1, -2.0], dtype)
        ],
        "norm_act": [
            (x, weight, bias, 1e-5, 0.2, 2),
            (last, None, None, 1e-5, 0.0, 1),
            (x, weight, None, 1e-5, 0.2, 2, film),
            (last, weight, bias, 1e-5, 0.0, 1, sliced),
        ],
        "norm_act_statistics": [(x, 2), (last, 1)],
        "norm_act_inference": [
            (x, weight, bias, mean[0], var[0], 1e-5, 0.2),
            (x, weight, bias, mean, var, 1e-5, 0.2),
            (last, None, bias, mean[0], var[0], 1e-5, 0.2),
            (x, weight, bias, mean[0], var[0], 1e-5, 0.2, sliced),
        ],
        "norm_act_backward": [
            (y, x, weight, bias, mean, var, 1e-5, 0.2, True),
            (y, x, weight, None, mean[:1].clone(), var[:1].clone(), 1e-5, 0.2, False),
            (last, last, weight, None, mean, var, 1e-5, 0.2, True),
            (y, x, weight, bias, mean, var, 1e-5, 0.2, True, film),
            (last, last, weight, None, mean[:1].clone(), var[:1].clone(), 1e-5, 0.0, False, sliced),
        ],
        "norm_act_sums": [
            (y, x, weight, bias, mean, var, 1e-5, 0.2),
            (last, last, weight, None, mean, var, 1e-5, 0.2),
            (y, x, weight, bias, mean, var, 1e-5, 0.2, film),
            (last, last, weight, None, mean, var, 1e-5, 0.0, sliced),
        ],
        "norm_act_gradient": [
            (y, x, weight, bias, mean, var, mean_sums, 1e-5, 0.2),
            (last, last, weight, None, mean, var, mean_sums, 1e-5, 0.2),
            (y, x, weight, bias, mean, var, mean_sums, 1e-5, 0.2, film),
            (last, last, weight, None, mean, var, mean_sums, 1e-5, 0.0, sliced),
        ],
        "norm_act_update": [
            (mean[0].clone(), var[0].clone(), mean, var, 7, 0.1),
            (mean[0].clone(), var[0].clone(), mean, var, None, 0.1),
        ],
        "gather_images": [(images, index, mirrored)],
        "convolution": [
            (x, kernel, bias, size, (2, 2), (1, 1), False, 0.2),
            (last, kernel, None, (2 * side, 2 * side), (2, 2), (1, 1), True, 1.0, affine, 0.2),
        ],
        "convolution_statistics": [
            (x, kernel, size, (2, 2), (1, 1), False, 1),
            (x[:, :3], kernel[:, :3], size, (2, 2), (1, 1), False, 2, affine[:, :, :3], 0.2),
        ],
        "convolution_affine": [(weight, bias, mean, var, 1e-5), (None, None, mean, var, 1e-5)],
        "convolution_weight_gradient": [
            (small, last, (3, 3), (2, 2), (1, 1), False),
            (small, last, (3, 3), (2, 2), (1, 1), False, affine, 0.2),
            (last, small, (3, 3), (2, 2), (1, 1), True, affine, 0.2),
            (small, last, (3, 3), (2, 2), (1, 1), False, affine, 0.2, small, affine, terms),
            (last, small, (3, 3), (2, 2), (1, 1), True, affine, 0.2, last, affine, terms),
        ],
        "convolution_block_gradient": [
            (small, kernel, (side, side), (2, 2), (1, 1), True, *gradient, last, affine, var, 0.2, 1e-5, *distance),
            (small, kernel, (side, side), (2, 2), (1, 1), True, *[None] * 6, 1.0, 0.0, *distance),
            (last, kernel, size, (2, 2), (1, 1), False, *[None] * 3, small, affine, var, 0.2, 1e-5, None, None, 1.0),
        ],
        "convolution_image_block_gradient": [
            (picture[:, :3], of_picture, (side, side), (2, 2), (2, 2), drawn, affine, var, 0.0, 1e-5)
        ],
        "convolution_norm_gradient": [(last, last, weight, mean, var, 1e-5, terms)],
        "feature_l1_raw": [
            ([x, y], [y, last], [affine, None], [affine[:1].clone(), None], [0.2, 1.0], [0.0, 1.0], [1.0, 0.5])
        ],
        "convolution_from_image": [
            (picture, of_picture, bias, (side, side), (2, 2), (2, 2), 0.2),
            (picture, of_picture, None, (side, side), (2, 2), (2, 2), 1.0),
        ],
        "convolution_to_image": [
            (drawn, of_picture, bias[:3], (2 * side, 2 * side), (2, 2), (2, 2), 1.0),
            (drawn, of_picture, None, (2 * side, 2 * side), (2, 2), (2, 2), 1.0, drawn, 0.2),
            (drawn, of_picture, bias[:3], (2 * side, 2 * side), (2, 2), (2, 2), 1.0, None, 0.2, affine),
        ],
        "convolution_image_weight_gradient": [
            (drawn, picture, (5, 5), (2, 2), (2, 2), False),
            (drawn, picture, (5, 5), (2, 2), (2, 2), True, drawn, 0.2),
            (drawn, picture, (5, 5), (2, 2), (2, 2), False, None, 0.2, affine),
        ],
    }
