"""Networks of blocks against the reference's blocks in float64 and their autograd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from convolution_cases import CASES, Case
from oracles import DTYPES, HALF, assert_as_good, error
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from igan_fast.ops.blocks import Block, Norm, RawMap, block_features, block_image, can_run_blocks
from igan_fast.ops.convolution import ConvSettings, triton
from igan_fast.ops.triton import (
    common,
    convolution,
    convolution_blocks,
    convolution_image,
    convolution_image_weight,
    convolution_launch,
    convolution_weight,
)
from igan_fast.reference import ops as reference

DEVICE = torch.device("cpu" if common.INTERPRETED else "cuda")
if DEVICE.type == "cuda" and not torch.cuda.is_available():
    pytest.skip("there is no CUDA device, and Triton's kernels are compiled here", allow_module_level=True)

EPS, MOMENTUM = 1e-5, 0.1
PARAMETERS = ("weight", "gamma", "beta", "mean", "var")


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks are asked for, and new tensors are on the device. The launches have few programs, each of which takes the
    interpreter long."""
    torch.manual_seed(0)
    monkeypatch.setattr(triton, "_CHOICE", "blocks")
    for module in (convolution_weight, convolution_image_weight):
        monkeypatch.setattr(module, "_PROGRAMS", 4)
    if DEVICE.type == "cuda":
        with DEVICE:
            yield
        return
    import triton_interpreter

    triton_interpreter.speed_up()
    triton_interpreter.round_to_nearest(monkeypatch)
    yield


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs have many parts, and edges in all places."""
    for name in ("_SIDE", "_WIDE_SIDE"):
        monkeypatch.setattr(convolution_launch, name, 16)
    monkeypatch.setattr(convolution_launch, "_STEP_BYTES", 32)
    for module in (convolution_weight, convolution_image, convolution_image_weight):
        monkeypatch.setattr(module, "_BLOCK", 64)
    for module in (convolution, convolution_blocks):
        monkeypatch.setattr(module, "_COMBINE_SEGMENTS", 4)


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


def middle(case: Case, transposed: bool) -> list[Layer]:
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


def check(
    layers: list[Layer],
    x: Tensor,
    *,
    slope: float = 0.2,
    groups: int = 1,
    dtype: torch.dtype = torch.float32,
    distance: bool = True,
    frozen: Sequence[int] = (),
) -> None:
    # The same numbers for each dtype, so that what they compute differs only by its own rounding.
    x = x.to(dtype).double()
    for layer in layers:
        for name in PARAMETERS:
            setattr(layer, name, getattr(layer, name).to(dtype).double())
    shape, targets = x.shape, [torch.randn(x.shape).to(dtype)]
    for layer in layers:
        size = layer.settings.output_size(shape, layer.weight.shape)
        shape = torch.Size((shape[0], len(layer.gamma), *size))
        targets.append(torch.randn(shape).to(dtype))
    arguments = slope, groups, targets if distance else None, torch.randn(shape).to(dtype)
    exact = Results(torch.float64, x, layers, frozen).of_reference(*arguments)
    plain = Results(dtype, x, layers, frozen).of_reference(*arguments)
    assert_as_good(Results(dtype, x, layers, frozen).of_blocks(*arguments), plain, exact, dtype)


@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case: str, transposed: bool) -> None:
    """In float64, so that each number is right to the last digits, whatever cancels."""
    check(middle(CASES[case], transposed), torch.randn(4, 2, *CASES[case].size), groups=2, dtype=torch.float64)


@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
def test_many_parts(small_parts: None, transposed: bool) -> None:
    case = CASES["the paper's, odd size"]
    check(middle(case, transposed), torch.randn(4, 2, *case.size), groups=2)


@pytest.mark.parametrize(("dtype", "groups"), [(torch.float32, 1), *((dtype, 2) for dtype in DTYPES)])
def test_dtypes(dtype: torch.dtype, groups: int) -> None:
    """D's layers, narrow: of 5×5 taps with stride 2. Half types have nearly no activation (see ``test_an_image``)."""
    layers = [Layer(ends, (5, 5), stride=2, padding=2) for ends in ((3, 4), (4, 5), (5, 3))]
    check(layers, torch.randn(4, 3, 20, 14), groups=groups, dtype=dtype, slope=0.9 if dtype in HALF else 0.2)


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_slopes(slope: float) -> None:
    check(middle(CASES["4×4"], False), torch.randn(2, 2, 4, 6), slope=slope, groups=2)


