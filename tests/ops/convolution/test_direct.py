"""Direct convolutions from and to few channels, and the gradients, against PyTorch's own in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from oracles import LAYOUTS, assert_as_good, error
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import igan_fast
from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.convolution import (
    ConvSettings,
    InputSpec,
    activation_gradients,
    convolve,
    direct,
    gradients,
    plan_of,
)

pytestmark = pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])


class Case(NamedTuple):
    """A convolution of ``colours`` channels, ``size`` pixels, to ``channels`` channels, or its transpose."""

    colours: int
    channels: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (5, 5)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (2, 2)
    batch: int = 2

    def settings(self, transposed: bool) -> ConvSettings:
        return ConvSettings.cached(
            2,
            transposed=transposed,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.left_over if transposed else 0,
        )

    @property
    def left_over(self) -> tuple[int, int]:
        """The output padding with which the transposed convolution has the size of the image."""
        sides = zip(self.size, self.kernel, self.stride, self.padding, strict=True)
        height, width = ((size + 2 * padding - kernel) % stride for size, kernel, stride, padding in sides)
        return height, width


CASES = [
    Case(3, 64, (16, 16)),
    Case(3, 32, (17, 30)),
    Case(1, 16, (9, 7), (3, 3), (1, 1), (1, 1), 5),
    Case(3, 16, (13, 21), (3, 3), (2, 2), (0, 0)),
    Case(4, 33, (12, 12), (4, 4), (2, 2), (1, 1)),
    Case(2, 8, (8, 19), (7, 7), (1, 1), (3, 3)),
    Case(3, 100, (7, 11), (5, 5), (3, 3), (1, 1), 1),
    Case(4, 17, (9, 10), (1, 1), (1, 1), (0, 0)),
    Case(3, 20, (8, 8), (2, 2), (3, 3), (0, 0)),
    Case(3, 9, (6, 40), (1, 7), (2, 1), (0, 2)),
    Case(2, 12, (5, 5), (5, 5), (1, 1), (0, 0), 3),
]
SLOPES = (1.0, 0.2, 0.0)


def name_of(case: Case) -> str:
    return f"{case.colours}to{case.channels}-{case.kernel[0]}x{case.kernel[1]}-stride{case.stride[0]}"


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels compute every problem that they can, however small."""
    monkeypatch.setattr(direct, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(direct, "MIN_FEATURES", 1)
    monkeypatch.setattr(direct, "MAX_WEIGHTS", 1 << 40)
    monkeypatch.setattr(ops.convolution.choice, "_kept", ops.convolution.choice._choose)
    monkeypatch.setattr(ops.convolution.choice, "_kept_gradients", ops.convolution.choice._choose_gradients)
    monkeypatch.setattr(ops.convolution.choice, "_kept_fused", ops.convolution.choice._choose_fused)


def tensors(case: Case, transposed: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, weight, bias, and the gradient of the output."""
    weight = torch.randn(case.channels, case.colours, *case.kernel)
    image = torch.randn(case.batch, case.colours, *case.size)
    features = torch.randn_like(F.conv2d(image, weight, None, case.stride, case.padding))
    image, features = (t.contiguous(memory_format=torch.channels_last) for t in (image, features))
    x, grad = (features, image) if transposed else (image, features)
    return x, weight, torch.randn(grad.shape[1]), grad


def plain(case: Case, transposed: bool, slope: float, *given: Tensor) -> list[Tensor]:
    """PyTorch's result, and the gradients of input, weight and bias."""
    x, weight, bias, grad = given
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    if transposed:
        y = F.conv_transpose2d(*leaves, case.stride, case.padding, case.left_over)
    else:
        y = F.conv2d(*leaves, case.stride, case.padding)
    y = F.relu(y) if slope == 0 else F.leaky_relu(y, slope)
    return [y, *torch.autograd.grad(y, leaves, grad)]


def ours(case: Case, transposed: bool, slope: float, *given: Tensor) -> list[Tensor]:
    x, weight, bias, grad = given
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    name = plan_of(*leaves, case.settings(transposed)).implementation.name
    assert (name == "direct") == (transposed or not x.is_contiguous())
    options: dict[str, Any] = {"transposed": transposed, "stride": case.stride, "padding": case.padding}
    if transposed:
        options["output_padding"] = case.left_over
    y = conv_act(*leaves, negative_slope=slope, **options)
    return [y, *torch.autograd.grad(y, leaves, grad)]


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_equals_torch_in_float64(case, transposed, slope):
    given = tensors(case, transposed)
    exact = plain(case, transposed, slope, *(t.double() for t in given))
    found, by_torch = ours(case, transposed, slope, *given), plain(case, transposed, slope, *given)
    assert_as_good(found, by_torch, exact, torch.float32)
    for a, p, e in zip(found, by_torch, exact, strict=True):
        assert error(a, e) <= max(2 * error(p, e), 1e-6)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("transposed", [False, True])
def test_any_memory_layout(transposed, layout):
    """The same bits, but where the input is contiguous. PyTorch then computes the features, and their weight
    gradient."""
    case = CASES[0]
    x, weight, bias, grad = tensors(case, transposed)
    expected = ours(case, transposed, 0.2, x, weight, bias, grad)
    x, grad = layout(x), layout(grad)
    found = ours(case, transposed, 0.2, x, layout(weight), layout(bias), grad)
    of_image = [transposed, not transposed, False, False]
    for a, b, same in zip(found, expected, of_image, strict=True):
        assert error(a, b) < (1e-5 if x.is_contiguous() and not same else 1e-7)
    assert found[1].stride() == (x.stride() if x.is_contiguous() else expected[1].stride())


def test_the_image_and_its_gradient_of_contiguous_tensors(monkeypatch):
    """And nothing else: each with one call of the kernel, none of which copies features back."""
    case, calls = CASES[0], []
    operator = torch.ops.igan_fast.direct_conv_transposed
    for name in ("direct_conv", "direct_conv_gradients"):
        monkeypatch.setattr(torch.ops.igan_fast, name, lambda *_, name=name: calls.append(name))
    monkeypatch.setattr(
        torch.ops.igan_fast, "direct_conv_transposed", lambda *a: calls.append("to the image") or operator(*a)
    )
    for transposed in (False, True):
        x, weight, bias, grad = (t.contiguous() for t in tensors(case, transposed))
        for a, e in zip(
            ours(case, transposed, 1.0, x, weight, bias, grad),
            plain(case, transposed, 1.0, x, weight, bias, grad),
            strict=True,
        ):
            assert error(a, e) < 1e-5
    assert calls == ["to the image"] * 2


FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

#: Channels, channels of the image, the input's size, kernel and padding of convolutions of stride 1 to an image.
TO_IMAGE = [
    (64, 3, (12, 9), (7, 7), (3, 3)),
    (33, 1, (9, 9), (4, 4), (1, 1)),
    (8, 4, (7, 10), (3, 3), (1, 1)),
    (16, 2, (8, 6), (5, 2), (0, 1)),
    (20, 3, (6, 6), (6, 6), (0, 5)),
]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize(("channels", "colours", "size", "kernel", "padding"), TO_IMAGE)
def test_a_convolution_of_stride_1_to_an_image(channels, colours, size, kernel, padding, slope, layout):
    x, weight, bias = torch.randn(2, channels, *size), torch.randn(colours, channels, *kernel), torch.randn(colours)
    settings = ConvSettings.cached(2, padding=padding)
    leaves = [LAYOUTS[layout](t).requires_grad_() for t in (x, weight)] + [bias.requires_grad_()]
    assert plan_of(*leaves, settings).implementation.name == "direct"

    def result(*given: Tensor, ours: bool = False) -> list[Tensor]:
        if ours:
            y = conv_act(*given, stride=1, padding=padding, negative_slope=slope)
        else:
            y = F.conv2d(*given, 1, padding)
            y = F.relu(y) if slope == 0 else F.leaky_relu(y, slope)
        upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
        return [y, *torch.autograd.grad(y, given, upstream)]

    exact = result(*(t.detach().double().requires_grad_() for t in leaves))
    found, by_torch = result(*leaves, ours=True), result(*leaves)
    for a, p, e in zip(found, by_torch, exact, strict=True):
        assert error(a, e) <= max(2 * error(p, e), 1e-6)
    for a, p in zip(found[:3], by_torch[:3], strict=True):
        assert layout == "channels_last" or a.stride() == p.stride()
    assert found[1].stride() == by_torch[1].stride()


@pytest.mark.parametrize("colours", [1, 3])
def test_contiguous_images_have_contiguous_strides(colours):
    """Also those of one channel, which count as contiguous with other strides too."""
    case = CASES[0]._replace(colours=colours)
    for transposed, index in ((True, 0), (False, 1)):  # the image, or its gradient
        given = [t.contiguous() for t in tensors(case, transposed)]
        found, by_torch = ours(case, transposed, 1.0, *given)[index], plain(case, transposed, 1.0, *given)[index]
        assert found.stride() == by_torch.stride()


@pytest.mark.parametrize(
    ("kernel", "padding", "stride", "taken"),
    [(3, 2, 1, True), (3, 3, 1, False), (1, 0, 1, False), (3, 1, 2, False), (17, 8, 1, False)],
)
def test_which_convolutions_to_an_image(kernel, padding, stride, taken):
    """Those of stride 1 that are transposed convolutions with a padding of at least 0; not a matrix product."""
    x, weight = torch.randn(2, 16, 20, 20), torch.randn(3, 16, kernel, kernel)
    plan = plan_of(x, weight, None, ConvSettings.cached(2, stride=stride, padding=padding))
    assert (plan.implementation.name == "direct") == taken


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, True, True), (True, True, True)])
@pytest.mark.parametrize("writable", [False, True])
def test_only_the_gradients_that_are_needed(monkeypatch, needs, writable):
    """And without PyTorch's functions for the activation or the convolution."""
    case = CASES[1]
    x, weight, bias, grad = tensors(case, False)
    expected = plain(case, False, 0.2, x, weight, bias, grad)[1:]
    leaves = [t.requires_grad_(need) for t, need in zip((x, weight, bias), needs, strict=True)]
    y = conv_act(*leaves, stride=2, padding=2, writable=writable)

    def never(*_: Any) -> None:
        raise AssertionError("one of PyTorch's functions was called")

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", never)
    monkeypatch.setattr(torch.ops.aten, "leaky_relu_backward", never)
    y.backward(grad)
    for leaf, need, e in zip(leaves, needs, expected, strict=True):
        assert (leaf.grad is not None) == need
        if need:
            assert error(leaf.grad, e) < 1e-5


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("slope", SLOPES)
def test_values_that_are_not_finite_travel_as_in_torch(transposed, bad, slope):
    case = CASES[1]
    x, weight, bias, grad = tensors(case, transposed)
    x[1, -1, 4, 3] = bad
    y = conv_act(
        x,
        weight,
        bias,
        transposed=transposed,
        stride=case.stride,
        padding=case.padding,
        output_padding=case.left_over if transposed else 0,
        negative_slope=slope,
    )
    expected = plain(case, transposed, slope, x, weight, bias, grad)[0]
    assert torch.isnan(expected).any() or torch.isinf(expected).any() or (slope == 0 and bad < 0)
    assert error(y, expected) < 1e-5
    assert torch.isfinite(y[0]).all()


