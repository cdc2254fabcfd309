"""The model's convolution on the CPU, its transpose and its weight gradient, against torch's own in float64."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from oracles import error
from torch import Tensor

from igan_fast import ops
from igan_fast.ops import backend, strided_conv

pytestmark = pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])

SETTINGS = {"stride": 2, "padding": 2}
#: What the smaller tiles and the larger ones may be away from float64; plain float32 is about 5e-7.
ALLOWED = {2: 2e-6, 4: 1e-5}
#: batch, channels of the large and of the small image, height and width of the small one.
SHAPES = [
    (2, 16, 32, 4, 4),
    (3, 17, 35, 5, 3),
    (1, 33, 16, 1, 1),
    (2, 16, 16, 1, 6),
    (5, 24, 40, 8, 12),
    (1, 64, 16, 7, 4),
]


@pytest.fixture(params=[2, 4])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every call takes tiles of this size."""
    monkeypatch.setattr(strided_conv, "_tile", lambda small: request.param)
    return request.param


def case(shape, dtype=torch.float32):
    """The large image, the small one, and the weights between them."""
    batch, large, small, height, width = shape
    return (
        torch.randn(batch, large, 2 * height, 2 * width, dtype=dtype),
        torch.randn(batch, small, height, width, dtype=dtype),
        torch.randn(small, large, 5, 5, dtype=dtype) * 0.2,
    )


def three(large: Tensor, small: Tensor, weight: Tensor) -> list[Tensor]:
    """The three computations, ours."""
    return [
        strided_conv.convolve(large, weight, transposed=False),
        strided_conv.convolve(small, weight, transposed=True),
        strided_conv.weight_gradient(small, large, transposed=False),
    ]