@pytest.mark.parametrize(("frozen", "distance"), [((), False), ((0,), True), ((1,), False), ((0, 1, 2), True)])
def test_what_needs_no_gradient(frozen: Sequence[int], distance: bool) -> None:
    check(middle(CASES["stride 1"], False), torch.randn(2, 2, 5, 4), frozen=frozen, distance=distance)


def test_a_single_block_and_the_smallest_maps() -> None:
    check([Layer((2, 3), (3, 3), padding=1)], torch.randn(2, 2, 1, 1))
    check([Layer((1, 1), (1, 1))], torch.randn(1, 1, 2, 1))


def test_data_far_from_zero() -> None:
    check(middle(CASES["stride 1"], False), torch.randn(4, 2, 5, 4) + 30, groups=2)


def test_nothing_before_the_first_weight_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With x and the first two blocks fixed, the backward pass ends at the third."""
    from igan_fast.ops.triton.common import OPERATORS

    layers = middle(CASES["stride 1"], False)
    results = Results(torch.float32, torch.randn(2, 2, 5, 4), layers, frozen=(0, 1))
    results.x.requires_grad_(False)
    found = block_features(results.x, results.blocks(0.2, 1))
    called: list[str] = []
    node = found.last.grad_fn
    assert node is not None

    class Noted:
        def __getattr__(self, name: str) -> Any:
            called.append(name)
            return OPERATORS[name]

    node.plan = node.plan._replace(operators=Noted())  # type: ignore[attr-defined]
    found.last.sum().backward()
    assert called == ["norm_act_backward", "convolution_weight_gradient"]
    assert results.parameters[2][0].grad is not None


def test_the_gradient_of_the_distance_alone() -> None:
    """And of the result alone: each by itself is the gradient of a sum without the other."""
    layers, x = middle(CASES["4×4"], True), torch.randn(2, 2, 4, 6)
    exact, ours = (Results(dtype, x, layers) for dtype in (torch.float64, torch.float32))
    shapes = [x.shape, *(layer_map.y.shape for layer_map in block_features(ours.x, ours.blocks(0.2, 1)).maps[1:])]
    targets = [torch.randn(shape) for shape in shapes]
    up = torch.zeros(shapes[-1])
    expected = exact.of_reference(0.2, 1, targets, up)
    found = block_features(ours.x, ours.blocks(0.2, 1), [RawMap(t) for t in targets])
    assert found.distance is not None
    gradients = torch.autograd.grad(7 * found.distance, ours.leaves, retain_graph=True)
    for actual, exact_gradient in zip(gradients, expected[-len(gradients) :], strict=True):
        assert error(actual, exact_gradient) < 2e-5
    exact = Results(torch.float64, x, layers)
    up = torch.randn(shapes[-1])
    expected = exact.of_reference(0.2, 1, None, up)
    gradients = torch.autograd.grad(found.last, ours.leaves, up)
    for actual, exact_gradient in zip(gradients, expected[-len(gradients) :], strict=True):
        assert error(actual, exact_gradient) < 2e-5


@pytest.mark.parametrize("groups", [1, 2])
def test_maps_as_targets(groups: int) -> None:
    """The maps of other images, which were normalised in two groups, as the photos' are in an iteration."""
    layers = middle(CASES["the paper's, odd size"], False)
    others, images = torch.randn(2 * groups, 2, 9, 7), torch.randn(groups, 2, 9, 7)
    if groups == 1:
        images = torch.cat([images, images + 1])
        others = torch.cat([others, others * 2])
    ours = Results(torch.float32, others, layers)
    maps = [each.first(len(images)) for each in block_features(ours.x, ours.blocks(0.2, 2)).maps]
    assert [each.affine is None for each in maps] == [True, False, False, False]
    assert [len(each.affine) for each in maps[1:] if each.affine is not None] == [1, 1, 1]
    exact = Results(torch.float64, others, layers)
    h, expected = exact.x, [exact.x]
    for layer, (weight, *norm) in zip(layers, exact.parameters, strict=True):
        h = reference.conv_norm_act(h, weight, *norm, **layer.arguments, groups=2)
        expected.append(h)
    for raw, full in zip(maps, expected, strict=True):
        assert error(raw.activation(), full[: len(images)]) < 1e-5
        assert not raw.y.requires_grad
    other = Results(torch.float32, images, layers)
    distance = block_features(other.x, other.blocks(0.2, 1), maps).distance
    plain = block_features(other.x, other.blocks(0.2, 1), [RawMap(each.activation()) for each in maps]).distance
    assert distance is not None
    assert torch.equal(distance, plain)
    assert distance > 0


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

    def run(self, dtype: torch.dtype, slope: float, groups: int, ours: bool) -> list[Tensor]:
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