def test_gradients_that_are_not_finite_travel_as_in_torch():
    case = CASES[0]
    x, weight, bias, grad = tensors(case, False)
    grad[0, 5, 4, 4], grad[1, 6, 3, 3] = float("nan"), float("inf")
    for a, e in zip(
        ours(case, False, 0.2, x, weight, bias, grad), plain(case, False, 0.2, x, weight, bias, grad), strict=True
    ):
        assert error(a, e) < 1e-5


@pytest.mark.parametrize("transposed", [False, True])
def test_second_derivatives(transposed):
    """They are PyTorch's: of the input's gradient, as for a gradient penalty, and of the weight's."""
    case = CASES[3]
    x, weight, bias, grad = tensors(case, transposed)

    def second(function: Any, *given: Tensor) -> Sequence[Tensor]:
        leaves = [t.detach().requires_grad_() for t in given]
        options: dict[str, Any] = {"transposed": True, "output_padding": case.left_over} if transposed else {}
        y = function(*leaves, stride=case.stride, padding=case.padding, **options)
        first = torch.autograd.grad(y, leaves[:2], grad.to(y.dtype), create_graph=True)
        return torch.autograd.grad(sum(t.pow(2).sum() for t in first), leaves[:2])

    def reference(x: Tensor, weight: Tensor, bias: Tensor, transposed: bool = False, **options: Any) -> Tensor:
        return F.leaky_relu((F.conv_transpose2d if transposed else F.conv2d)(x, weight, bias, **options), 0.2)

    found = second(conv_act, x, weight, bias)
    for a, e in zip(found, second(reference, x.double(), weight.double(), bias.double()), strict=True):
        assert error(a, e) < 1e-5


