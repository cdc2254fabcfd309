"""Triton's convolutions from and to images of few channels against PyTorch's in float64 and their autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from convolution_cases import Case, arguments, plain
from oracles import DTYPES, LAYOUTS, assert_as_good, error
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from igan_fast.ops.triton import convolution_image, convolution_image_weight

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of the interpreter, of Inf

#: From an image; the other direction is the transposed convolution with input and output exchanged.
CASES = {
    "the paper's": Case(2, 3, 16, (8, 12), (5, 5), (2, 2), (2, 2)),
    "the paper's, odd size": Case(1, 3, 5, (9, 7), (5, 5), (2, 2), (2, 2)),
    "4×4": Case(2, 3, 20, (8, 6), (4, 4), (2, 2), (1, 1)),
    "two colours, stride 1": Case(1, 2, 17, (5, 6), (3, 3), (1, 1), (1, 1)),
    "four colours, a rest of the image that no tap reads": Case(1, 4, 6, (10, 11), (3, 3), (3, 3), (0, 0)),
    "unequal sides": Case(2, 3, 4, (7, 11), (3, 5), (2, 3), (1, 0)),
    "stride beyond the kernel": Case(1, 3, 3, (9, 8), (2, 1), (3, 2), (0, 0)),
    "padding beyond the kernel": Case(1, 3, 5, (5, 6), (3, 3), (1, 1), (4, 3)),
    "a row of more numbers than channels": Case(1, 4, 3, (9, 12), (2, 11), (2, 2), (0, 5)),
    "one pixel": Case(1, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0)),
}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch, small_products: None) -> None:
    """Small inputs have many parts, and edges in all places."""
    monkeypatch.setattr(convolution_image, "_BLOCK", 64)
    monkeypatch.setattr(convolution_image_weight, "_PROGRAMS", 8)
    monkeypatch.setattr(convolution_image_weight, "_SEGMENTS", 2)


def given_of(case: Case, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The image, the weight, the bias of the features, and features of the size of the convolution's output."""
    image, weight, bias = arguments(case, False, dtype, device)
    return image, weight, bias, torch.randn_like(plain(case, False, image, weight, bias))


def leaky_gradient(grad: Tensor, signs: Tensor | None, slope: float) -> Tensor:
    """As PyTorch's own function: rounded to grad's dtype."""
    return grad if signs is None else torch.where(signs > 0, grad, grad * slope)


def of_pytorch(
    case: Case, image: Tensor, weight: Tensor, bias: Tensor, features: Tensor, signs: Tensor | None
) -> list[Tensor]:
    """What ``ours`` computes, in its order."""
    x, w = image.detach().requires_grad_(), weight.detach().requires_grad_()
    y = plain(case, False, x, w, bias)
    grad = leaky_gradient(features, signs, 0.2)
    dx, dweight = torch.autograd.grad(y, (x, w), grad)
    return [F.leaky_relu(y.detach(), 0.2), dx, dweight, grad.sum((0, 2, 3))]


def ours(
    case: Case, image: Tensor, weight: Tensor, bias: Tensor, features: Tensor, signs: Tensor | None
) -> list[Tensor]:
    geometry = case.stride, case.padding
    before = {} if signs is None else {"signs": signs, "signs_slope": 0.2}
    return [
        convolution_image.convolution_from_image(image, weight, bias, features.shape[2:], *geometry, 0.2),
        convolution_image.convolution_to_image(features, weight, None, image.shape[2:], *geometry, 1.0, **before),
        *convolution_image_weight.convolution_image_weight_gradient(
            features, image, case.kernel, *geometry, True, **before
        ),
    ]


def check(case: Case, given: tuple[Tensor, ...], signs: Tensor | None = None) -> list[Tensor]:
    actual = ours(case, *given, signs)  # type: ignore[arg-type]
    # PyTorch rounds the LeakyReLU's gradient to the dtype too, and so does the exact result's.
    rounded = (*given[:3], leaky_gradient(given[3], signs, 0.2))
    exact = of_pytorch(case, *(t.double() for t in rounded), None)  # type: ignore[misc]
    assert_as_good(actual, of_pytorch(case, *given, signs), exact, given[0].dtype)  # type: ignore[arg-type]
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in actual[:3])
    return actual