def check_image(network: ImageNetwork, slope: float, groups: int, dtype: torch.dtype) -> None:
    """The same numbers for each dtype, as of ``check``."""
    for owner, names in ((network, ("x", "weight", "bias")), *((layer, PARAMETERS) for layer in network.layers)):
        for name in names:
            setattr(owner, name, getattr(owner, name).to(dtype).double())
    network.head = [t.to(dtype).double() for t in network.head]
    network.films = [None if t is None else t.to(dtype).double() for t in network.films]
    arguments = slope, groups
    found, plain = network.run(dtype, *arguments, True), network.run(dtype, *arguments, False)
    assert_as_good(found, plain, network.run(torch.float64, *arguments, False), dtype)


@pytest.mark.parametrize("films", [False, True], ids=["", "film"])
@pytest.mark.parametrize(
    ("kernel", "groups", "dtype"),
    [
        ((5, 2, 1), 1, torch.float32),
        *(((5, 2, 1), 2, dtype) for dtype in DTYPES),
        ((4, 1, 0), 2, torch.float64),
        ((3, 2, 0), 2, torch.float64),
    ],
)
def test_an_image(kernel: tuple[int, int, int], groups: int, dtype: torch.dtype, films: bool) -> None:
    """G's layers: the first map is normalised, the last convolution makes an image. The activation is a ReLU; of half
    types it is nearly none, because a number near 0 may be rounded to the other side."""
    taps, padding, extra = kernel
    options = {"stride": 2, "padding": padding, "output_padding": extra}
    layers = [Layer(ends, (taps, taps), True, **options) for ends in ((7, 5), (5, 6))]
    network = ImageNetwork(layers, (4, 7, 5, 4), (6, 3, taps, taps), films, **options)
    check_image(network, 0.9 if dtype in HALF else 0.0, groups, dtype)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_film_of_many_parts(small_parts: None, groups: int) -> None:
    """Each image has several tiles and several steps, of which the last ones are not full; strided convolutions too."""
    layers = [
        Layer((3, 4), (3, 2), stride=(2, 1), padding=(1, 0)),
        Layer((4, 17), (5, 5), True, stride=2, padding=2, output_padding=1),
        Layer((17, 5), (1, 1)),
    ]
    network = ImageNetwork(layers, (4, 3, 9, 6), (5, 1, 4, 3), True, stride=(2, 1))
    check_image(network, 0.2, groups, torch.float64)


def test_film_in_any_layout_and_wider_than_the_maps() -> None:
    """Float32 for maps in bfloat16, and a view."""
    x, weight = torch.randn(2, 3, 4, 4).bfloat16(), torch.randn(3, 3, 3, 3).bfloat16()
    norm, settings = Norm(None, None, None, None, MOMENTUM, EPS, 0.2, 1), ConvSettings.cached(2, transposed=True)
    film = torch.randn(2, 12, requires_grad=True)
    image = block_image(x, norm, [], weight, None, settings, [film[:, ::2]])
    copy = film.detach()[:, ::2].clone().requires_grad_()
    assert torch.equal(image, block_image(x, norm, [], weight, None, settings, [copy]))
    image.float().square().sum().backward()
    block_image(x, norm, [], weight, None, settings, [copy]).float().square().sum().backward()
    assert film.grad is not None
    assert film.grad.dtype == torch.float32
    assert torch.equal(film.grad[:, ::2], copy.grad)
    assert copy.grad.abs().min() > 0