@pytest.mark.parametrize("transposed", [False, True])
def test_the_same_bits_each_time_and_on_any_number_of_threads(transposed, threads):
    case = CASES[1]._replace(batch=5)
    given = tensors(case, transposed)
    torch.set_num_threads(1)
    first = ours(case, transposed, 0.2, *given)
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        for a, b in zip(first[:3], ours(case, transposed, 0.2, *given)[:3], strict=True):
            assert torch.equal(a, b)


def test_batches_are_computed_apart():
    """Each image by itself has the bits that it has in a batch."""
    case = CASES[0]._replace(batch=4)
    x, weight, bias, _ = tensors(case, False)
    whole = convolve(x, weight, bias, case.settings(False), 0.2)
    for image, y in zip(x.split(1), whole.split(1), strict=True):
        assert torch.equal(convolve(image, weight, bias, case.settings(False), 0.2), y)


def test_where_it_applies(monkeypatch):
    x, weight, settings = torch.randn(2, 3, 8, 8), torch.randn(8, 3, 5, 5), ConvSettings.cached(2, stride=2, padding=2)

    def name(x: Tensor = x, weight: Tensor = weight, settings: ConvSettings = settings, **options: Any) -> str:
        x = x.contiguous(memory_format=torch.channels_last)
        return plan_of(x, weight, None, settings, **options).implementation.name

    assert name() == "direct"
    assert plan_of(x, weight, None, settings).implementation.name != "direct"
    assert name(settings=ConvSettings.cached(2, stride=[1, 2], padding=[0, 1])) == "direct"
    assert name(torch.randn(2, 5, 8, 8), torch.randn(8, 5, 5, 5)) != "direct"
    assert name(x.double(), weight.double()) != "direct"
    assert name(x.bfloat16(), weight.bfloat16()) != "direct"
    assert name(torch.randn(2, 6, 8, 8), settings=ConvSettings.cached(2, groups=2, padding=2)) != "direct"
    assert name(settings=ConvSettings.cached(2, dilation=2, padding=2)) != "direct"
    assert name(settings=ConvSettings.cached(2, stride=2, padding=2, native=False)) != "direct"
    assert name(torch.randn(2, 3, 40, 8), torch.randn(8, 3, 17, 5)) != "direct"
    assert name(differentiable=True) != "direct"
    monkeypatch.setattr(backend, "has_native_cpu", lambda: False)
    assert name() != "direct"