@pytest.mark.parametrize("case", CASES)
def test_equals_pytorch(device: torch.device, case: str) -> None:
    check(CASES[case], given_of(CASES[case], torch.float32, device))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*(("the paper's, odd size", dtype) for dtype in DTYPES), ("a row of more numbers than channels", torch.float32)],
)
def test_equals_pytorch_in_many_parts(device: torch.device, small_parts: None, case: str, dtype: torch.dtype) -> None:
    """With the gradient of a LeakyReLU before the input's, the weight's and the bias's gradient."""
    given = given_of(CASES[case], dtype, device)
    check(CASES[case], given, torch.randn_like(given[3]))


@pytest.mark.parametrize("case", ["the paper's, odd size", "4×4", "stride beyond the kernel"])
@pytest.mark.parametrize("slope", [1.0, 0.0, -0.5])
def test_to_an_image_with_bias_and_leaky_relu(device: torch.device, case: str, slope: float) -> None:
    """With a rest of the image as output padding."""
    _, weight, _, features = given_of(CASES[case], torch.float32, device)
    bias, geometry = torch.randn(3, device=device), (CASES[case].stride, CASES[case].padding)
    for extra in {(0, 0), tuple(s - 1 for s in CASES[case].stride)}:
        z = F.conv_transpose2d(features.double(), weight.double(), bias.double(), *geometry, extra)
        if 0 in z.shape:
            continue
        y = convolution_image.convolution_to_image(features, weight, bias, z.shape[2:], *geometry, slope)
        assert error(y, torch.where(z > 0, z, slope * z)) < 1e-5


