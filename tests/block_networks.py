"""Networks of blocks for the tests, by this package's operators and by the reference's and their autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from convolution_cases import Case
from oracles import HALF, assert_as_good
from torch import Tensor

from igan_fast.ops.blocks import Block, Norm, RawMap, block_features, block_image
from igan_fast.ops.convolution import ConvSettings
from igan_fast.reference import ops as reference

__all__ = [
    "EPS",
    "MOMENTUM",
    "ImageNetwork",
    "Layer",
    "Results",
    "assert_all_as_good",
    "away_from_kinks",
    "compare",
    "seeds",
    "three_blocks",
]

EPS, MOMENTUM = 1e-5, 0.1
PARAMETERS = ("weight", "gamma", "beta", "mean", "var")


class Compared(NamedTuple):
    """Results of one input: of the operators and of the reference in one dtype, and of the reference in float64."""

    found: list[Tensor]
    plain: list[Tensor]
    exact: list[Tensor]


def seeds(dtype: torch.dtype) -> Sequence[int]:
    """Of the inputs with which an operator is compared in this dtype."""
    return range(3) if dtype in HALF else range(1)


def away_from_kinks(shift: Tensor) -> Tensor:
    """The shift of a normalisation, so far from 0 that all numbers of a channel have one sign; every second channel's
    is negative. In half types a number near 0 may be rounded to the other side of a LeakyReLU's kink, and by chance one
    such number makes a gradient several times as wrong as plain PyTorch's."""
    return 8 * (1 - 2 * (torch.arange(len(shift), device=shift.device) % 2)).to(shift.dtype)


def assert_all_as_good(compared: Sequence[Compared], dtype: torch.dtype) -> None:
    """The rule of equality (``assert_as_good``), with the largest errors of all these inputs."""
    assert_as_good(
        *([torch.stack(each) for each in zip(*results, strict=True)] for results in zip(*compared, strict=True)), dtype
    )


class Layer:
    """A block's convolution, and its parameters and statistics in float64."""

    def __init__(self, ends: tuple[int, int], kernel: Sequence[int], transposed: bool = False, **settings: Any) -> None:
        self.arguments = {"transposed": transposed, "stride": 1, "padding": 0} | settings
        shape = ends if transposed else ends[::-1]
        self.weight = torch.randn(*shape, *kernel).double() * 0.3
        self.gamma, self.beta = torch.rand(ends[1]).double() + 0.5, torch.randn(ends[1]).double()
        self.mean, self.var = torch.randn(ends[1]).double(), torch.rand(ends[1]).double()

    @property
    def settings(self) -> ConvSettings:
        return ConvSettings.cached(2, **self.arguments)

    def away_from_kinks(self) -> Layer:
        """The layer itself, with another shift."""
        self.beta = away_from_kinks(self.beta)
        return self

    def round(self, dtype: torch.dtype) -> None:
        """Round the numbers to a dtype."""
        for name in PARAMETERS:
            setattr(self, name, getattr(self, name).to(dtype).double())


def three_blocks(case: Case, transposed: bool) -> list[Layer]:
    """Three blocks, of which the second is the case: another one is before it, and after it."""
    options = {"stride": case.stride, "padding": case.padding} | ({"output_padding": case.extra} if transposed else {})
    return [
        Layer((2, case.channels), (1, 1)),
        Layer((case.channels, case.out), case.kernel, transposed, **options),
        Layer((case.out, 3), (3, 3), padding=1),  # of one tap and one channel, the weight's gradient would be 0
    ]


class Results:
    """A network's result, its distance to the targets, running statistics and gradients, in one dtype."""

    def __init__(self, dtype: torch.dtype, x: Tensor, layers: list[Layer], frozen: Sequence[int] = ()) -> None:
        self.x = x.to(dtype, copy=True).requires_grad_()
        self.layers = layers
        self.parameters = [
            [t.to(dtype, copy=True).requires_grad_(i not in frozen) for t in (layer.weight, layer.gamma, layer.beta)]
            for i, layer in enumerate(layers)
        ]
        self.running = [[t.to(dtype, copy=True) for t in (layer.mean, layer.var)] for layer in layers]

    @property
    def leaves(self) -> list[Tensor]:
        return [self.x, *(t for each in self.parameters for t in each if t.requires_grad)]

    def blocks(self, slope: float, groups: int) -> list[Block]:
        return [
            Block(layer.settings, weight, Norm(gamma, beta, *running, MOMENTUM, EPS, slope, groups))
            for layer, (weight, gamma, beta), running in zip(self.layers, self.parameters, self.running, strict=True)
        ]

    def of_reference(self, slope: float, groups: int, targets: Sequence[Tensor] | None, up: Tensor) -> list[Tensor]:
        maps = [self.x]
        for layer, (weight, *norm), running in zip(self.layers, self.parameters, self.running, strict=True):
            options = layer.arguments | {"negative_slope": slope, "groups": groups, "eps": EPS, "momentum": MOMENTUM}
            maps.append(reference.conv_norm_act(maps[-1], weight, *norm, *running, **options))
        distance = None
        if targets is not None:
            distance = reference.feature_l1(maps, [target.to(self.x.dtype) for target in targets])
        return self._with_gradients(maps[-1], distance, up)

    def of_blocks(self, slope: float, groups: int, targets: Sequence[Tensor] | None, up: Tensor) -> list[Tensor]:
        given = None if targets is None else [RawMap(target.to(self.x.dtype)) for target in targets]
        found = block_features(self.x, self.blocks(slope, groups), given)
        return self._with_gradients(found.last, found.distance, up)

    def _with_gradients(self, last: Tensor, distance: Tensor | None, up: Tensor) -> list[Tensor]:
        loss = (last * up.to(last.dtype)).sum()
        values = [last.detach(), *(t for each in self.running for t in each)]
        if distance is not None:
            loss, values = loss + 7 * distance, [*values, distance.detach()]
        return [*values, *torch.autograd.grad(loss, self.leaves)]


