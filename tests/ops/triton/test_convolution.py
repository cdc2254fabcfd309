"""Triton's convolutions against PyTorch's in float64 and their autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from convolution_cases import CASES, Case, arguments, plain
from oracles import DTYPES, HALF, LAYOUTS, assert_as_good, error
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from igan_fast.ops.triton import convolution, convolution_launch, convolution_weight

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of the interpreter, of Inf


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch, small_products: None) -> None:
    """Small inputs have many parts, and edges in all places."""
    monkeypatch.setattr(convolution, "_COMBINE_SEGMENTS", 4)
    monkeypatch.setattr(convolution_weight, "_BLOCK", 64)


def ours(case: Case, transposed: bool, x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of the weight for ``grad`` of the output."""
    geometry = case.stride, case.padding
    return [
        convolution.convolution(x, weight, bias, grad.shape[2:], *geometry, transposed, 1.0),
        convolution.convolution(grad, weight, None, x.shape[2:], *geometry, not transposed, 1.0),
        convolution_weight.convolution_weight_gradient(grad, x, weight.shape[2:], *geometry, transposed),
    ]


def check(case: Case, transposed: bool, x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    def with_gradients(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        y = plain(case, transposed, x, weight, bias)
        return y.detach(), *torch.autograd.grad(y, (x, weight), grad.to(y))

    grad = torch.randn_like(plain(case, transposed, x, weight, bias))
    actual = ours(case, transposed, x, weight, bias, grad)
    exact = with_gradients(x.double(), weight.double(), bias.double())
    assert_as_good(actual, with_gradients(x, weight, bias), exact, x.dtype)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in actual)
    return actual


@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
@pytest.mark.parametrize("case", CASES)
def test_equals_pytorch(device: torch.device, case: str, transposed: bool) -> None:
    check(CASES[case], transposed, *arguments(CASES[case], transposed, torch.float32, device))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
@pytest.mark.parametrize("case", ["the paper's, odd size", "stride beyond the kernel"])
def test_equals_pytorch_in_many_parts(
    device: torch.device, small_parts: None, case: str, transposed: bool, dtype: torch.dtype
) -> None:
    check(CASES[case], transposed, *arguments(CASES[case], transposed, dtype, device))


@pytest.mark.parametrize("positions", [(3, 5), (4, 4), (1, 17)])
def test_edges_of_tiles(device: torch.device, small_parts: None, positions: tuple[int, int]) -> None:
    """One position less than a tile, a tile, and one more; so for the channels of either side."""
    for channels in (15, 16, 17):
        case = Case(1, channels, 32 - channels, positions, (3, 3), (1, 1), (1, 1))
        check(case, False, *arguments(case, False, torch.float32, device))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(device: torch.device, layout: str) -> None:
    case = CASES["the paper's, odd size"]
    for transposed in (False, True):
        x, weight, bias = arguments(case, transposed, torch.float32, device)
        expected = check(case, transposed, x, weight, bias)[0]
        x, weight, bias = (LAYOUTS[layout](t) for t in (x, weight, bias))
        check(case, transposed, x, weight, bias)
        size = expected.shape[2:]
        actual = convolution.convolution(x, weight, bias, size, case.stride, case.padding, transposed, 1.0)
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_value_reaches_the_outputs_that_take_it(device: torch.device, value: float, transposed: bool) -> None:
    case = Case(2, 3, 5, (6, 5), (3, 3), (2, 2), (1, 1), (0, 0))
    x, weight, bias = arguments(case, transposed, torch.float32, device)
    x[1, 2, 3, 4] = value
    z = plain(case, transposed, x.double(), weight.double(), bias.double())
    settings = z.shape[2:], case.stride, case.padding, transposed
    assert error(convolution.convolution(x, weight, bias, *settings, 1.0), z) < 1e-5


def test_the_same_bits_every_time(device: torch.device, small_parts: None) -> None:
    case = CASES["the paper's, odd size"]
    for transposed in (False, True):
        given = arguments(case, transposed, torch.float32, device)
        grad = torch.randn_like(plain(case, transposed, *given))
        first, again = (ours(case, transposed, *given, grad) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("slope", [0.0, 0.2, -0.5])
def test_bias_and_leaky_relu(device: torch.device, slope: float) -> None:
    case = CASES["4×4"]
    for transposed in (False, True):
        x, weight, bias = arguments(case, transposed, torch.float32, device)
        z = plain(case, transposed, x.double(), weight.double(), bias.double())
        expected = torch.where(z > 0, z, slope * z)
        settings = z.shape[2:], case.stride, case.padding, transposed
        assert error(convolution.convolution(x, weight, bias, *settings, slope), expected) < 1e-5


def normalised(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, slope: float) -> Tensor:
    """x in x's dtype and memory, normalised by the statistics (groups, C) of each group of images, and activated."""
    groups, channels = mean.shape
    wide = x.double().view(groups, -1, *x.shape[1:])
    mean, var = (t.double().view(groups, 1, channels, 1, 1) for t in (mean, var))
    z = (wide - mean) / (var + 1e-5).sqrt() * weight.double().view(-1, 1, 1) + bias.double().view(-1, 1, 1)
    return F.leaky_relu(z, slope).view(x.shape)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
def test_the_normalisation_before_and_the_statistics_after(
    device: torch.device, small_parts: None, transposed: bool, channels: int, groups: int
) -> None:
    """The input is raw, far from zero, and its padding is 0 after the normalisation, which moves 0."""
    case = Case(4, channels, 17, (5, 3), (3, 3), (2, 2), (1, 1), (0, 1))
    x, weight, _ = arguments(case, transposed, torch.float32, device)
    x += 3 * torch.arange(4, device=device).view(-1, 1, 1, 1)
    gamma, beta = torch.randn(channels, device=device), torch.randn(channels, device=device)
    mean, var = torch.randn(groups, channels, device=device) + 1, torch.rand(groups, channels, device=device) + 0.5
    activated = normalised(x, gamma, beta, mean, var, 0.2).requires_grad_()
    kernel = weight.double().requires_grad_()
    expected = plain(case, transposed, activated, kernel, None)

    affine = convolution.convolution_affine(gamma, beta, mean, var, 1e-5)
    settings = expected.shape[2:], case.stride, case.padding, transposed
    z, z_mean, z_var = convolution.convolution_statistics(x, weight, *settings, groups, affine, 0.2)
    assert error(z, expected) < 1e-5
    by_group = z.double().view(groups, -1, *z.shape[1:])
    assert error(z_mean, by_group.mean((1, 3, 4))) < 1e-6
    assert error(z_var, by_group.var((1, 3, 4), correction=0)) < 1e-6
    assert torch.equal(convolution.convolution(x, weight, None, *settings, 1.0, affine, 0.2), z)

    grad = torch.randn_like(z)
    (exact,) = torch.autograd.grad(expected, kernel, grad.double())
    taps = weight.shape[2:]
    actual = convolution_weight.convolution_weight_gradient(
        grad, x, taps, case.stride, case.padding, transposed, affine, 0.2
    )
    assert error(actual, exact) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_statistics_of_data_far_from_zero(device: torch.device, small_parts: None, dtype: torch.dtype) -> None:
    """E[x²] − E[x]² would have no correct digit. The statistics are those of the rounded output."""
    case = Case(2, 16, 5, (9, 11), (1, 1), (1, 1), (0, 0))
    x, weight, _ = arguments(case, False, dtype, device)
    x[:, 0], weight[:, 0] = 100, 100
    z, mean, var = convolution.convolution_statistics(x, weight, (9, 11), (1, 1), (0, 0), False, 1)
    assert error(mean[0], z.double().mean((0, 2, 3))) < 1e-7
    assert error(var[0], z.double().var((0, 2, 3), correction=0)) < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_statistics_of_values_that_are_not_finite(device: torch.device, value: float) -> None:
    case = Case(2, 3, 5, (6, 5), (3, 3), (2, 2), (1, 1))
    x, weight, _ = arguments(case, False, torch.float32, device)
    weight = weight.abs()
    x[1, 2, 3, 4] = value
    z, mean, var = convolution.convolution_statistics(x, weight, (3, 3), (2, 2), (1, 1), False, 2)
    assert error(z, plain(case, False, x.double(), weight.double(), None)) < 1e-5
    by_group = z.view(2, -1, *z.shape[1:])
    assert error(mean, by_group.double().mean((1, 3, 4))) < 1e-6
    assert var[1].isnan().all()
    assert error(var[0], by_group[0].double().var((0, 2, 3), correction=0)) < 1e-6


def test_statistics_of_an_infinite_channel(device: torch.device) -> None:
    """The rows of a tile that do not exist are 0 · ∞ = NaN, and do not count."""
    x, weight = torch.ones(1, 3, 5, 5, device=device), torch.ones(2, 3, 1, 1, device=device)
    weight[1] = float("inf")
    _, mean, _ = convolution.convolution_statistics(x, weight, (5, 5), (1, 1), (0, 0), False, 1)
    assert mean.tolist() == [[3, float("inf")]]


@pytest.mark.parametrize("missing", [(), (0,), (1,), (0, 1)])
def test_affine(device: torch.device, missing: tuple[int, ...]) -> None:
    weight, bias = torch.randn(11, device=device), torch.randn(11, device=device)
    mean, var = torch.randn(3, 11, device=device), torch.rand(3, 11, device=device)
    given = [None if i in missing else t for i, t in enumerate((weight, bias))]
    affine = convolution.convolution_affine(*given, mean, var, 1e-5)
    scale = (weight if given[0] is not None else 1) / (var.double() + 1e-5).sqrt()
    shift = bias if given[1] is not None else torch.zeros_like(bias)
    assert error(affine, torch.stack([mean.double(), scale, shift.double().expand(3, -1)], 1)) < 1e-6


def call(**changes: Any) -> Tensor:
    given: dict[str, Any] = {"x": torch.ones(2, 3, 5, 5), "weight": torch.ones(4, 3, 3, 3)} | changes
    affine = given.pop("affine", None)
    return convolution.convolution(*given.values(), None, (5, 5), (1, 1), (1, 1), False, 1.0, affine)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(2, 4, 5, 5)}, r"found x \(2, 4, 5, 5\) .* weight \(4, 3, 3, 3\) .*; expected .*dimension 1"),
        ({"x": torch.ones(3, 5, 5)}, r"found x \(3, 5, 5\) .*; expected 4 dimensions"),
        ({"weight": torch.ones(4, 3, 3, 3).half()}, r"in torch.float16; expected .* one dtype"),
        ({"affine": torch.ones(3, 3, 3)}, "found 2 images; expected a multiple of 3, the number of groups"),
        ({"affine": torch.ones(1, 3, 4)}, r"affine has shape \(1, 3, 4\); expected \(1, 3, 3\)"),
    ],
)
def test_wrong_arguments(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_the_gradient_of_other_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found grad \(2, 4, 5, 5\) .* x \(3, 3, 5, 5\) .*; expected"):
        convolution_weight.convolution_weight_gradient(
            torch.ones(2, 4, 5, 5), torch.ones(3, 3, 5, 5), (3, 3), (1, 1), (1, 1), False
        )


def test_what_is_too_large_is_refused() -> None:
    x, weight = (torch.empty(1, 1, *size, device="meta") for size in ((2**15, 2**15 + 1), (1, 1)))
    geometry, message = ((1, 1), (0, 0)), r"too large for one launch: \d+ positions .*; use impl='reference'"
    with pytest.raises(RuntimeError, match=message):
        convolution.convolution(x, weight, None, x.shape[2:], *geometry, False, 1.0)
    with pytest.raises(RuntimeError, match=message):
        convolution_weight.convolution_weight_gradient(x, x, (1, 1), *geometry, False)


def test_tf32_where_pytorch_has_it() -> None:
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    try:
        for value in ("tf32", "ieee"):
            convolutions.fp32_precision = value
            assert convolution_launch.options_of(torch.ones(1), 8)["PRECISION"] == value
    finally:
        convolutions.fp32_precision = before