def expected_three(large: Tensor, small: Tensor, weight: Tensor) -> list[Tensor]:
    large, small, weight = (t.double() for t in (large, small, weight))
    return [
        F.conv2d(large, weight, None, 2, 2),
        F.conv_transpose2d(small, weight, None, 2, 2, 1),
        torch.nn.grad.conv2d_weight(large, weight.shape, small, 2, 2),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torch_in_float64(tile, shape):
    large, small, weight = case(shape)
    for index, (a, e) in enumerate(zip(three(large, small, weight), expected_three(large, small, weight), strict=True)):
        assert error(a, e) < ALLOWED[tile], index
    # The other names of the same computations.
    assert torch.equal(strided_conv.input_gradient(small, weight, transposed=False), three(large, small, weight)[1])
    assert torch.equal(strided_conv.input_gradient(large, weight, transposed=True), three(large, small, weight)[0])
    assert torch.equal(strided_conv.weight_gradient(large, small, transposed=True), three(large, small, weight)[2])


def test_many_channels_and_tiles(tile):
    """Several blocks of tiles and panels of channels, and the sums of the weight gradient over blocks."""
    large, small, weight = case((6, 70, 90, 16, 16))
    for a, e in zip(three(large, small, weight), expected_three(large, small, weight), strict=True):
        assert error(a, e) < ALLOWED[tile]


def test_any_memory_layout(tile):
    large, small, weight = case((2, 18, 20, 4, 6))
    expected = three(large, small, weight)
    last = {"memory_format": torch.channels_last}
    sliced = torch.stack([weight, weight], -1)[..., 0]
    for l, s, w in (  # noqa: E741
        (large.contiguous(**last), small.contiguous(**last), weight.contiguous(**last)),
        (large.transpose(2, 3).contiguous().transpose(2, 3), small.flip(0).flip(0), sliced),
    ):
        for a, e in zip(three(l, s, w), expected, strict=True):
            assert torch.equal(a, e)
    assert expected[0].is_contiguous(**last)
    assert expected[2].is_contiguous()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("slope", [0.2, 0.0, 1.0])
def test_bias_and_leaky_relu(tile, transposed, slope):
    large, small, weight = case((2, 17, 21, 3, 4))
    bias = torch.randn(17 if transposed else 21)
    x = small if transposed else large
    z = expected_three(large, small, weight)[int(transposed)] + bias.double().view(1, -1, 1, 1)
    y = strided_conv.convolve(x, weight, transposed=transposed, bias=bias, negative_slope=slope)
    assert error(y, F.leaky_relu(z, slope)) < ALLOWED[tile]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_near_and_in_its_own_image(tile, bad):
    large, small, weight = case((3, 16, 16, 12, 12))
    clean = three(large, small, weight)
    large[1, 3, 0, 0] = bad
    small[1, 3, 0, 0] = bad
    found, expected = three(large, small, weight), expected_three(large, small, weight)
    for y, e, c in zip(found[:2], expected[:2], clean[:2], strict=True):
        assert not e.isfinite().all()
        assert not y[~e.isfinite()].isfinite().any()  # nothing is hidden
        assert torch.equal(y[::2], c[::2])  # the other images
        assert torch.equal(y[1, :, -8:, -8:], c[1, :, -8:, -8:])
    assert not expected[2].isfinite().all()
    assert not found[2][~expected[2].isfinite()].isfinite().any()


def test_nothing_stays_in_a_threads_own_memory(tile):
    """It is kept from call to call, and calls of fewer channels leave places in it unused."""
    fewer, more = case((5, 33, 35, 9, 7)), case((5, 64, 64, 10, 10))
    expected = three(*fewer)
    three(*(torch.full_like(t, float("nan")) for t in more))
    for a, e in zip(three(*fewer), expected, strict=True):
        assert torch.equal(a, e)


def test_which_tiles_are_taken(monkeypatch):
    least = strided_conv.MIN_TILES
    for shape, expected in (
        ((least, 1, 4, 4), 4),
        ((least - 1, 1, 4, 4), 2),
        ((1, 1, 4 * least, 4), 4),
        ((1, 1, 4 * least - 4, 4), 2),
        ((least, 1, 4, 6), 2),
        ((least, 1, 6, 4), 2),
        ((least, 1, 1, 1), 2),
    ):
        assert strided_conv._tile(torch.empty(shape)) == expected, shape
    # Filter, image and gradient agree about it.
    large, small, weight = case((2, 18, 20, 8, 4))
    found = {}
    for size, least in ((4, 4), (2, 5)):
        monkeypatch.setattr(strided_conv, "MIN_TILES", least)
        found[size] = three(large, small, weight)
        for a, e in zip(found[size], expected_three(large, small, weight), strict=True):
            assert error(a, e) < ALLOWED[size]
    assert not any(torch.equal(a, b) for a, b in zip(found[4], found[2], strict=True))


def test_the_same_bits_each_time_and_on_any_number_of_threads(tile, threads):
    large, small, weight = case((5, 40, 48, 8, 8))
    expected = three(large, small, weight)
    for count in (1, 2, 2, 1, 2):
        torch.set_num_threads(count)
        assert all(torch.equal(a, e) for a, e in zip(three(large, small, weight), expected, strict=True))


def test_two_threads_at_once():
    cases = [case((4, 16, 24, 8, 8)) for _ in range(2)]
    expected = [three(*c) for c in cases]
    wrong = []

    def work(index: int) -> None:
        for _ in range(20):
            with strided_conv.filters_kept(uses=2):  # each thread's own
                found = three(*cases[index])
            if not all(torch.equal(a, e) for a, e in zip(found, expected[index], strict=True)):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_where_it_applies(monkeypatch):
    x, weight = torch.randn(12, 16, 8, 8), torch.randn(16, 16, 5, 5)
    plain = SETTINGS | {"transposed": False, "output_padding": 0}
    assert strided_conv.applies(x, weight, **plain)
    assert strided_conv.applies(x, weight, **SETTINGS, transposed=True, output_padding=1)
    for change in ({"stride": 1}, {"padding": 1}, {"output_padding": 1}, {"transposed": True}):
        assert not strided_conv.applies(x, weight, **plain | change), change
    for other_x, other_weight in (
        (x.double(), weight.double()),
        (x.bfloat16(), weight.bfloat16()),
        (x, weight.double()),
        (x[:, :15], weight[:, :15]),
        (x, weight[:15]),
        (x[:, :, :7], weight),
        (x[..., :7], weight),
        (x, weight[..., :4]),
        (x, weight[:, :, :3]),
        (x.to("meta"), weight.to("meta")),
        (x[:1], weight),  # too few tiles to be worth a filter
    ):
        assert not strided_conv.applies(other_x, other_weight, **plain)
    doubling = SETTINGS | {"transposed": True, "output_padding": 1}
    assert strided_conv.applies(x[:, :, :7, :5], weight, **doubling)
    assert not strided_conv.applies(x, weight[:, :15], **doubling)
    assert not strided_conv.applies(x, weight, **doubling | {"output_padding": 0})
    compiled = torch.compile(lambda x: x + strided_conv.applies(x, weight, **plain), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), x)
    monkeypatch.setattr(backend, "has_native_cpu", lambda: False)
    assert not strided_conv.applies(x, weight, **plain)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list:
    """What filters were made from."""
    calls = []
    make = strided_conv._make_filter

    def counting(*arguments):
        calls.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(strided_conv, "_make_filter", counting)
    return calls


def test_filters_are_kept_for_as_many_uses_as_were_asked_for(made):
    x, _, weight = case((2, 16, 16, 4, 4))
    with strided_conv.filters_kept(uses=3):
        for expected in (1, 1, 1, 2):
            strided_conv.convolve(x, weight, transposed=False)
            assert len(made) == expected
        strided_conv.convolve(x[:, :, :4, :4], weight, transposed=True)  # a filter of its own
        assert len(made) == 3
        with strided_conv.filters_kept(uses=1):  # a block of its own
            for expected in (4, 5):
                strided_conv.convolve(x, weight, transposed=False)
                assert len(made) == expected
        strided_conv.convolve(x, weight, transposed=False)
        assert len(made) == 5
    with torch.no_grad():
        weight *= 2
    for expected in (6, 7):
        changed = strided_conv.convolve(x, weight, transposed=False)
        assert len(made) == expected
    assert error(changed, F.conv2d(x.double(), weight.double(), None, 2, 2)) < 1e-5


