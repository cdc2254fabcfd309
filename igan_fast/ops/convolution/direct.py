"""Convolutions from and to few channels by direct sums, on the CPU in float32. The kernels are in csrc/cpu/direct.

The first convolution of a discriminator reads an image of three colours, and the last one of a generator writes it. In
a row of the image, the values under a position's window are one contiguous run: 5 · 3 values for a 5×5 kernel. The
kernels therefore multiply them where they are, with the features' channels or with the values of the window as the
columns of a matrix product. PyTorch's convolutions lay them out anew or compute with padded channels, above all in the
transposed convolution to few channels. LeakyReLU's gradient is applied while the rows of the features are read, and the
bias's gradient is summed beside the weight's.

Each computation has an image, with at most ``MAX_CHANNELS`` channels, and features, with any number. A convolution goes
from the image to the features, and a transposed convolution from the features to the image; each is the input gradient
of the other. A convolution of stride 1 to few channels, such as the last one of many generators, is a transposed
convolution whose weight is turned by 180 degrees.

The zeros of the padding are multiplied too. So an infinite or NaN weight reaches the outputs at the edge that only its
products with these zeros belong to, and an infinite or NaN gradient at the edge reaches the weight gradient likewise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.convolution.plan import (
    ActivationGradients,
    Convolve,
    Implementation,
    InputGradient,
    Problem,
    WeightGradient,
)
from igan_fast.ops.convolution.settings import ConvSettings, InputSpec
from igan_fast.ops.layout import no_view, rows_of_channels

__all__ = ["MAX_CHANNELS", "Direct"]

#: The number of channels of an image up to which it is faster.
MAX_CHANNELS = 4

#: The number of channels of the features from which on it is faster: fewer leave lanes of a vector idle (measured).
MIN_FEATURES = 8

#: The number of multiplications from which on it is faster: with fewer, the calls cost more than the sums (measured).
MIN_PRODUCTS = 1 << 19

#: The number of weights up to which the convolution from an image is faster. It reads all of them for every few
#: positions, and more do not fit into the caches (measured).
MAX_WEIGHTS = 1 << 18

#: The height of a kernel up to which the C++ extension has kernels.
MAX_KERNEL = 16


class _Call(NamedTuple):
    """A problem as the operators take it.

    Attributes:
        to_image: whether the convolution's output is the image, and not its input.
        turned: whether it is a convolution to an image, whose weight has to be turned.
        image_size, features_size: height and width.
        kernel, stride, padding: of the convolution from the image to the features.
    """

    to_image: bool
    turned: bool
    image_size: Sequence[int]
    features_size: Sequence[int]
    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]


class Direct(Implementation):
    """Convolutions from at most ``MAX_CHANNELS`` channels, transposed ones and those of stride 1 to so few, and the
    gradients of all.

    Features are channels_last, images have the memory format of the input, and so has its gradient. For contiguous
    inputs it computes images, which gain most, and no features: to copy them into the other memory format costs more
    than is gained.
    """

    name = "direct"
    purpose = f"a large float32 convolution from or to at most {MAX_CHANNELS} channels, by direct sums"
    devices = ("cpu",)
    own_kernels = True

    def convolve(self, problem: Problem) -> Convolve | None:
        call = _call_of(problem)
        if call is None or not (call.to_image or _may_compute_features(problem)):
            return None

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float) -> Tensor:
            shift = None if bias is None else bias.detach().contiguous()
            if call.to_image:
                return _to_image(x, None, 1.0, weight, shift, negative_slope, call, problem.input_contiguous)
            return _from_image(x, weight, shift, negative_slope, call)

        return run

    def input_gradient(self, problem: Problem) -> InputGradient | None:
        call = _call_of(problem)
        if call is None or (call.to_image and not _may_compute_features(problem)):
            return None

        def run(grad: Tensor, weight: Tensor, input_spec: InputSpec) -> Tensor:
            if call.to_image:
                return _from_image(grad, weight, None, 1.0, call)
            return _to_image(grad, None, 1.0, weight, None, 1.0, call, input_spec.contiguous)

        return run

    def weight_gradient(self, problem: Problem) -> WeightGradient | None:
        call = _call_of(problem)
        if call is None or (problem.input_contiguous and not call.turned):
            return None

        def run(grad: Tensor, x: Tensor) -> Tensor:
            image, features = (grad, x) if call.to_image else (x, grad)
            dweight = _weight_gradient(image, features, None, 1.0, call)[0]
            # A clone, because a weight of one channel counts as contiguous with other strides too.
            return _turned(dweight).clone(memory_format=torch.contiguous_format) if call.turned else dweight

        return run

    def activation_gradients(self, problem: Problem) -> ActivationGradients | None:
        call = _call_of(problem)
        if call is None or call.to_image or problem.input_contiguous:
            return None

        def run(
            grad: Tensor,
            signs: Tensor,
            negative_slope: float,
            x: Tensor | None,
            weight: Tensor,
            input_spec: InputSpec,
            needs: tuple[bool, bool, bool],
        ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
            dx = dweight = dbias = None
            if needs[0]:
                dx = _to_image(grad, signs, negative_slope, weight, None, 1.0, call, input_spec.contiguous)
            if needs[1] and x is not None:
                dweight, dbias = _weight_gradient(x, grad, signs, negative_slope, call)
            return dx, dweight, dbias if needs[2] else None

        return run


def _may_compute_features(problem: Problem) -> bool:
    return not problem.input_contiguous and problem.weight_shape.numel() <= MAX_WEIGHTS


def _call_of(problem: Problem) -> _Call | None:
    """The call of the kernels; None if they do not support the problem, or are not faster than PyTorch's."""
    settings, weight_shape = problem.settings, problem.weight_shape
    if not (
        problem.native
        and problem.device == "cpu"
        and problem.input_dtype == problem.weight_dtype == torch.float32
        and len(problem.input_shape) == len(weight_shape) == 4
        and settings.groups == 1
        and settings.dilation == [1, 1]
        and weight_shape[2] <= MAX_KERNEL
        and min(settings.padding) >= 0
        and all(0 <= extra < stride for extra, stride in zip(settings.output_padding, settings.stride, strict=True))
        and problem.input_shape[1] == weight_shape[0 if settings.transposed else 1]
    ):
        return None
    turned = not settings.transposed and weight_shape[1] > MAX_CHANNELS
    features, colours = reversed(weight_shape[:2]) if turned else weight_shape[:2]
    output_size = settings.output_size(problem.input_shape, weight_shape)
    if (
        colours > MAX_CHANNELS
        or features < MIN_FEATURES
        or min(*problem.input_shape, *weight_shape, *output_size) < 1
        or (turned and not _can_be_turned(settings, weight_shape))
    ):
        return None
    to_image, kernel = turned or settings.transposed, list(weight_shape[2:])
    sizes = [list(problem.input_shape[2:]), output_size]
    image_size, features_size = reversed(sizes) if to_image else sizes
    if problem.input_shape[0] * math.prod(features_size) * weight_shape.numel() < MIN_PRODUCTS:
        return None
    padding = settings.padding
    if turned:
        padding = [side - 1 - p for side, p in zip(kernel, padding, strict=True)]
    return _Call(to_image, turned, image_size, features_size, kernel, settings.stride, padding)


