"""Convolutions by minimal filtering, transposed ones and the gradients, against PyTorch's own in float64."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from oracles import HALF, assert_as_good, error
from torch import Tensor

from igan_fast import layers, ops
from igan_fast.ops import backend
from igan_fast.ops.convolution import (
    ConvSettings,
    InputSpec,
    choice,
    filters,
    filters_kept,
    plan_of,
    winograd,
    winograd_costs,
)
from igan_fast.ops.convolution.plan import Problem

pytestmark = pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])

#: How far tiles of 2 and of 4 may be from float64; plain float32 is about 5e-7.
ALLOWED = {2: 2e-6, 4: 1e-5}


class Filter(NamedTuple):
    kernel: int
    stride: int
    padding: int

    @property
    def settings(self) -> dict[str, int]:
        return {"stride": self.stride, "padding": self.padding}


#: One of each kind, with the padding that networks use.
USUAL = [Filter(5, 2, 2), Filter(4, 2, 1), Filter(3, 1, 1), Filter(3, 2, 1)]
EVERY = [Filter(kernel, stride, padding) for kernel, stride in winograd.FILTERS for padding in range(kernel)]
#: Batch, channels of the large and of the small feature map, height and width of the large one.
SHAPES = [
    (2, 16, 32, 8, 8),
    (3, 17, 35, 10, 6),
    (1, 33, 16, 5, 5),
    (2, 16, 16, 6, 13),
    (5, 24, 40, 16, 25),
    (1, 64, 16, 15, 8),
]


def name_of(filter: Filter) -> str:
    return f"{filter.kernel}x{filter.kernel}s{filter.stride}p{filter.padding}"


IMPLEMENTATION = winograd.Winograd()


@pytest.fixture(autouse=True)
def always_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels compute every problem, however small."""
    monkeypatch.setattr(winograd_costs, "MARGIN", math.inf)
    monkeypatch.setattr(winograd_costs, "FEWEST", 0)


def settings_of(filter: Filter, **others: Any) -> ConvSettings:
    return ConvSettings(2, stride=filter.stride, padding=filter.padding, **others)


