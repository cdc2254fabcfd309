"""Convolutions of sequences by minimal filtering, transposed ones and the gradients, against PyTorch in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import error
from torch import Tensor
from winograd_runs import take_winograd_1d

from igan_fast import ops
from igan_fast.ops import backend, constant
from igan_fast.ops.convolution import (
    ConvSettings,
    InputSpec,
    choice,
    dispatch,
    filters_kept,
    gradients,
    plan_of,
    winograd_1d,
)
from igan_fast.ops.convolution import winograd_1d_costs as costs

pytestmark = pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])

#: How far results may be from float64; plain float32 is about 5e-7.
ALLOWED = 1e-5


@pytest.fixture(autouse=True)
def our_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    take_winograd_1d(monkeypatch)


def expected_three(
    x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings, slope: float, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The convolution with its bias and LeakyReLU; the gradients of a convolution's input and weight."""
    x, weight, grad = x.double(), weight.double(), grad.double()
    y = torch.ops.aten.convolution(x, weight, None if bias is None else bias.double(), *settings.arguments)
    found = torch.ops.aten.convolution_backward(grad, x, weight, None, *settings.arguments, (True, True, False))
    return F.leaky_relu(y, slope), found[0], found[1]


def both_gradients(grad: Tensor, x: Tensor, weight: Tensor, settings: ConvSettings) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        of = choice.gradient_plan_for(dispatch.problem_of(x, weight, None, settings))
        assert of.of_input.name == of.of_weight.name == "winograd_1d"
        found = gradients(grad, x, weight, settings, InputSpec.of(x), needs_input=True, needs_weight=True)
    assert found[0] is not None
    assert found[1] is not None
    return found  # type: ignore[return-value]