def _can_be_turned(settings: ConvSettings, weight_shape: Sequence[int]) -> bool:
    """Whether the convolution is a transposed one with the turned weight. For a kernel of one value, PyTorch's matrix
    product is faster (measured)."""
    kernel = weight_shape[2:]
    return (
        settings.stride == [1, 1]
        and all(padding < side for padding, side in zip(settings.padding, kernel, strict=True))
        and math.prod(kernel) > 1
    )


def _turned(weight: Tensor) -> Tensor:
    """The weight of the transposed convolution that equals a convolution of stride 1, or the reverse."""
    return weight.detach().transpose(0, 1).flip(2, 3)


def _from_image(image: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float, call: _Call) -> Tensor:
    """LeakyReLU(convolution + bias) of an image of any strides."""
    y: Tensor = torch.ops.igan_fast.direct_conv(
        image.detach().permute(0, 2, 3, 1),
        _turned(weight) if call.turned else weight.detach(),
        call.features_size,
        call.stride,
        call.padding,
        bias,
        negative_slope,
    )
    return no_view(y.permute(0, 3, 1, 2))


def _to_image(
    features: Tensor,
    signs: Tensor | None,
    signs_slope: float,
    weight: Tensor,
    bias: Tensor | None,
    negative_slope: float,
    call: _Call,
    contiguous: bool,
) -> Tensor:
    """LeakyReLU(transposed convolution + bias), contiguous or channels_last. With ``signs``, that of the gradient of
    another LeakyReLU's input, of which ``features`` is the gradient of the output."""
    y: Tensor = torch.ops.igan_fast.direct_conv_transposed(
        rows_of_channels(features),
        None if signs is None else rows_of_channels(signs),
        signs_slope,
        _turned(weight) if call.turned else weight.detach(),
        call.image_size,
        call.stride,
        call.padding,
        bias,
        negative_slope,
    )
    y = y.permute(0, 3, 1, 2)
    # A clone, because an image of one channel counts as contiguous with other strides too.
    return y.clone(memory_format=torch.contiguous_format) if contiguous else no_view(y)


def _weight_gradient(
    image: Tensor, features: Tensor, signs: Tensor | None, signs_slope: float, call: _Call
) -> tuple[Tensor, Tensor]:
    """The gradients of the weight and of the bias. With ``signs``, those from the gradient of a LeakyReLU's output."""
    dweight, dbias = torch.ops.igan_fast.direct_conv_gradients(
        image.detach().permute(0, 2, 3, 1),
        rows_of_channels(features),
        None if signs is None else rows_of_channels(signs),
        signs_slope,
        call.kernel,
        call.stride,
        call.padding,
    )
    return dweight, dbias


def register(namespace: str) -> None:
    """Register the fake implementations of the operators, which only the native namespace has."""
    if namespace != backend.NATIVE:
        return

    def convolved(image: Tensor, weight: Tensor, size: Sequence[int], *_: Any) -> Tensor:
        return image.new_empty((image.shape[0], *size, weight.shape[0]))

    def transposed(
        features: Tensor, signs: Tensor | None, signs_slope: float, weight: Tensor, size: Sequence[int], *_: Any
    ) -> Tensor:
        return features.new_empty((features.shape[0], *size, weight.shape[1]))

    def gradients(
        image: Tensor, features: Tensor, signs: Tensor | None, signs_slope: float, kernel: Sequence[int], *_: Any
    ) -> tuple[Tensor, Tensor]:
        return features.new_empty((features.shape[3], image.shape[3], *kernel)), features.new_empty(features.shape[3])

    torch.library.register_fake(f"{namespace}::direct_conv")(convolved)
    torch.library.register_fake(f"{namespace}::direct_conv_transposed")(transposed)
    torch.library.register_fake(f"{namespace}::direct_conv_gradients")(gradients)


backend.on_load(register)