def solution(
    kind: str,
    shape: Sequence[int],
    weight_shape: Sequence[int],
    settings: ConvSettings,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """The function of this kind for an input of this shape, chosen anew."""
    shapes = torch.Size(shape), torch.Size(weight_shape)
    problem = Problem(settings, True, *shapes, dtype, dtype, "cpu", True, False, False, False)
    run = getattr(IMPLEMENTATION, kind)(problem)
    assert run is not None
    return run


def convolve(
    x: Tensor, weight: Tensor, settings: ConvSettings, bias: Tensor | None = None, negative_slope: float = 1.0
) -> Tensor:
    return solution("convolve", x.shape, weight.shape, settings, x.dtype)(x, weight, bias, negative_slope)


def input_gradient(grad: Tensor, weight: Tensor, shape: Sequence[int], settings: ConvSettings) -> Tensor:
    run = solution("input_gradient", shape, weight.shape, settings, grad.dtype)
    return run(grad, weight, InputSpec(torch.Size(shape), contiguous=False))


def weight_gradient(grad: Tensor, x: Tensor, weight_shape: Sequence[int], settings: ConvSettings) -> Tensor:
    return solution("weight_gradient", x.shape, weight_shape, settings, x.dtype)(grad, x)


@pytest.fixture(params=[2, 4])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every call uses tiles of this size."""
    monkeypatch.setattr(winograd, "best_tile", lambda *_, **__: request.param)
    return request.param


@pytest.fixture(params=USUAL, ids=name_of)
def usual(request: pytest.FixtureRequest) -> Filter:
    return request.param


class Case(NamedTuple):
    """The large feature map, the small one, and the weight between them."""

    large: Tensor
    small: Tensor
    weight: Tensor
    filter: Filter

    @property
    def left_over(self) -> tuple[int, int]:
        """The output padding with which the transposed convolution has the size of the large feature map."""
        kernel, stride, padding = self.filter
        return tuple((size + 2 * padding - kernel) % stride for size in self.large.shape[2:])


def case(filter: Filter, shape) -> Case:
    kernel, stride, padding = filter
    batch, large, small, *sizes = shape
    return Case(
        torch.randn(batch, large, *sizes),
        torch.randn(batch, small, *((size + 2 * padding - kernel) // stride + 1 for size in sizes)),
        torch.randn(small, large, kernel, kernel) * 0.2,
        filter,
    )


def three(c: Case) -> list[Tensor]:
    """The convolution, the transposed convolution and the weight gradient, ours."""
    settings = settings_of(c.filter)
    return [
        convolve(c.large, c.weight, settings),
        convolve(c.small, c.weight, settings_of(c.filter, transposed=True, output_padding=c.left_over)),
        weight_gradient(c.small, c.large, c.weight.shape, settings),
    ]


def expected_three(c: Case, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """PyTorch's."""
    large, small, weight = (t.to(dtype) for t in c[:3])
    settings = c.filter.settings
    return [
        F.conv2d(large, weight, None, **settings),
        F.conv_transpose2d(small, weight, None, output_padding=c.left_over, **settings),
        torch.nn.grad.conv2d_weight(large, weight.shape, small, **settings),
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("filter", EVERY, ids=name_of)
def test_equals_torch_in_float64(tile, filter, shape):
    """With any padding and any size, odd ones too."""
    c = case(filter, shape)
    found = three(c)
    for index, (a, e) in enumerate(zip(found, expected_three(c), strict=True)):
        assert error(a, e) < ALLOWED[tile], index
    # The same computations as gradients of a transposed convolution, and of a convolution.
    (large, small, weight), settings = c[:3], settings_of(filter)
    transposed = settings_of(filter, transposed=True, output_padding=c.left_over)
    for index, same in enumerate(
        (
            input_gradient(large, weight, small.shape, transposed),
            input_gradient(small, weight, large.shape, settings),
            weight_gradient(large, small, weight.shape, transposed),
        )
    ):
        assert torch.equal(same, found[index]), index


@pytest.fixture
def multiplies_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU has no instructions for products of half types."""
    monkeypatch.setattr(winograd_costs, "_PRODUCTS", dict.fromkeys(HALF, "none"))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("multiplies_in_float32")
def test_half_types_are_those_results_in_float32_rounded_once(tile, usual, shape, dtype):
    c = case(usual, shape)
    half = c._replace(large=c.large.to(dtype), small=c.small.to(dtype), weight=c.weight.to(dtype))
    widened = c._replace(large=half.large.float(), small=half.small.float(), weight=half.weight.float())
    found = three(half)
    for index, (a, e) in enumerate(zip(found, three(widened), strict=True)):
        assert a.dtype == dtype
        assert torch.equal(a, e.to(dtype)), index
    assert_as_good(found, expected_three(half, dtype), expected_three(half), dtype)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.usefixtures("multiplies_in_float32")
def test_half_types_with_a_bias_nan_and_large_values(tile, usual, dtype):
    c = case(usual, (2, 17, 35, 10, 6))
    x, weight, bias = c.large.to(dtype), c.weight.to(dtype), torch.randn(35).to(dtype)
    x[0, 3, 2, 2], x[1] = float("nan"), 6e4 * x[1].sign()
    widened = convolve(x.float(), weight.float(), settings_of(usual), bias.float(), 0.2).to(dtype)
    assert widened[0].isnan().any()
    assert not widened[1].isnan().any()
    assert widened[1].isinf().any() == (dtype == torch.float16)  # which ends at 65504
    found = convolve(x, weight, settings_of(usual), bias, 0.2)
    assert torch.equal(found.nan_to_num(nan=7), widened.nan_to_num(nan=7))
    assert torch.equal(found.isnan(), widened.isnan())


@pytest.mark.parametrize("filter", EVERY, ids=name_of)
def test_the_smallest_feature_maps(tile, filter):
    """Of one value, and of the fewest values with which the padded input is as large as the filter."""
    kernel, stride, padding = filter
    for size in range(max(1, kernel - 2 * padding), kernel - 2 * padding + stride + 2):
        if size < 1:
            continue
        c = case(filter, (2, 16, 17, size, max(1, kernel - 2 * padding)))
        for index, (a, e) in enumerate(zip(three(c), expected_three(c), strict=True)):
            assert error(a, e) < ALLOWED[tile], (size, index)


@pytest.mark.parametrize("shape", [(6, 70, 90, 32, 32), (9, 16, 400, 32, 32)])
def test_many_channels_and_tiles(tile, usual, shape):
    """Several blocks of tiles, each thread's own or (with more channels) shared, several panels of channels, and the
    sums of the weight gradient over blocks."""
    c = case(usual, shape)
    for a, e in zip(three(c), expected_three(c), strict=True):
        assert error(a, e) < ALLOWED[tile]


def test_any_memory_layout(tile, usual):
    large, small, weight, _ = c = case(usual, (2, 18, 20, 8, 12))
    expected = three(c)
    last = {"memory_format": torch.channels_last}
    sliced = torch.stack([weight, weight], -1)[..., 0]
    for l, s, w in (  # noqa: E741
        (large.contiguous(**last), small.contiguous(**last), weight.contiguous(**last)),
        (large.transpose(2, 3).contiguous().transpose(2, 3), small.flip(0).flip(0), sliced),
    ):
        for a, e in zip(three(Case(l, s, w, usual)), expected, strict=True):
            assert torch.equal(a, e)
    assert expected[0].is_contiguous(**last)
    assert expected[2].is_contiguous()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("slope", [0.2, 0.0, 1.0])
def test_bias_and_leaky_relu(tile, usual, transposed, slope):
    c = case(usual, (2, 17, 21, 6, 9))
    bias = torch.randn(17 if transposed else 21)
    z = expected_three(c)[int(transposed)] + bias.double().view(1, -1, 1, 1)
    settings = settings_of(usual, transposed=transposed, output_padding=c.left_over if transposed else 0)
    y = convolve(c.small if transposed else c.large, c.weight, settings, bias, slope)
    assert error(y, F.leaky_relu(z, slope)) < ALLOWED[tile]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_in_its_neighbourhood_and_image(tile, usual, bad):
    c = case(usual, (3, 16, 16, 24, 24))
    clean = three(c)
    c.large[1, 3, 0, 0] = bad
    c.small[1, 3, 0, 0] = bad
    found, expected = three(c), expected_three(c)
    for y, e, clean_y in zip(found[:2], expected[:2], clean[:2], strict=True):
        assert not e.isfinite().all()
        assert not y[~e.isfinite()].isfinite().any()  # nothing is hidden
        assert torch.equal(y[::2], clean_y[::2])  # the other images
        assert torch.equal(y[1, :, -8:, -8:], clean_y[1, :, -8:, -8:])
    assert not expected[2].isfinite().all()
    assert not found[2][~expected[2].isfinite()].isfinite().any()


def test_nothing_remains_in_the_scratch_memory_of_a_thread(tile, usual):
    """The memory is kept from call to call, and calls with fewer channels do not write all of it."""
    fewer, more = case(usual, (5, 33, 35, 18, 14)), case(usual, (5, 64, 64, 20, 20))
    expected = three(fewer)
    three(Case(*(torch.full_like(t, float("nan")) for t in more[:3]), usual))
    for a, e in zip(three(fewer), expected, strict=True):
        assert torch.equal(a, e)


def test_filter_feature_map_and_gradient_agree_about_the_tiles(usual, monkeypatch):
    """Also where a convolution and its transposed convolution have tiles of different sizes."""
    c = case(usual, (2, 18, 20, 16, 8))
    for tiles in ((2, 4, 2), (4, 2, 4)):
        of = dict(zip(winograd_costs.COMPUTATIONS, tiles, strict=True))
        monkeypatch.setattr(winograd, "best_tile", lambda work, computation, of=of, **_: of[computation])
        for a, e in zip(three(c), expected_three(c), strict=True):
            assert error(a, e) < ALLOWED[4]


@pytest.mark.parametrize(
    ("filter", "size", "shape"),
    [
        (Filter(5, 2, 2), 4, (1, 132, 130, 112, 112)),
        (Filter(3, 1, 1), 4, (1, 250, 260, 73, 75)),
        (Filter(5, 2, 1), 4, (1, 132, 300, 7, 9)),
    ],
    ids=["large sums", "large sums, stride 1", "many parts"],
)
@pytest.mark.parametrize("count", [1, 2])
def test_weight_gradients_of_many_channels(filter, size, shape, count, monkeypatch, threads):
    """Sums that leave the caches have larger blocks of tiles, and those of one block are finished part by part."""
    monkeypatch.setattr(winograd, "best_tile", lambda *_, **__: size)
    torch.set_num_threads(count)
    c = case(filter, shape)
    x, grad = c.large, c.small
    found = weight_gradient(grad, x, c.weight.shape, settings_of(filter))
    expected = torch.nn.grad.conv2d_weight(x.double(), c.weight.shape, grad.double(), **filter.settings)
    assert error(found, expected) < ALLOWED[size]


@pytest.mark.parametrize("shape", [(5, 40, 48, 16, 16), (2, 130, 300, 12, 12)], ids=str)
def test_the_same_bits_each_time_and_on_any_number_of_threads(shape, tile, usual, threads):
    c = case(usual, shape)
    expected = three(c)
    for count in (1, 2, 2, 1, 2):
        torch.set_num_threads(count)
        assert all(torch.equal(a, e) for a, e in zip(three(c), expected, strict=True))


def test_two_threads_at_once():
    cases = [case(USUAL[0], (4, 16, 24, 16, 16)) for _ in range(2)]
    expected = [three(c) for c in cases]
    wrong = []

    def work(index: int) -> None:
        for _ in range(20):
            with filters_kept(uses=2):  # each thread's own
                found = three(cases[index])
            if not all(torch.equal(a, e) for a, e in zip(found, expected[index], strict=True)):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def applies(x: Tensor, weight: Tensor, **settings: Any) -> bool:
    return plan_of(x, weight, None, ConvSettings(2, **settings)).implementation.name == "winograd"


def test_where_it_applies(usual, monkeypatch):
    kernel, stride, padding = usual
    x, weight = torch.randn(40, 16, 16, 16), torch.randn(16, 16, kernel, kernel)
    plain = usual.settings | {"transposed": False, "output_padding": 0}
    doubling = usual.settings | {"transposed": True, "output_padding": stride - 1}
    pairs = {name: (value, value) for name, value in usual.settings.items()}
    assert applies(x, weight, **plain)
    assert applies(x, weight, **plain | pairs)
    assert applies(x, weight, **plain | {"padding": 0})
    assert applies(x[:, :, :15, :11], weight, **plain)
    assert applies(x, weight, **doubling)
    assert applies(x, weight, **doubling | {"output_padding": (0, stride - 1)})
    for settings, changes in (
        (
            plain,
            (
                {"stride": 3},
                {"stride": (stride, stride + 1)},
                {"padding": kernel},
                {"padding": -1},
                {"padding": (padding, padding + 1)},
                {"dilation": 2},
                {"groups": 2},
                {"native": False},
            ),
        ),
        (doubling, ({"output_padding": stride}, {"output_padding": (0, stride)}, {"stride": 3})),
    ):
        for change in changes:
            assert not applies(x, weight, **settings | change), change
    for other_x, other_weight in (
        (x.double(), weight.double()),
        (x, weight.double()),
        (x, weight.bfloat16()),
        (x.half(), weight.bfloat16()),
        (x[:, :15], weight[:, :15]),
        (x, weight[:15]),
        (x, weight[..., :-1]),
        (x, torch.randn(16, 16, 7, 7)),
        (x.to("meta"), weight.to("meta")),
        (x[:0], weight),
        (torch.randn(40, 32, 16, 16), weight),  # two groups
        (x[0], weight[0]),
    ):
        assert not applies(other_x, other_weight, **plain)
    assert not applies(x, weight[:, :15], **doubling)
    assert not applies(torch.randn(4000, 16, 1, 1), weight, **plain | {"padding": 0})  # smaller than the filter
    compiled = torch.compile(lambda x: x + applies(x, weight, **plain), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), x)
    monkeypatch.setattr(backend, "has_native_cpu", lambda: False)
    assert not applies(x, weight, **plain)


@pytest.mark.parametrize(
    ("products", "bfloat16", "float16"),
    [("none", True, True), ("vectors", True, False), ("matrices", False, False), (None, False, False)],
)
def test_half_types_are_taken_where_products_in_them_are_no_faster(products, bfloat16, float16, monkeypatch):
    monkeypatch.setattr(winograd_costs, "_PRODUCTS", dict.fromkeys(HALF, products))
    monkeypatch.setattr(choice, "_kept", choice._choose)
    monkeypatch.setattr(winograd_costs, "_COSTS", json.loads(winograd_costs.FILE.read_text())["avx512"]["costs"])
    x, weight = torch.randn(40, 16, 16, 16), torch.randn(16, 16, 3, 3)
    for dtype, expected in ((torch.bfloat16, bfloat16), (torch.float16, float16)):
        assert applies(x.to(dtype), weight.to(dtype), padding=1) is expected, dtype


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list:
    """What filters were transformed."""
    calls = []
    transform = winograd._transform_filter

    def counting(*arguments):
        calls.append(arguments)
        return transform(*arguments)

    monkeypatch.setattr(winograd, "_transform_filter", counting)
    return calls


def test_filters_are_kept_for_as_many_uses_as_were_asked_for(made):
    x, _, weight, _ = case(USUAL[0], (2, 16, 16, 8, 8))
    with filters_kept(uses=3):
        for expected in (1, 1, 1, 2):
            convolve(x, weight, settings_of(USUAL[0]))
            assert len(made) == expected
        convolve(x, weight, settings_of(USUAL[0], transposed=True))  # a filter of its own
        assert len(made) == 3
        with filters_kept(uses=1):  # a block of its own, in which none is kept
            convolve(x, weight, settings_of(USUAL[0]))
        convolve(x, weight, settings_of(USUAL[0]))
        assert len(made) == 3
    with torch.no_grad():
        weight *= 2
    changed = convolve(x, weight, settings_of(USUAL[0]))
    assert len(made) == 3
    assert error(changed, F.conv2d(x.double(), weight.double(), None, 2, 2)) < 1e-5


@pytest.mark.parametrize("frozen", [False, True])
def test_casts_of_one_weight_share_a_filter(made, frozen):
    """As those of two forward passes under autocast, and the backward pass of one of them."""
    block = layers.ConvNormAct2d(64, 64).requires_grad_(not frozen)
    images = torch.randn(16, 64, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    with filters_kept(uses=2), torch.autocast("cpu", torch.bfloat16):
        first, second = (block(images) for _ in range(2))
        assert len(made) == 1
        for y in (first, second):
            y.sum().backward(retain_graph=True)
        assert len(made) == 2  # the input gradient has a filter of its own
        assert not filters._thread.filters.entries
        block.float()(images)
        with torch.autocast("cpu", enabled=False):
            block(images.detach())
        assert len(made) == 4  # a filter for each dtype


def test_filters_are_kept_in_the_thread_that_asked(made):
    x, _, weight, _ = case(USUAL[0], (2, 16, 16, 8, 8))

    def keep() -> None:
        with filters_kept(uses=2):
            convolve(x, weight, settings_of(USUAL[0]))

    with filters_kept(uses=9):
        convolve(x, weight, settings_of(USUAL[0]))
        for expected in (2, 3):
            worker = threading.Thread(target=keep)
            worker.start()
            worker.join()
            assert len(made) == expected
        convolve(x, weight, settings_of(USUAL[0]))
        assert len(made) == 3


def test_kept_filters_belong_to_their_weights(tile):
    """Also where new weights are allocated in the memory of freed ones."""
    c = case(USUAL[0], (2, 16, 16, 8, 8))
    with filters_kept(uses=2):
        for _ in range(4):
            c = c._replace(weight=torch.randn(16, 16, 5, 5))
            for a, e in zip(three(c), expected_three(c), strict=True):
                assert error(a, e) < ALLOWED[tile]


def test_one_filter_of_two_strides(made):
    """The weights are the same, their transformed filters are not."""
    x, weight = torch.randn(2, 16, 8, 8), torch.randn(16, 16, 3, 3)
    with filters_kept(uses=2):
        for stride in (1, 2, 1, 2):
            y = convolve(x, weight, ConvSettings(2, stride=stride, padding=1))
            assert error(y, F.conv2d(x.double(), weight.double(), None, stride, 1)) < 1e-5
    assert len(made) == 2


def test_an_error_discards_the_kept_filters():
    x, _, weight, _ = case(USUAL[0], (2, 16, 16, 8, 8))

    def interrupted() -> None:
        with filters_kept(uses=9):
            convolve(x, weight, settings_of(USUAL[0]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    weight *= 2
    found = convolve(x, weight, settings_of(USUAL[0]))
    assert error(found, F.conv2d(x.double(), weight.double(), None, 2, 2)) < 1e-5