def test_where_it_is_faster(monkeypatch):
    """Not for few features, few products, or, from an image, more weights than fit into the caches."""
    monkeypatch.undo()
    settings = ConvSettings.cached(2, stride=2, padding=2)
    transposed = ConvSettings.cached(2, transposed=True, stride=2, padding=2, output_padding=1)

    def names(channels: int, side: int, kernel: int = 5) -> tuple[str, str]:
        weight = torch.empty(channels, 3, kernel, kernel)
        image, features = torch.empty(1, 3, side, side), torch.empty(1, channels, side // 2, side // 2)
        image = image.contiguous(memory_format=torch.channels_last)
        plans = plan_of(image, weight, None, settings), plan_of(features, weight, None, transposed)
        return plans[0].implementation.name, plans[1].implementation.name

    assert names(64, 32) == ("direct", "direct")
    assert "direct" not in names(64, 8)
    assert "direct" not in names(7, 128)
    assert names(3500, 32)[0] != "direct"
    assert names(3500, 32)[1] == "direct"


@pytest.mark.parametrize("batch", [1, 4])
def test_the_model_takes_it(monkeypatch, batch):
    """D's first layer and G's last one, with their gradients."""
    monkeypatch.undo()
    model = igan_fast.IterativeGAN(image_size=32, width=16, attributes=4, latent=8)
    calls = []
    for name in ("direct_conv", "direct_conv_transposed", "direct_conv_gradients"):
        operator = getattr(torch.ops.igan_fast, name)
        monkeypatch.setattr(
            torch.ops.igan_fast,
            name,
            lambda *arguments, name=name, operator=operator: calls.append(name) or operator(*arguments),
        )
    monkeypatch.setattr(direct, "MIN_PRODUCTS", 1 << 17)
    images = model.generator(torch.rand(batch, 8), torch.rand(batch, 4))
    assert calls == ["direct_conv_transposed"]
    features = model.discriminator.features(images)[0]
    assert calls[1:] == ["direct_conv"]
    features.sum().backward()
    assert sorted(calls[2:]) == [
        "direct_conv",
        "direct_conv_gradients",
        "direct_conv_gradients",
        "direct_conv_transposed",
    ]


def test_without_the_activations_signs():
    """``gradients`` from the gradient of the LeakyReLU's input is ``activation_gradients`` from its output's."""
    case = CASES[0]
    x, weight, _, grad = tensors(case, False)
    settings, spec = case.settings(False), InputSpec.of(x)
    signs = torch.randn_like(grad)
    dz = torch.ops.aten.leaky_relu_backward(grad, signs, 0.2, True)
    with torch.no_grad():
        dx, dweight = gradients(dz, x, weight, settings, spec, needs_input=True, needs_weight=True)
        fused = activation_gradients(grad, signs, 0.2, x, weight, settings, spec, needs=(True, True, True))
    assert fused is not None
    for a, b in zip(fused, (dx, dweight, dz.sum((0, 2, 3))), strict=True):
        assert error(a, b) < 1e-6


IMAGE, FEATURES, WEIGHT = torch.randn(2, 8, 6, 3), torch.randn(2, 4, 3, 5), torch.randn(5, 3, 5, 5)
CALLS = {
    "direct_conv": (IMAGE, WEIGHT, [4, 3], [2, 2], [2, 2], torch.randn(5), 0.2),
    "direct_conv_transposed": (FEATURES, FEATURES.clone(), 0.2, WEIGHT, [8, 6], [2, 2], [2, 2], torch.randn(3), 1.0),
    "direct_conv_gradients": (IMAGE, FEATURES, None, 1.0, [5, 5], [2, 2], [2, 2]),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_operators_are_registered_rightly(name):
    torch.library.opcheck(getattr(torch.ops.igan_fast, name), CALLS[name])


def test_shapes_without_data():
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert torch.ops.igan_fast.direct_conv(*CALLS["direct_conv"]).shape == (2, 4, 3, 5)
        assert torch.ops.igan_fast.direct_conv_transposed(*CALLS["direct_conv_transposed"]).shape == (2, 8, 6, 3)
        dweight, dbias = torch.ops.igan_fast.direct_conv_gradients(*CALLS["direct_conv_gradients"])
        assert dweight.shape == WEIGHT.shape
        assert dbias.shape == (5,)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("direct_conv", {0: IMAGE.double()}, "image: expected float32"),
        ("direct_conv", {0: IMAGE[:0]}, "image: expected 4 dimensions, none of them empty"),
        ("direct_conv", {0: IMAGE[..., :2]}, "weight has 3 channels on the input's side; expected 2"),
        ("direct_conv", {1: WEIGHT[0]}, "weight: expected"),
        ("direct_conv", {1: WEIGHT.double()}, "weight: expected"),
        ("direct_conv", {2: [4, 4]}, "does not take 6 to 4"),
        ("direct_conv", {2: [4]}, "size: expected two numbers"),
        ("direct_conv", {3: [0, 2]}, "stride: expected two numbers, for height and width, of at least 1"),
        ("direct_conv", {4: [-1, 2]}, "padding: expected two numbers, for height and width, of at least 0"),
        ("direct_conv", {5: torch.randn(4)}, "bias: expected \\(5,\\)"),
        ("direct_conv", {1: torch.randn(5, 3, 17, 5)}, "the kernel's height is 17; expected at most 16"),
        (
            "direct_conv_transposed",
            {0: FEATURES.permute(0, 2, 1, 3)},
            "features: expected \\(N, H, W, C\\), contiguous",
        ),
        ("direct_conv_transposed", {1: FEATURES[:1]}, "signs: expected the shape of features"),
        ("direct_conv_transposed", {3: WEIGHT[:4]}, "weight has 4 channels on the input's side; expected 5"),
        ("direct_conv_transposed", {4: [9, 6]}, "does not take 9 to 4"),
        ("direct_conv_transposed", {7: torch.randn(5)}, "bias: expected \\(3,\\)"),
        ("direct_conv_gradients", {1: FEATURES[:1]}, "expected one batch, found 2 and 1"),
        ("direct_conv_gradients", {2: FEATURES.double()}, "signs: expected float32"),
        ("direct_conv_gradients", {4: [5, 0]}, "kernel: expected two numbers"),
    ],
)
def test_the_operators_name_the_wrong_argument(name, changed, message):
    arguments = [changed.get(i, argument) for i, argument in enumerate(CALLS[name])]
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.igan_fast, name)(*arguments)
