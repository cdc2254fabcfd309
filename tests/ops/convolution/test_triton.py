"""Triton's convolutions behind the operators, where they are asked for, and only there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from operator_samples import dispatched
from oracles import error
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

pytest.importorskip("triton", reason="Triton is not installed")

from igan_fast.ops import backend, conv_norm_act
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.convolution import ConvSettings, choice, plan_of, pytorch, triton
from igan_fast.ops.triton import common
from igan_fast.reference import ops as reference

if not common.INTERPRETED:
    pytest.skip("Triton's kernels are compiled here", allow_module_level=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_CHOICE", "triton")
    import triton_interpreter

    triton_interpreter.speed_up()


def given(transposed: bool = False, **settings: int) -> tuple[Tensor, Tensor, ConvSettings]:
    x, weight = torch.randn(2, 4, 6, 5), torch.randn(4, 4 // settings.get("groups", 1), 5, 5)
    return x, weight, ConvSettings(2, transposed=transposed, **{"stride": 2, "padding": 2} | settings)


def test_it_is_not_chosen_unasked() -> None:
    assert triton._CHOICE == "auto"
    for transposed in (False, True):
        x, weight, settings = given(transposed)
        plan = plan_of(x, weight, None, settings)
        assert plan.implementation.name != "triton"


@pytest.mark.parametrize("transposed", [False, True])
def test_it_is_chosen_where_it_is_asked_for(asked: None, transposed: bool) -> None:
    x, weight, settings = given(transposed)
    plan = plan_of(x, weight, None, settings)
    assert plan.implementation.name == "triton"
    assert plan.implementation.own_kernels
    bias = torch.randn(4)
    z = pytorch.convolve(settings, x.double(), weight.double(), bias.double())
    assert error(plan.run(x, weight, bias, 0.2), F.leaky_relu(z, 0.2)) < 1e-5


@pytest.mark.parametrize("changes", [{"groups": 2}, {"dilation": 2, "padding": 4}])
def test_what_it_cannot_compute_is_left_to_others(asked: None, changes: dict[str, int]) -> None:
    x, weight, settings = given(**changes)
    assert plan_of(x, weight, None, settings).implementation.name != "triton"


def test_other_dimensions_and_what_autograd_records_are_left_to_others(asked: None) -> None:
    x, weight, settings = given()
    assert plan_of(x, weight, None, settings, differentiable=True).implementation.name != "triton"
    line = ConvSettings(1, stride=2)
    assert plan_of(x[..., 0], weight[..., 0], None, line).implementation.name != "triton"


def test_too_many_positions_are_left_to_others(asked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, settings = given()
    for most, name in ((2 * 6 * 5, "triton"), (2 * 6 * 5 - 1, "other")):
        monkeypatch.setattr(triton, "MOST_POSITIONS", most)
        choice._kept.cache_clear()
        assert (plan_of(x, weight, None, settings).implementation.name == "triton") == (name == "triton")
    choice._kept.cache_clear()


def test_without_triton_others_are_chosen(asked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_triton_reason_for", lambda device: "there is none")
    choice._kept.cache_clear()
    x, weight, settings = given()
    assert plan_of(x, weight, None, settings).implementation.name != "triton"
    choice._kept.cache_clear()


def test_an_unknown_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_CHOICE", "cudnn")
    with pytest.raises(ValueError, match="'cudnn'; expected one of auto, triton, measure, blocks"):
        plan_of(*given()[:2], None, given()[2])


def test_it_is_chosen_with_blocks_too(asked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions that are no part of a network of blocks, such as those of evaluation."""
    monkeypatch.setattr(triton, "_CHOICE", "blocks")
    assert plan_of(*given()[:2], None, given()[2]).implementation.name == "triton"


SAMPLES = {
    name: calls
    for name, calls in dispatched(torch.device("cpu")).items()
    if name.startswith("convolution") or name == "feature_l1_raw"
}


@pytest.mark.parametrize("name", SAMPLES)
def test_tensors_without_data_have_the_same_shapes(name: str) -> None:
    assert name in common.OPERATORS
    operator, mode = getattr(torch.ops.igan_fast_triton, name), FakeTensorMode()

    def described(results: object) -> list[tuple[object, ...]]:
        return [(t.shape, t.stride(), t.dtype) for t in tree_leaves(results)]

    for arguments in SAMPLES[name]:
        with torch.no_grad():
            real = operator(*arguments)
            fakes = tree_map_only(Tensor, mode.from_tensor, arguments)
            with mode:
                fake = operator(*fakes)
        assert described(real) == described(fake)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_block_and_its_gradients(
    asked: None, monkeypatch: pytest.MonkeyPatch, transposed: bool, layout: torch.memory_format, frozen: bool
) -> None:
    """The block is one autograd node; no convolution of it is PyTorch's."""
    x = torch.randn(4, 3, 9, 7).contiguous(memory_format=layout).requires_grad_()
    ends = (3, 5) if transposed else (5, 3)
    weight = torch.randn(*ends, 5, 5).requires_grad_(not frozen)
    gamma, beta = torch.rand(5).requires_grad_(), torch.randn(5).requires_grad_()
    options = {"transposed": transposed, "output_padding": int(transposed)}
    wanted = [t for t in (x, weight, gamma, beta) if t.requires_grad]
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in (x, weight, gamma, beta)]
    z = reference.conv_norm_act(*exact, **options)
    upstream = torch.randn(z.shape)
    expected = torch.autograd.grad(z, [t for t in exact if t.requires_grad], upstream.double())

    def never(*arguments: object) -> None:
        raise AssertionError("PyTorch's function was called")

    monkeypatch.setattr(pytorch, "convolve", never)
    monkeypatch.setattr(pytorch, "gradients", never)
    y = conv_norm_act(x, weight, gamma, beta, impl="triton", **options)
    assert error(y, z) < 1e-5
    actual = torch.autograd.grad(y, wanted, upstream)
    assert actual[0].is_contiguous(memory_format=layout)
    assert all(error(a, e) < 2e-5 for a, e in zip(actual, expected, strict=True))


def test_second_derivatives(asked: None) -> None:
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 4, 4)

    def penalty(operator, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.requires_grad_(), weight.requires_grad_()
        (slope,) = torch.autograd.grad(operator(x, weight).square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return F.leaky_relu(F.conv2d(x, weight, None, 2, 1), 0.2)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return conv_act(x, weight, None, stride=2, padding=1, negative_slope=0.2)

    assert error(penalty(ours, x, weight), penalty(plain, x.double(), weight.double())) < 1e-5