def compare(
    layers: list[Layer],
    x: Tensor,
    *,
    slope: float = 0.2,
    groups: int = 1,
    dtype: torch.dtype = torch.float32,
    distance: bool = True,
    frozen: Sequence[int] = (),
) -> Compared:
    """``block_features`` and the reference, with the same numbers for each dtype: what they compute differs only by its
    own rounding."""
    x = x.to(dtype).double()
    for layer in layers:
        layer.round(dtype)
    shape, targets = x.shape, [torch.randn(x.shape).to(dtype)]
    for layer in layers:
        size = layer.settings.output_size(shape, layer.weight.shape)
        shape = torch.Size((shape[0], len(layer.gamma), *size))
        targets.append(torch.randn(shape).to(dtype))
    arguments = slope, groups, targets if distance else None, torch.randn(shape).to(dtype)
    return Compared(
        Results(dtype, x, layers, frozen).of_blocks(*arguments),
        Results(dtype, x, layers, frozen).of_reference(*arguments),
        Results(torch.float64, x, layers, frozen).of_reference(*arguments),
    )


class ImageNetwork:
    """Blocks, the normalisation before them, and a transposed convolution to an image. With ``films``, all maps but the
    second one have a scale and a shift of each image and channel."""

    def __init__(
        self, layers: list[Layer], shape: Sequence[int], kernel: Sequence[int], films: bool, **options: Any
    ) -> None:
        self.layers, self.options, channels = layers, options, shape[1]
        self.head = [torch.randn(channels), torch.rand(channels), torch.randn(channels), torch.rand(channels)]
        self.x, self.weight, self.bias = torch.randn(shape), torch.randn(kernel) * 0.2, torch.randn(kernel[1])
        widths = [channels, *(len(layer.gamma) for layer in layers)] if films else []
        self.films = [None if i == 1 else torch.randn(shape[0], 2 * width) for i, width in enumerate(widths)]

    def run(self, dtype: torch.dtype, slope: float, groups: int, *, ours: bool) -> list[Tensor]:
        """The image, the running statistics and the gradients."""
        results = Results(dtype, self.x, self.layers)
        own = [t.to(dtype, copy=True) for t in self.head]
        kernel, shift = (t.to(dtype, copy=True).requires_grad_() for t in (self.weight, self.bias))
        gamma, beta = (t.requires_grad_() for t in own[:2])
        films = [None if t is None else t.to(dtype, copy=True).requires_grad_() for t in self.films]
        if ours:
            settings = ConvSettings.cached(2, transposed=True, **self.options)
            norm = Norm(gamma, beta, *own[2:], MOMENTUM, EPS, slope, groups)
            blocks = results.blocks(slope, groups)
            image = block_image(results.x, norm, blocks, kernel, shift, settings, films or None)
        else:
            left = iter(films or [None] * (1 + len(self.layers)))
            h = reference.norm_act(
                results.x, gamma, beta, *own[2:], negative_slope=slope, groups=groups, film=next(left)
            )
            for layer, (w, *of_norm), running in zip(self.layers, results.parameters, results.running, strict=True):
                settings = layer.arguments | {"negative_slope": slope, "groups": groups, "film": next(left)}
                h = reference.conv_norm_act(h, w, *of_norm, *running, **settings)
            options = {"padding": 0, "output_padding": 0} | self.options
            image = F.conv_transpose2d(h, kernel, shift, **options)
        torch.manual_seed(1)
        up = torch.randn(image.shape).to(dtype)
        leaves = [*results.leaves, gamma, beta, kernel, shift, *(t for t in films if t is not None)]
        gradients = torch.autograd.grad(image, leaves, up)
        return [image.detach(), *own[2:], *(t for each in results.running for t in each), *gradients]

    def away_from_kinks(self) -> None:
        """Take other shifts, as of the function."""
        self.head[1] = away_from_kinks(self.head[1])
        for layer in self.layers:
            layer.away_from_kinks()

    def compare(self, slope: float, groups: int, dtype: torch.dtype) -> Compared:
        """``block_image`` and the reference, as of the function ``compare``."""
        for name in ("x", "weight", "bias"):
            setattr(self, name, getattr(self, name).to(dtype).double())
        for layer in self.layers:
            layer.round(dtype)
        self.head = [t.to(dtype).double() for t in self.head]
        self.films = [None if t is None else t.to(dtype).double() for t in self.films]
        arguments = slope, groups
        return Compared(
            self.run(dtype, *arguments, ours=True),
            self.run(dtype, *arguments, ours=False),
            self.run(torch.float64, *arguments, ours=False),
        )