def test_errors_of_films() -> None:
    x, weight, film = torch.randn(2, 3, 4, 4), torch.randn(3, 3, 3, 3), torch.randn(2, 6)
    norm, settings = Norm(None, None, None, None, MOMENTUM, EPS, 0.2, 1), ConvSettings.cached(2, transposed=True)
    with pytest.raises(ValueError, match="found 2 films; expected 1, for x and for each block"):
        block_image(x, norm, [], weight, None, settings, [film, film])
    with pytest.raises(ValueError, match=r"film has shape \(2, 5\); expected \(2, 6\)"):
        block_image(x, norm, [], weight, None, settings, [film[:, :5]])


def small_network() -> tuple[Results, list[Layer]]:
    layers = [Layer((2, 3), (3, 3), padding=1), Layer((3, 2), (1, 1))]
    return Results(torch.float32, torch.randn(2, 2, 4, 4), layers), layers


def test_second_derivatives_are_refused() -> None:
    results, _ = small_network()
    last = block_features(results.x, results.blocks(0.2, 1)).last
    (slope,) = torch.autograd.grad(last.square().sum(), results.x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_errors() -> None:
    results, _ = small_network()
    with pytest.raises(ValueError, match="groups is 3; expected a positive divisor of the batch size 2"):
        block_features(results.x, results.blocks(0.2, 3))
    blocks = results.blocks(0.2, 2)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        block_features(results.x[:, :, :1, :1], [blocks[1]._replace(conv_weight=torch.randn(2, 2, 1, 1))])
    targets = [RawMap(torch.randn(2, channels, 4, width)) for channels, width in ((2, 4), (3, 5), (2, 4))]
    with pytest.raises(ValueError, match=r"target 1 has shape \(2, 3, 4, 5\); expected \(2, 3, 4, 4\)"):
        block_features(results.x, results.blocks(0.2, 1), targets)


def test_where_blocks_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    results, layers = small_network()
    pairs = [(layer.settings, weight) for layer, (weight, *_) in zip(layers, results.parameters, strict=True)]
    assert can_run_blocks(results.x, pairs)
    assert not can_run_blocks(results.x.to(torch.bfloat16), pairs)
    assert not can_run_blocks(results.x[:, :1], pairs)
    assert not can_run_blocks(results.x[:0], pairs)
    assert not can_run_blocks(results.x, [(ConvSettings(2, stride=9, padding=0), torch.randn(3, 2, 5, 5))])
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert can_run_blocks(results.x, pairs)
    monkeypatch.setattr(triton, "MOST_POSITIONS", 31)
    assert not can_run_blocks(results.x, pairs)
    monkeypatch.setattr(triton, "MOST_POSITIONS", 32)
    assert can_run_blocks(results.x, pairs)
    monkeypatch.setattr(triton, "_CHOICE", "triton")
    assert not can_run_blocks(results.x, pairs)
    monkeypatch.setattr(triton, "_CHOICE", "block")
    with pytest.raises(ValueError, match="IGAN_FAST_CONVOLUTION is 'block'"):
        can_run_blocks(results.x, pairs)


def test_autocast() -> None:
    """Float32 parameters, of which the convolutions take bfloat16: as if these were given in bfloat16."""
    results, _ = small_network()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        found = block_features(results.x, results.blocks(0.2, 1))
    assert found.last.dtype == torch.bfloat16
    found.last.sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in results.leaves)
    rounded = [block._replace(conv_weight=block.conv_weight.detach().bfloat16()) for block in results.blocks(0.2, 1)]
    assert torch.equal(block_features(results.x.detach().bfloat16(), rounded).last, found.last)