def test_filters_are_kept_in_the_thread_that_asked(made):
    x, _, weight = case((2, 16, 16, 4, 4))
    with strided_conv.filters_kept(uses=9):
        strided_conv.convolve(x, weight, transposed=False)
        for expected in (2, 3):
            worker = threading.Thread(target=strided_conv.convolve, args=(x, weight), kwargs={"transposed": False})
            worker.start()
            worker.join()
            assert len(made) == expected
        strided_conv.convolve(x, weight, transposed=False)
        assert len(made) == 3


def test_kept_filters_belong_to_their_weights(tile):
    """Also where the next weights come to lie where freed ones lay."""
    large, small, _ = case((2, 16, 16, 4, 4))
    with strided_conv.filters_kept(uses=2):
        for _ in range(4):
            weight = torch.randn(16, 16, 5, 5)
            for a, e in zip(three(large, small, weight), expected_three(large, small, weight), strict=True):
                assert error(a, e) < ALLOWED[tile]
            del weight


def test_an_error_ends_the_keeping():
    x, _, weight = case((2, 16, 16, 4, 4))

    def interrupted() -> None:
        with strided_conv.filters_kept(uses=9):
            strided_conv.convolve(x, weight, transposed=False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    weight *= 2
    found = strided_conv.convolve(x, weight, transposed=False)
    assert error(found, F.conv2d(x.double(), weight.double(), None, 2, 2)) < 1e-5


def test_the_operators_name_what_is_wrong():
    operators = torch.ops.igan_fast
    x, weight = torch.randn(2, 8, 8, 16), torch.randn(20, 16, 5, 5)
    half, filter = torch.randn(2, 4, 4, 16), operators.strided_conv_filter(weight, False, 2)
    for call, message in (
        (lambda: operators.strided_conv_filter(weight, False, 3), "tile is 3; expected 2 or 4"),
        (lambda: operators.strided_conv_filter(weight.double(), False, 2), "weight: expected float32"),
        (lambda: operators.strided_conv_filter(weight[..., :4], False, 2), "expected .small channels, large channels"),
        (lambda: operators.strided_conv(x, filter, 40, None, 1.0, True, 2), "filter does not fit x and channels"),
        (lambda: operators.strided_conv(x, filter, 20, None, 1.0, False, 4), "filter does not fit x and channels"),
        (lambda: operators.strided_conv(x[:, :7].contiguous(), filter, 20, None, 1.0, False, 2), "x is 7 by 8"),
        (lambda: operators.strided_conv(x[:, :, :7].contiguous(), filter, 20, None, 1.0, False, 2), "x is 8 by 7"),
        (lambda: operators.strided_conv(x, filter, 20, None, 1.0, False, 3), "tile is 3; expected 2 or 4"),
        (lambda: operators.strided_conv(x, filter, 0, None, 1.0, False, 2), "channels is 0; expected at least 1"),
        (lambda: operators.strided_conv(x, filter.double(), 20, None, 1.0, False, 2), "filter does not fit"),
        (lambda: operators.strided_conv(x.double(), filter, 20, None, 1.0, False, 2), "x: expected float32"),
        (lambda: operators.strided_conv(x.transpose(1, 2), filter, 20, None, 1.0, False, 2), "x: expected .N, H, W, C"),
        (lambda: operators.strided_conv(x[:0], filter, 20, None, 1.0, False, 2), "x is empty"),
        (lambda: operators.strided_conv(x, filter, 20, torch.zeros(19), 1.0, False, 2), "bias: expected .20"),
        (lambda: operators.strided_conv(x, filter, 20, torch.zeros(20).double(), 1.0, False, 2), "bias: expected .20"),
        (lambda: operators.strided_conv_weight_gradient(x, x, 2), "twice the height and width"),
        (lambda: operators.strided_conv_weight_gradient(x, half[:1], 2), "expected one batch"),
        (lambda: operators.strided_conv_weight_gradient(x, half.double(), 2), "small: expected float32"),
        (lambda: operators.strided_conv_weight_gradient(x, half, 3), "tile is 3; expected 2 or 4"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    assert operators.strided_conv(x, filter, 20, None, 1.0, False, 2).shape == (2, 4, 4, 20)


def test_shapes_without_data():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, filter = torch.empty(2, 8, 6, 16), torch.empty(100)
        operators = torch.ops.igan_fast
        assert operators.strided_conv(x, filter, 20, None, 1.0, False, 2).shape == (2, 4, 3, 20)
        assert operators.strided_conv(x, filter, 20, None, 1.0, True, 2).shape == (2, 16, 12, 20)
        assert operators.strided_conv_weight_gradient(x, x[:, ::2, ::2], 2).shape == (16, 16, 5, 5)
