"""Convolutions by this package's Triton kernels (``igan_fast.ops.triton.convolution``), only where they are asked for.

The environment variable ``IGAN_FAST_CONVOLUTION=triton`` asks for them, and ``measure`` where they are faster
(``measured``), blocks included. With ``blocks`` the training step computes whole blocks by them
(``igan_fast.ops.blocks``), and other convolutions as with ``triton``. ``choice.asking_for`` asks for them without the
variable. They are not chosen otherwise: on an H100, cuDNN's were faster for all layers with many channels
(docs/pages/gpu.md)."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.convolution.plan import Convolve, Implementation, InputGradient, Problem, WeightGradient
from igan_fast.ops.convolution.settings import InputSpec

__all__ = ["ALWAYS", "CHOICES", "MOST_POSITIONS", "Triton", "ask_for", "asked_for", "operators", "takes"]

#: The values of the environment variable: the fastest of the other implementations, this one, the faster of the two, or
#: this one and blocks.
CHOICES = ("auto", "triton", "measure", "blocks")

#: Those for which this implementation computes all convolutions that it can.
ALWAYS = ("triton", "blocks")

#: The kernels number the positions of all images, of the input or the output, in 32 bits.
MOST_POSITIONS = 2**30

#: What is asked for in this process. It is checked at the first use, so that a wrong value does not break imports.
_CHOICE = os.environ.get("IGAN_FAST_CONVOLUTION") or "auto"


def asked_for() -> str:
    """What is asked for, one of ``CHOICES``: by the environment variable, or inside of ``choice.asking_for``.

    Raises:
        ValueError: the variable's value is unknown.
    """
    if _CHOICE not in CHOICES:
        raise ValueError(
            f"the environment variable IGAN_FAST_CONVOLUTION is {_CHOICE!r}; expected one of {', '.join(CHOICES)}"
        )
    return _CHOICE


def ask_for(choice: str) -> str:
    """Ask for one of ``CHOICES`` in this process, and return what was asked for before. Call ``choice.asking_for``
    instead, which forgets the choices that were made before.

    Raises:
        ValueError: it is none of them.
    """
    global _CHOICE
    if choice not in CHOICES:
        raise ValueError(f"choice is {choice!r}; expected one of {', '.join(CHOICES)}")
    before, _CHOICE = _CHOICE, choice
    return before


class Triton(Implementation):
    """Convolutions and transposed convolutions of images without groups and dilation, where Triton's kernels run."""

    name = "triton"
    purpose = "a convolution of images without groups and dilation, in Triton"
    own_kernels = True
    on_demand = True

    def convolve(self, problem: Problem) -> Convolve | None:
        if not takes(problem):
            return None
        settings = problem.settings
        size = settings.output_size(problem.input_shape, problem.weight_shape)
        geometry = size, settings.stride, settings.padding, settings.transposed

        def run(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float) -> Tensor:
            y: Tensor = operators().convolution(x, weight, bias, *geometry, negative_slope)
            return y

        return run

    def input_gradient(self, problem: Problem) -> InputGradient | None:
        if not takes(problem):
            return None
        settings = problem.settings
        geometry = list(problem.input_shape[2:]), settings.stride, settings.padding, not settings.transposed

        def run(grad: Tensor, weight: Tensor, input_spec: InputSpec) -> Tensor:
            dx: Tensor = operators().convolution(grad, weight, None, *geometry, 1.0)
            return dx.contiguous() if input_spec.contiguous else dx

        return run

    def weight_gradient(self, problem: Problem) -> WeightGradient | None:
        if not takes(problem):
            return None
        settings = problem.settings
        geometry = list(problem.weight_shape[2:]), settings.stride, settings.padding, settings.transposed

        def run(grad: Tensor, x: Tensor) -> Tensor:
            dweight: Tensor = operators().convolution_weight_gradient(grad, x, *geometry)
            return dweight

        return run


def takes(problem: Problem) -> bool:
    """Whether Triton's convolutions are asked for, and can solve the problem."""
    settings = problem.settings
    if not (
        problem.triton
        and problem.input_dtype == problem.weight_dtype
        and len(problem.input_shape) == len(problem.weight_shape) == 4
        and settings.groups == 1
        and list(settings.dilation) == [1, 1]
    ):
        return False
    sizes = problem.input_shape[2:], settings.output_size(problem.input_shape, problem.weight_shape)
    if any(problem.input_shape[0] * math.prod(size) > MOST_POSITIONS for size in sizes):
        return False
    try:
        return backend.namespace("triton", torch.device(problem.device), (problem.input_dtype,)) == backend.TRITON
    except RuntimeError:  # there is no Triton, or it does not run on this device
        return False


def operators() -> Any:
    """The dispatcher's operators in Triton."""
    return getattr(torch.ops, backend.TRITON)