@pytest.mark.parametrize("colours", [1, 2, 3, 4, 70])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (4, 4), (2, 3), (9, 1)])
def test_blocks_are_as_large_as_the_columns_allow(colours: int, stride: tuple[int, int]) -> None:
    pixels, step, first, taps = convolution_image._Blocks.of((5, 5), colours, stride, (2, 2))
    columns = pixels[0] * pixels[1] * colours
    assert [s * n for s, n in zip(step, stride, strict=True)] == list(pixels)
    assert columns <= 64 < 2 * columns or step == (1, 1)
    assert 0 <= step[1] // step[0] <= 2
    assert step[1] >= step[0]
    assert all(t >= s for s, t in zip(step, taps, strict=True)) or max(stride) > 5
    assert all(f <= 0 for f in first)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(device: torch.device, layout: str) -> None:
    case = CASES["the paper's, odd size"]
    given = given_of(case, torch.float32, device)
    signs = torch.randn_like(given[3])
    expected = ours(case, *given, signs)
    turned = [LAYOUTS[layout](t) for t in (*given, signs)]
    assert all(torch.equal(a, b) for a, b in zip(ours(case, *turned), expected, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_of_an_image_reaches_the_results_that_take_it(device: torch.device, value: float) -> None:
    """Not those of the neighbours that are loaded with it."""
    case = CASES["the paper's"]
    given = given_of(case, torch.float32, device)
    given[0][1, 2, 3, 4] = value
    exact = of_pytorch(case, *(t.double() for t in given), None)  # type: ignore[misc]
    for actual, expected in zip(ours(case, *given, None), exact, strict=True):
        assert error(actual, expected) < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_of_features_stays_in_the_blocks_that_read_it(device: torch.device, value: float) -> None:
    case = CASES["the paper's"]
    image, weight, _, features = given_of(case, torch.float32, device)
    geometry = image.shape[2:], case.stride, case.padding, 1.0
    clean = convolution_image.convolution_to_image(features, weight, None, *geometry)
    features[1, 2, 3, 0] = value
    y = convolution_image.convolution_to_image(features, weight, None, *geometry)
    expected = F.conv_transpose2d(features.double(), weight.double(), None, case.stride, case.padding, (1, 1))
    assert not y[~expected.isfinite()].isfinite().any()
    assert torch.equal(y[0], clean[0])
    assert torch.equal(y[1, ..., 8:], clean[1, ..., 8:])  # blocks of 4 × 4; the value is in the first of a row


def test_a_relu_before_blocks_an_infinite_gradient(device: torch.device) -> None:
    case = CASES["the paper's"]
    image, weight, _, features = given_of(case, torch.float32, device)
    signs = torch.randn_like(features)
    clean = torch.where(signs > 0, features, 0.0)
    features[signs <= 0] = float("inf")
    geometry, slopes = (case.stride, case.padding), {"signs": signs, "signs_slope": 0.0}
    to_image, of_weight = (
        convolution_image.convolution_to_image,
        convolution_image_weight.convolution_image_weight_gradient,
    )
    dx = to_image(features, weight, None, image.shape[2:], *geometry, 1.0, **slopes)
    assert torch.equal(dx, to_image(clean, weight, None, image.shape[2:], *geometry, 1.0))
    found = of_weight(features, image, case.kernel, *geometry, True, **slopes)
    assert all(map(torch.equal, found, of_weight(clean, image, case.kernel, *geometry, True)))


def test_the_same_bits_every_time(device: torch.device, small_parts: None) -> None:
    case = CASES["the paper's, odd size"]
    given = given_of(case, torch.float32, device)
    first, again = (ours(case, *given, None) for _ in range(2))
    assert all(map(torch.equal, first, again))


def test_sums_that_are_not_needed_are_empty(device: torch.device) -> None:
    case = CASES["4×4"]
    image, _, _, features = given_of(case, torch.float32, device)
    of_weight = convolution_image_weight.convolution_image_weight_gradient
    with_sums, without = (of_weight(features, image, case.kernel, case.stride, case.padding, s) for s in (True, False))
    assert torch.equal(with_sums[0], without[0])
    assert without[1].shape == (0,)


def call(operator: str, **changes: Tensor) -> Any:
    given: dict[str, Any] = {"x": torch.ones(2, 3, 6, 6), "weight": torch.ones(4, 3, 4, 4)}
    given |= {"features": torch.ones(2, 4, 3, 3), "signs": None} | changes
    geometry = (2, 2), (1, 1)
    if operator == "from":
        return convolution_image.convolution_from_image(given["x"], given["weight"], None, (3, 3), *geometry, 1.0)
    if operator == "to":
        return convolution_image.convolution_to_image(
            given["features"], given["weight"], None, (6, 6), *geometry, 1.0, given["signs"]
        )
    return convolution_image_weight.convolution_image_weight_gradient(
        given["features"], given["x"], (4, 4), *geometry, False, given["signs"]
    )


@pytest.mark.parametrize(
    ("operator", "changes", "message"),
    [
        ("from", {"x": torch.ones(2, 4, 6, 6)}, r"found x \(2, 4, 6, 6\) .* weight \(4, 3, 4, 4\) .*dimension 1"),
        ("from", {"x": torch.ones(3, 6, 6)}, r"found x \(3, 6, 6\) .*; expected 4 dimensions"),
        ("from", {"weight": torch.ones(4, 3, 4, 4).half()}, "in torch.float16; expected .* one dtype"),
        ("to", {"features": torch.ones(2, 3, 3, 3)}, r"found x \(2, 3, 3, 3\) .*dimension 0"),
        ("to", {"signs": torch.ones(2, 4, 3, 2)}, r"signs has shape \(2, 4, 3, 2\) in .*; expected \(2, 4, 3, 3\)"),
        ("weight", {"signs": torch.ones(2, 4, 3, 3).bool()}, "signs .* in torch.bool; expected .* in torch.float32"),
        ("weight", {"x": torch.ones(3, 3, 6, 6)}, r"found features \(2, 4, 3, 3\) .* x \(3, 3, 6, 6\) .*; expected"),
    ],
)
def test_wrong_arguments(operator: str, changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(operator, **changes)


def test_what_is_too_large_is_refused() -> None:
    image, features = (torch.empty(1, 1, *size, device="meta") for size in ((2**15, 2**15 + 1), (2**14, 2**14)))
    weight, geometry = torch.empty(1, 1, 1, 1, device="meta"), ((2, 2), (0, 0))
    message = r"too large for one launch: \d+ pixels .*; use impl='reference'"
    with pytest.raises(RuntimeError, match=message):
        convolution_image.convolution_from_image(image, weight, None, features.shape[2:], *geometry, 1.0)
    with pytest.raises(RuntimeError, match=message):
        convolution_image.convolution_to_image(features, weight, None, image.shape[2:], *geometry, 1.0)
    with pytest.raises(RuntimeError, match=message):
        convolution_image_weight.convolution_image_weight_gradient(features, image, (1, 1), *geometry, False)
