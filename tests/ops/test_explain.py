"""``ops.explain`` says what the operators then take, and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operator_counts import operators
from torch import Tensor

from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.ops.convolution import ConvSettings, plan_of
from igan_fast.ops.convolution.choice import IMPLEMENTATIONS
from igan_fast.ops.convolution.plan import Implementation
from igan_fast.ops.convolution.pytorch import PyTorch
from igan_fast.ops.convolution.winograd_costs import MARGIN

needs_extension = pytest.mark.skipif(not backend.has_native_cpu(), reason=ops.backends()["native-cpu"])


def images(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def names(explanation: Any) -> dict[str, str]:
    return {choice.computes: choice.implementation for choice in explanation.choices}


#: x, weight, the settings.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "large": ((8, 32, 32, 32), (32, 32, 3, 3), {"padding": 1}),
    "strided": ((8, 32, 32, 32), (48, 32, 5, 5), {"stride": 2, "padding": 2}),
    "transposed": ((8, 48, 16, 16), (48, 32, 5, 5), {"transposed": True, "stride": 2, "padding": 2}),
    "tiny": ((1, 16, 4, 4), (16, 16, 3, 3), {"padding": 1}),
    "from an image": ((2, 3, 16, 16), (32, 3, 5, 5), {"stride": 2, "padding": 2}),
    "depthwise": ((2, 16, 8, 8), (16, 1, 3, 3), {"padding": 1, "groups": 16}),
    "one dimension": ((2, 16, 32), (16, 16, 3), {"padding": 1}),
    "long sequences": ((4, 64, 2048), (64, 64, 7), {"padding": 9, "dilation": 3}),
}


@needs_extension
@pytest.mark.parametrize("case", CASES)
def test_it_names_what_is_taken(case: str) -> None:
    shape, weight_shape, settings = CASES[case]
    x = images(*shape) if len(shape) == 4 else torch.randn(shape)
    weight = torch.randn(weight_shape)
    found = names(ops.explain(x, weight, **settings))
    plan = plan_of(x, weight, None, ConvSettings(len(shape) - 2, native=True, **settings))
    assert found["output"] == plan.implementation.name
    x.requires_grad_()
    weight.requires_grad_()
    options = {name: value for name, value in settings.items() if name != "groups"}

    def run(_: None, x: Tensor) -> Tensor:
        channels = weight.shape[1] if settings.get("transposed") else weight.shape[0]
        given = {"stride": 1, "padding": 0} | options
        affine = torch.ones(channels), torch.zeros(channels)
        return ops.conv_norm_act(x, weight, *affine, None, None, conv_groups=settings.get("groups", 1), **given)

    counts = operators(None, run, x, backward=True)
    for kind, operator, gradient in (
        ("winograd", "winograd_conv", "winograd_conv_weight_gradient"),
        ("winograd_1d", "winograd_1d_conv", "winograd_1d_weight_gradient"),
    ):
        computed = {name for name, taken in found.items() if taken == kind}
        assert counts[f"igan_fast::{operator}"] == len({"output", "input gradient"} & computed)
        assert counts[f"igan_fast::{gradient}"] == ("weight gradient" in computed)


@needs_extension
def test_it_says_why_minimal_filtering_is_taken_or_not() -> None:
    taken = ops.explain(images(8, 32, 32, 32), torch.randn(32, 32, 3, 3), padding=1)
    assert "minimal filtering; on one core (" in taken.choices[0].why
    assert "by PyTorch's convolution" in taken.choices[0].why
    assert taken.choices[0].not_taken == ()
    small = ops.explain(images(1, 16, 4, 4), torch.randn(16, 16, 3, 3), padding=1)
    assert dict(small.choices[0].not_taken)["winograd"].startswith("only with 4,194,304 or more multiplications")


@needs_extension
def test_it_says_why_minimal_filtering_of_sequences_is_taken_or_not() -> None:
    taken = ops.explain(torch.randn(4, 64, 2048), torch.randn(64, 64, 7), padding=3)
    assert names(taken) == dict.fromkeys(("output", "input gradient", "weight gradient"), "winograd_1d")
    assert "minimal filtering of sequences; on one core (" in taken.choices[0].why
    assert "by PyTorch's convolution" in taken.choices[0].why
    small = ops.explain(torch.randn(1, 512, 8), torch.randn(512, 512, 3), padding=1)
    assert dict(small.choices[0].not_taken)["winograd_1d"].endswith(f"of which {MARGIN:.0%} is the limit")


#: What stands in the way of minimal filtering.
OBSTACLES: dict[str, tuple[Tensor, Tensor, dict[str, Any]]] = {
    "only in float32": (images(2, 16, 8, 8).double(), torch.randn(16, 16, 3, 3).double(), {}),
    "only with two spatial dimensions": (torch.randn(2, 16, 8), torch.randn(16, 16, 3), {}),
    "only without groups and dilation": (images(2, 32, 8, 8), torch.randn(32, 16, 3, 3), {"groups": 2}),
    "only with the same kernel size": (images(2, 16, 8, 8), torch.randn(16, 16, 3, 5), {}),
    "only with the kernels 5×5 of stride 2": (images(2, 16, 8, 8), torch.randn(16, 16, 7, 7), {}),
    "only with a padding below the kernel size": (images(2, 16, 8, 8), torch.randn(16, 16, 3, 3), {"padding": 3}),
    "only with 16 or more channels on both sides": (images(2, 3, 8, 8), torch.randn(16, 3, 3, 3), {}),
}


#: The same for sequences.
OBSTACLES_1D: dict[str, tuple[Tensor, Tensor, dict[str, Any]]] = {
    "only in float32": (torch.randn(2, 16, 8).double(), torch.randn(16, 16, 3).double(), {}),
    "only with more than one tap in exactly one dimension": (torch.randn(2, 16, 8), torch.randn(16, 16, 1), {}),
    "only with either a stride or a dilation": (
        torch.randn(2, 16, 8),
        torch.randn(16, 16, 3),
        {"stride": 2, "dilation": 2},
    ),
    "only with a padding of the dimension": (torch.randn(2, 16, 8, 8), torch.randn(16, 16, 3, 1), {"padding": (1, 1)}),
    "only where the taps' dimension is the first": (torch.randn(2, 16, 8, 8), torch.randn(16, 16, 1, 3), {}),
    "only with a contiguous input": (images(2, 16, 8, 8), torch.randn(16, 16, 3, 1), {}),
    "only with 8 or more channels on both sides of a group": (torch.randn(2, 7, 8), torch.randn(16, 7, 3), {}),
    "only with 4,194,304 or more multiplications": (torch.randn(2, 16, 8), torch.randn(16, 16, 3), {}),
}


@needs_extension
@pytest.mark.parametrize("reason", OBSTACLES_1D)
def test_it_names_the_condition_of_sequences_that_is_not_met(reason: str) -> None:
    x, weight, settings = OBSTACLES_1D[reason]
    for choice in ops.explain(x, weight, **settings).choices:
        assert choice.implementation != "winograd_1d"
        assert dict(choice.not_taken)["winograd_1d"].startswith(reason)


@needs_extension
@pytest.mark.parametrize("reason", OBSTACLES)
def test_it_names_the_condition_that_is_not_met(reason: str) -> None:
    x, weight, settings = OBSTACLES[reason]
    explained = ops.explain(x, weight, **settings)
    for choice in explained.choices:
        assert choice.implementation != "winograd"
        assert dict(choice.not_taken)["winograd"].startswith(reason)


@needs_extension
def test_a_bias_and_an_activation_change_the_choice() -> None:
    x, weight, bias = images(2, 3, 16, 16), torch.randn(32, 3, 5, 5), torch.randn(32)
    assert names(ops.explain(x, weight, stride=2, padding=2))["output"] != "onednn"
    plan = plan_of(x, weight, bias, ConvSettings(2, stride=2, padding=2, native=True), 0.2)
    explained = ops.explain(x, weight, bias, stride=2, padding=2, negative_slope=0.2)
    assert names(explained)["output"] == plan.implementation.name


def test_the_text_is_a_line_for_each_computation_and_each_that_was_not_taken() -> None:
    explained = ops.explain(torch.randn(2, 3, 8, 8), torch.randn(16, 3, 3, 3), padding=1)
    lines = str(explained).splitlines()
    assert lines[0] == (
        "convolution of x (2, 3, 8, 8), float32 on cpu, with weight (16, 3, 3, 3): stride 1, padding 1, dilation 1, "
        "groups 1"
    )
    assert len(lines) == 4 + sum(len(choice.not_taken) for choice in explained.choices)
    for choice in explained.choices:
        assert f"  {choice.computes}: {choice.implementation} ({choice.why})" in lines
        assert all(f"    not {name}: {why}" in lines for name, why in choice.not_taken)


@pytest.mark.parametrize(
    ("x", "weight", "settings", "message"),
    [
        ((2, 3), (16, 3), {}, "x has shape .2, 3., weight .16, 3.; expected 3 to 5 dimensions"),
        ((2, 3, 8, 8), (16, 3, 3), {}, "expected 3 to 5 dimensions, both"),
        ((2, 4, 8, 8), (16, 3, 3, 3), {}, "x has 4 channels; expected 3"),
        ((2, 3, 2, 2), (16, 3, 3, 3), {}, "has no output"),
        ((2, 3, 8, 8), (16, 3, 3, 3), {"stride": (1, 2, 3)}, "stride"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    x: tuple[int, ...], weight: tuple[int, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ops.explain(torch.randn(x), torch.randn(weight), **settings)


def test_tensors_that_need_pytorch_say_so() -> None:
    class Marked(torch.Tensor):
        pass

    x = torch.randn(8, 32, 32, 32).as_subclass(Marked)
    explained = ops.explain(x, torch.randn(32, 32, 3, 3), padding=1)
    assert set(names(explained).values()) == {"pytorch"}
    assert "need PyTorch's own functions" in explained.choices[0].why


def test_every_implementation_says_what_it_computes() -> None:
    for implementation in (*IMPLEMENTATIONS, PyTorch()):
        assert isinstance(implementation, Implementation)
        assert len(implementation.purpose) > 10
        assert set(implementation.devices) <= {"cpu", "cuda"}