def check(
    shape: Sequence[int], weight_shape: Sequence[int], settings: ConvSettings, *, bias: bool = True, slope: float = 0.2
) -> None:
    x, weight = torch.randn(shape), torch.randn(weight_shape) * 0.2
    added = torch.randn(settings.channels(weight)[1]) if bias else None
    plan = plan_of(x, weight, added, settings, slope)
    assert plan.implementation.name == "winograd_1d"
    y = plan.run(x, weight, added, slope)
    assert y.is_contiguous()
    assert not y._is_view()
    grad = torch.randn(y.shape)
    found = both_gradients(grad, x, weight, settings)
    for name, a, e in zip(
        ("output", "input gradient", "weight gradient"),
        (y, *found),
        expected_three(x, weight, added, settings, slope, grad),
        strict=True,
    ):
        assert a.shape == e.shape, name
        assert a.is_contiguous(), name
        assert error(a, e) < ALLOWED, name


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dilation", [1, 2, 3, 7])
@pytest.mark.parametrize("kernel", [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 16, 41])
def test_equals_torch_in_float64(kernel, dilation, transposed):
    span = dilation * (kernel - 1)
    for padding in {0, span // 2, span, span + 3}:
        length = max(40, span + 5) + 2 * padding * transposed  # a transposed convolution takes the padding away
        extra = dilation - 1 if transposed else 0
        settings = ConvSettings(1, transposed=transposed, padding=padding, dilation=dilation, output_padding=extra)
        weight = (17, 9, kernel) if transposed else (9, 17, kernel)
        check((2, 17, length), weight, settings, bias=padding > 0, slope=1.0 if padding == 0 else 0.2)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("stride", [2, 3, 8])
@pytest.mark.parametrize("kernel", [2, 3, 4, 5, 8, 10, 16, 41])
def test_strides_and_groups(kernel, stride, groups, transposed):
    for padding in (0, kernel // 2, kernel + stride):
        for left_over in {0, stride - 1}:
            length = 30 + kernel + padding
            settings = ConvSettings(
                1,
                transposed=transposed,
                stride=stride,
                padding=padding,
                groups=groups,
                output_padding=left_over if transposed else 0,
            )
            weight = (8 * groups, 9, kernel) if transposed else (9 * groups, 8, kernel)
            check((2, 8 * groups, length + left_over), weight, settings, bias=padding > 0)


@pytest.mark.parametrize("slope", [0.2, 0.0, 1.0])
@pytest.mark.parametrize("bias", [False, True])
def test_bias_and_leaky_relu(bias, slope):
    check((3, 16, 50), (24, 16, 7), ConvSettings(1, padding=3), bias=bias, slope=slope)


@pytest.mark.parametrize(
    ("shape", "weight", "settings"),
    [
        ((2, 16, 21, 3), (24, 16, 5, 1), {"padding": (2, 0)}),
        ((2, 16, 30, 4), (8, 16, 3, 1), {"padding": (2, 0), "dilation": (2, 5)}),
        ((2, 16, 1, 40), (24, 16, 1, 7), {"padding": (0, 3)}),
        ((2, 16, 9, 5), (16, 24, 3, 1), {"padding": (1, 0), "transposed": True}),
        ((2, 16, 12, 4, 5), (24, 16, 3, 1, 1), {"padding": (1, 0, 0)}),
        ((2, 16, 1, 14, 5), (8, 16, 1, 4, 1), {}),
        ((2, 16, 23, 3), (24, 16, 5, 1), {"stride": (3, 1), "padding": (2, 0)}),
        ((2, 16, 24, 5), (24, 8, 7, 1), {"stride": (2, 1), "padding": (3, 0), "groups": 2}),
        ((2, 16, 9, 5), (16, 24, 4, 1), {"stride": (2, 1), "padding": (1, 0), "transposed": True}),
        ((2, 16, 7, 2, 3), (16, 8, 4, 1, 1), {"stride": (4, 1, 1), "output_padding": (3, 0, 0), "transposed": True}),
        ((1, 8, 1, 1, 14), (8, 8, 1, 1, 4), {}),
    ],
    ids=str,
)
def test_filters_along_one_dimension(shape, weight, settings):
    """Those of images and volumes are filters of sequences."""
    check(shape, weight, ConvSettings(len(shape) - 2, **settings))


@pytest.mark.parametrize(
    "shape", [(1, 8, 1), (5, 8, 2), (64, 8, 5), (1, 200, 70), (3, 33, 2500), (1, 8, 20_000)], ids=str
)
def test_any_size(shape):
    for kernel, dilation in ((3, 1), (5, 3), (11, 1)):
        check(shape, (20, shape[1], kernel), ConvSettings(1, padding=dilation * (kernel // 2), dilation=dilation))


def test_any_memory_layout():
    """Of the gradient: that of a sum is expanded, and others may have been sliced."""
    x, weight, settings = torch.randn(2, 16, 30), torch.randn(8, 16, 3), ConvSettings(1, padding=1)
    grad = torch.randn(2, 8, 60)[..., ::2]
    for each in (grad, torch.ones(()).expand(2, 8, 30), grad.transpose(0, 1).contiguous().transpose(0, 1)):
        found = both_gradients(each, x, weight, settings)
        _, *expected = expected_three(x, weight, None, settings, 1.0, each)
        for a, e in zip(found, expected, strict=True):
            assert error(a, e) < ALLOWED


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_stays_in_its_neighbourhood_and_image(bad):
    x, weight, settings = torch.randn(3, 16, 90), torch.randn(16, 16, 7), ConvSettings(1, padding=3)
    x[1, 3, 40] = bad
    y = plan_of(x, weight, None, settings).run(x, weight, None, 1.0)
    expected = F.conv1d(x.double(), weight.double(), padding=3)
    assert not y[~expected.isfinite()].isfinite().any()  # nothing is hidden
    assert y[::2].isfinite().all()
    assert y[1, :, :32].isfinite().all()
    assert y[1, :, 48:].isfinite().all()


def test_the_same_bits_each_time_and_on_any_number_of_threads(threads):
    for shape, weight_shape, padding in (((4, 40, 900), (48, 40, 7), 3), ((1, 64, 40), (200, 64, 3), 1)):
        x, weight, settings = torch.randn(shape), torch.randn(weight_shape), ConvSettings(1, padding=padding)
        grad = torch.randn(shape[0], weight_shape[0], shape[2])
        before: list[Tensor] = []
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            y = plan_of(x, weight, None, settings).run(x, weight, None, 0.2)
            found = [y, *both_gradients(grad, x, weight, settings)]
            before = before or found
            for index, (a, b) in enumerate(zip(found, before, strict=True)):
                assert torch.equal(a, b), (index, count)


def test_a_kept_filter_gives_the_same_bits():
    x, weight, settings = torch.randn(2, 16, 60), torch.randn(24, 16, 5, 1), ConvSettings(2, padding=(2, 0))
    x = x.view(2, 16, 20, 3)
    plan = plan_of(x, weight, None, settings)
    expected = plan.run(x, weight, None, 1.0)
    with filters_kept(uses=2):
        assert all(torch.equal(plan.run(x, weight, None, 1.0), expected) for _ in range(4))
    frozen = weight.clone()
    constant.own(frozen)
    assert all(torch.equal(plan.run(x, frozen, None, 1.0), expected) for _ in range(2))


def applies(x: Tensor, weight: Tensor, **settings: Any) -> bool:
    plan = plan_of(x, weight, None, ConvSettings(x.dim() - 2, **settings))
    return plan.implementation.name == "winograd_1d"


def test_where_it_applies(monkeypatch):
    x, weight = torch.randn(4, 16, 64), torch.randn(16, 16, 3)
    assert applies(x, weight)
    assert applies(x, weight, padding=1, dilation=2)
    assert applies(x, weight, transposed=True)
    assert applies(x, weight, stride=2)
    assert applies(x, torch.randn(16, 8, 3), groups=2)
    assert applies(x, weight, stride=2, transposed=True)
    assert not applies(x, weight, stride=2, dilation=2)
    assert not applies(x, torch.randn(16, 4, 3), groups=4)
    assert not applies(x, torch.randn(16, 4, 3), groups=4, transposed=True)
    assert not applies(x, weight, native=False)
    assert not applies(x, torch.randn(16, 16, 1))
    assert not applies(x.double(), weight.double())
    assert not applies(x.bfloat16(), weight.bfloat16())
    assert not applies(x.to("meta"), weight.to("meta"))
    assert not applies(x[:, :7], weight[:, :7])
    assert not applies(x, weight[:7])
    assert not applies(x[..., ::2], weight)
    assert not applies(x, weight.transpose(0, 1))
    image, filter = torch.randn(2, 16, 12, 5), torch.randn(16, 16, 3, 1)
    assert applies(image, filter, padding=(1, 0))
    assert not applies(image, filter, padding=(1, 1))
    assert applies(image, filter, stride=(2, 1))
    assert not applies(image, filter, stride=(1, 2))
    assert not applies(image, filter, stride=(2, 2))
    assert not applies(image, torch.randn(16, 16, 1, 3))  # each row is a sequence, of which the values lie apart
    assert not applies(image.contiguous(memory_format=torch.channels_last), filter, padding=(1, 0))
    assert not applies(image, filter.contiguous(memory_format=torch.channels_last), padding=(1, 0))
    assert not applies(image, torch.randn(16, 16, 3, 2))
    monkeypatch.setattr(winograd_1d, "FEWEST", 1 << 22)
    assert not applies(x, weight)
    monkeypatch.setattr(winograd_1d, "FEWEST", 0)
    monkeypatch.setattr(costs, "MARGIN", 0.0)
    assert not applies(x, weight)
    monkeypatch.setattr(costs, "MARGIN", math.inf)
    monkeypatch.setattr(backend, "has_native_cpu", lambda: False)
    assert not applies(x, weight)


def test_autograd_and_its_second_derivative():
    """Through an operator of the package. Second derivatives are PyTorch's."""
    x, weight = torch.randn(2, 16, 40, requires_grad=True), torch.randn(16, 16, 5, requires_grad=True)
    affine = torch.ones(16), torch.zeros(16)

    def loss(x: Tensor, weight: Tensor, module: Any) -> Tensor:
        y = module.conv_norm_act(x, weight, *(t.to(x.dtype) for t in affine), None, None, stride=1, padding=2)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return y.sum() + dx.square().sum()

    from igan_fast import reference

    found = torch.autograd.grad(loss(x, weight, ops), (x, weight))
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    expected = torch.autograd.grad(loss(*wide, reference.ops), wide)
    for a, e in zip(found, expected, strict=True):
        assert error(a, e) < 1e-4


def test_the_operators_name_the_wrong_argument():
    operators = torch.ops.igan_fast
    x, weight, grad = torch.randn(2, 16, 30), torch.randn(20, 16, 7), torch.randn(2, 20, 30)
    filter = operators.winograd_1d_filter(weight, 1, 1, False)
    plain = {
        "x": x, "filter": filter, "length": 30, "channels": 20, "kernel": 7, "stride": 1, "padding": 3,
        "interleaved": 1, "groups": 1, "bias": None, "negative_slope": 1.0, "transposed": False,
    }  # fmt: skip
    cannot = (
        "a convolution of kernel 7, stride {}, padding 3 and {} interleaved sequences does not take length {} to {}"
    )
    made_of = r"filter: expected weights \({}\), float32, or what winograd_1d_filter makes of them"
    unfit = made_of.format("20, 16, 7")
    wrong = filter.clone()
    wrong[0] = 0
    for change, message in (
        ({"padding": -1}, "padding is -1; expected 0 to 2147483647"),
        ({"interleaved": 0}, "interleaved is 0; expected 1 to 2147483647"),
        ({"stride": 0}, "stride is 0; expected 1 to 2147483647"),
        ({"groups": 0}, "groups is 0; expected a divisor of 16 and 20 channels"),
        ({"groups": 3}, "groups is 3; expected a divisor of 16 and 20 channels"),
        ({"kernel": 0}, "kernel is 0; expected 1 to 2147483647"),
        ({"kernel": 1 << 40}, "kernel is 1099511627776; expected 1 to 2147483647"),
        ({"channels": 0}, "channels is 0; expected at least 1"),
        ({"length": 31}, cannot.format(1, 1, 30, 31)),
        ({"length": 0}, cannot.format(1, 1, 30, 0)),
        ({"transposed": True, "length": 29, "channels": 20}, cannot.format(1, 1, 29, 30)),
        ({"interleaved": 20}, cannot.format(1, 20, 30, 30)),
        ({"stride": 2, "length": 16}, cannot.format(2, 1, 30, 16)),
        ({"stride": 2, "interleaved": 2, "length": 8}, cannot.format(2, 2, 30, 8)),  # the padding is odd
        ({"channels": 19}, made_of.format("19, 16, 7")),
        ({"x": x[:, :15].contiguous()}, made_of.format("20, 15, 7")),
        ({"transposed": True, "channels": 16, "x": grad}, unfit),
        ({"stride": 2, "length": 15}, unfit),
        ({"groups": 2}, made_of.format("20, 8, 7")),
        ({"filter": filter.double()}, unfit),
        ({"filter": filter[:-1]}, unfit),
        ({"filter": filter.repeat_interleave(2)[::2]}, unfit),
        ({"filter": wrong}, unfit),
        ({"filter": weight.double()}, unfit),
        ({"filter": weight[:19]}, unfit),
        ({"filter": weight[..., :6]}, unfit),
        ({"x": x.double()}, "x: expected float32"),
        ({"x": x.half()}, "x: expected float32"),
        ({"x": x.transpose(1, 2)}, r"x: expected \(N, C, T\), contiguous"),
        ({"x": x[0]}, r"x: expected \(N, C, T\), contiguous"),
        ({"x": x[:0]}, "x is empty"),
        ({"bias": torch.zeros(19)}, r"bias: expected \(20"),
        ({"bias": torch.zeros(20).double()}, r"bias: expected \(20"),
        ({"bias": torch.zeros(40)[::2]}, r"bias: expected \(20"),
    ):
        with pytest.raises(RuntimeError, match=message):
            operators.winograd_1d_conv(**plain | change)
    gradient = {
        "large": x, "small": grad, "kernel": 7, "stride": 1, "padding": 3, "interleaved": 1, "groups": 1,
    }  # fmt: skip
    for change, message in (
        ({"small": torch.randn(2, 20, 31)}, cannot.format(1, 1, 30, 31)),
        ({"small": grad[:1]}, "large and small: expected one batch, found 2 and 1"),
        ({"small": grad.double()}, "small: expected float32"),
        ({"large": x.transpose(1, 2)}, r"large: expected \(N, C, T\), contiguous"),
        ({"groups": 5}, "groups is 5; expected a divisor of 16 and 20 channels"),
        ({"padding": -1}, "padding is -1; expected 0 to 2147483647"),
    ):
        with pytest.raises(RuntimeError, match=message):
            operators.winograd_1d_weight_gradient(**gradient | change)
    for arguments, message in (
        ((weight.double(), 1, 1, False), "weight: expected float32"),
        ((weight[0], 1, 1, False), r"weight: expected \(out, in, kernel\)"),
        ((weight[:0], 1, 1, False), r"weight: expected \(out, in, kernel\)"),
        ((weight, 0, 1, False), "stride is 0; expected 1 to 2147483647"),
        ((torch.zeros(1).expand(1 << 16, 1 << 16, 1), 1 << 30, 1, False), "from 65536 to 65536 channels is too large"),
        ((weight, 1, 3, False), "groups is 3; expected a divisor of 48 and 20 channels"),
        ((weight, 1, 0, False), "groups is 0; expected a divisor of 0 and 20 channels"),
    ):
        with pytest.raises(RuntimeError, match=message):
            operators.winograd_1d_filter(*arguments)
    y = operators.winograd_1d_conv(**plain)
    assert y.shape == (2, 20, 30)
    for each in (weight, weight.transpose(0, 2).contiguous().transpose(0, 2), filter.clone()):
        assert torch.equal(operators.winograd_1d_conv(**plain | {"filter": each}), y)


def test_shapes_without_data():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, filter = torch.empty(2, 16, 30), torch.empty(100)
        operators = torch.ops.igan_fast
        assert operators.winograd_1d_conv(x, filter, 26, 20, 5, 1, 0, 1, 1, None, 1.0, False).shape == (2, 20, 26)
        assert operators.winograd_1d_weight_gradient(x, x[..., 4:], 5, 1, 0, 1, 2).shape == (16, 8, 5)
