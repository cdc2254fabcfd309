"""Convolutions from and to an image of few channels by Triton kernels of their own
(``igan_fast.ops.triton.convolution_image``), where ``IGAN_FAST_CONVOLUTION=triton`` asks for Triton's convolutions.

Bias and LeakyReLU are part of the convolution. In the backward pass the gradient of the LeakyReLU's input is computed
where it is read, and never stored."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from igan_fast.ops.convolution.plan import (
    ActivationGradients,
    Convolve,
    Implementation,
    InputGradient,
    Problem,
    WeightGradient,
)
from igan_fast.ops.convolution.settings import InputSpec
from igan_fast.ops.convolution.triton import operators, takes

__all__ = ["MAX_CHANNELS", "TritonImages"]

#: The channels of an image; with more, ``Triton`` computes whole steps of a product.
MAX_CHANNELS = 4


class TritonImages(Implementation):
    """Convolutions from at most ``MAX_CHANNELS`` channels to more, and transposed ones to so few, without groups and
    dilation, where Triton's kernels run."""

    name = "triton, images"
    purpose = "a convolution from or to the channels of an image, in Triton"
    own_kernels = True
    on_demand = True

    def convolve(self, problem: Problem) -> Convolve | None:
        if not _takes(problem):
            return None
        settings = problem.settings
        operator = operators().convolution_to_image if settings.transposed else operators().convolution_from_image
        size = settings.output_size(problem.input_shape, problem.weight_shape)
        geometry = size, settings.stride, settings.padding

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float) -> Tensor:
            y: Tensor = operator(x, weight, bias, *geometry, negative_slope)
            return y

        return run

    def input_gradient(self, problem: Problem) -> InputGradient | None:
        if not _takes(problem):
            return None

        def run(grad: Tensor, weight: Tensor, input_spec: InputSpec) -> Tensor:
            return _input_gradient(problem, grad, weight, input_spec, {})

        return run

    def weight_gradient(self, problem: Problem) -> WeightGradient | None:
        if not _takes(problem):
            return None

        def run(grad: Tensor, x: Tensor) -> Tensor:
            return _weight_gradient(problem, grad, x, False, {})[0]

        return run

    def activation_gradients(self, problem: Problem) -> ActivationGradients | None:
        if not _takes(problem) or problem.settings.transposed:
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
            needs_input, needs_weight, needs_bias = needs
            before: dict[str, Any] = {"signs": signs, "signs_slope": negative_slope}
            dx = dweight = dbias = None
            if needs_input:
                dx = _input_gradient(problem, grad, weight, input_spec, before)
            if x is not None and needs_weight:
                dweight, dbias = _weight_gradient(problem, grad, x, needs_bias, before)
            return dx, dweight, dbias if needs_bias else None

        return run


def _input_gradient(
    problem: Problem, grad: Tensor, weight: Tensor, input_spec: InputSpec, before: dict[str, Any]
) -> Tensor:
    settings, size = problem.settings, list(problem.input_shape[2:])
    if settings.transposed:
        dx: Tensor = operators().convolution_from_image(
            grad, weight, None, size, settings.stride, settings.padding, 1.0
        )
    else:
        dx = operators().convolution_to_image(
            grad, weight, None, size, settings.stride, settings.padding, 1.0, **before
        )
    return dx.contiguous() if input_spec.contiguous else dx


def _weight_gradient(
    problem: Problem, grad: Tensor, x: Tensor, needs_sums: bool, before: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The weight's gradient, and the sums over the gradient, which of a transposed convolution are those of x."""
    settings, kernel = problem.settings, list(problem.weight_shape[2:])
    features, image = (x, grad) if settings.transposed else (grad, x)
    dweight, sums = operators().convolution_image_weight_gradient(
        features, image, kernel, settings.stride, settings.padding, needs_sums, **before
    )
    return dweight, sums


def _takes(problem: Problem) -> bool:
    return (
        len(problem.weight_shape) == 4
        and problem.weight_shape[1] <= MAX_CHANNELS < problem.weight_shape[0]
        and takes(problem)
    )
