"""Convolution, bias and LeakyReLU in one autograd node, against PyTorch's own functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles import error
from torch import Tensor
from winograd_runs import count_winograd

from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.ops.conv_act import conv_act


def leaves(
    dtype=torch.float32, *, batch=4, size=(8, 6), c_in=3, kernel=(5, 5), bias=True, channels_last=False
) -> list[Tensor | None]:
    x = torch.randn(batch, c_in, *size, dtype=dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    tensors = [x, torch.randn(16, c_in, *kernel, dtype=dtype) * 0.2, torch.randn(16, dtype=dtype) if bias else None]
    return [None if t is None else t.requires_grad_() for t in tensors]


def plain(x, weight, bias, *, stride=2, padding=2, negative_slope=0.2):
    return F.leaky_relu(F.conv2d(x, weight, bias, stride, padding), negative_slope)


def results(function, tensors, **options) -> list[Tensor]:
    y = function(*tensors, **options)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    return [y, *torch.autograd.grad(y, [t for t in tensors if t is not None], upstream)]


on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ({}, {}),
        ({"channels_last": True}, {}),
        ({"bias": False}, {}),
        ({"size": (7, 9)}, {}),
        ({"size": (8, 7)}, {}),  # the convolution leaves a row over and no column
        ({"size": (7, 8), "c_in": 6}, {}),
        ({"size": (1, 1)}, {}),
        ({"kernel": (5, 3)}, {}),
        ({"batch": 1}, {}),
        ({"c_in": 6}, {"stride": 1}),
        ({"size": (5, 5)}, {"stride": 3, "padding": 1}),
        ({}, {"negative_slope": 0.0}),
        ({}, {"negative_slope": 1.0}),
        ({}, {"negative_slope": -0.5}),  # the result's sign says nothing
    ],
)
def test_equals_torch(dtype, allowed, shape, options, device):
    """cuDNN may choose a fast algorithm (Winograd, FFT), which is less precise by a digit."""
    allowed *= 10 if device == "cuda" and dtype == torch.float32 else 1
    tensors = [None if t is None else t.detach().to(device).requires_grad_() for t in leaves(dtype, **shape)]
    exact = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    for a, e in zip(results(conv_act, tensors, **options), results(plain, exact, **options), strict=True):
        assert a.dtype == dtype
        assert error(a, e) < allowed


def test_an_empty_batch():
    tensors = leaves(batch=0)
    for a, e in zip(results(conv_act, tensors), results(plain, tensors), strict=True):
        assert torch.equal(a, e)


def test_nan_and_inf_are_where_torch_has_them():
    x, weight, bias = leaves()
    with torch.no_grad():
        x[1, 2, 3, 4] = float("nan")
        x[2, 0, 0, 0] = float("inf")
    y, expected = conv_act(x, weight, bias), plain(x, weight, bias)
    assert not y[1:3].isfinite().all()
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y[y.isinf()], expected[expected.isinf()])


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_the_gradients_that_are_needed(needed):
    """From an expanded gradient of the output, as ``y.sum()`` has it."""
    tensors = [t.detach().requires_grad_(k in needed) for k, t in enumerate(leaves())]
    conv_act(*tensors).sum().backward()
    assert [t.grad is not None for t in tensors] == [k in needed for k in range(3)]
    leaves_needed = [tensors[k] for k in needed]
    for t, e in zip(leaves_needed, torch.autograd.grad(plain(*tensors).sum(), leaves_needed), strict=True):
        assert error(t.grad, e) < 1e-5


def test_gradcheck(threads):
    torch.set_num_threads(1)  # thousands of calls too small to share
    tensors = [
        t.detach()[:2, :2].requires_grad_() if t.dim() == 4 else t[:2].detach().requires_grad_()
        for t in leaves(torch.float64)
    ]
    assert torch.autograd.gradcheck(lambda *t: conv_act(*t), tensors)


def test_frozen_weights_need_no_input():
    x, weight, bias = leaves()
    y = conv_act(x, weight.detach(), bias.detach())
    assert all(saved is None or saved.data_ptr() != x.data_ptr() for saved in y.grad_fn.saved_tensors)
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    (expected,) = torch.autograd.grad(plain(x, weight, bias).square().sum(), x)
    assert error(dx, expected) < 1e-5


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize(("default", "ours"), [("auto", 1), ("native", 1), ("reference", 0)])
def test_which_convolution_runs(default, ours, monkeypatch):
    runs = count_winograd(monkeypatch)
    monkeypatch.setattr(backend, "_DEFAULT", default)  # IGAN_FAST_IMPL
    x, weight, bias = leaves(c_in=16, size=(16, 16))
    assert error(conv_act(x, weight, bias), plain(x, weight, bias)) < 1e-5
    assert runs == ["convolve"] * ours


def test_autocast():
    tensors = leaves()
    with torch.autocast("cpu", torch.bfloat16):
        found = results(conv_act, tensors)
    assert found[0].dtype == torch.bfloat16
    assert [t.dtype for t in found[1:]] == [torch.float32] * 3
    for a, e in zip(found, results(plain, tensors), strict=True):
        assert ((a.float() - e).norm() / e.norm()).item() < 0.05


def test_compiles_without_a_break():
    tensors = leaves()
    compiled = torch.compile(lambda *t: conv_act(*t), fullgraph=True, backend="aot_eager")
    for a, e in zip(results(compiled, tensors), results(conv_act, tensors), strict=True):
        assert error(a, e) < 1e-5


@pytest.mark.parametrize("size", [(4, 4), (5, 5), (5, 4), (4, 5), (1, 1)])
@pytest.mark.parametrize("frozen", [(), (1,), (2,), (1, 2), (0,)])
def test_second_derivatives(size, frozen, threads):
    torch.set_num_threads(1)
    shapes = ((2, 2, *size), (3, 2, 5, 5), (3,))
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=k not in frozen) for k, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(lambda *t: conv_act(*t), tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: conv_act(*t), tensors, fast_mode=True)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("c_in", [3, 6])  # with and without the sub-pixel form
def test_a_gradient_penalty(channels_last, c_in):
    """The gradient of a gradient's norm, through a result that is used twice."""
    tensors = leaves(channels_last=channels_last, c_in=c_in)

    def penalty(function, *tensors: Tensor) -> list[Tensor]:
        (dx,) = torch.autograd.grad(function(*tensors).pow(3).sum(), tensors[0], create_graph=True)
        return [dx, *torch.autograd.grad((dx.flatten(1).norm(dim=1) - 1).square().sum(), tensors)]

    exact = [t.detach().double().requires_grad_() for t in tensors]
    for a, e in zip(penalty(conv_act, *tensors), penalty(plain, *exact), strict=True):
        assert error(a, e) < 1e-4


def test_a_gradient_penalty_under_autocast():
    tensors = leaves()

    def penalty(function) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            y = function(*tensors)
        (dx,) = torch.autograd.grad(y.float().pow(3).sum(), tensors[0], create_graph=True)
        return [dx, *torch.autograd.grad(dx.square().sum(), tensors)]

    for a, e in zip(penalty(conv_act), penalty(plain), strict=True):
        assert a.dtype == torch.float32
        assert ((a - e).norm() / e.norm()).item() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c_in", [3, 16])  # 16: by our own kernels, where there are any
@pytest.mark.parametrize("negative_slope", [0.2, 1.0])
def test_a_result_that_is_written_into(dtype, c_in, negative_slope):
    tensors = leaves(dtype, batch=16, size=(16, 16), c_in=c_in, channels_last=True)

    def written(function, **options) -> list[Tensor]:
        y = function(*tensors, negative_slope=negative_slope, **options)
        y.mul_(-3)
        (dx,) = torch.autograd.grad(y.square().sum(), tensors[0], create_graph=True)
        return [y, dx, *torch.autograd.grad(dx.square().sum(), tensors[:2])]

    for a, e in zip(written(conv_act, writable=True), written(plain), strict=True):
        assert error(a, e) < (1e-10 if dtype == torch.float64 else 1e-4)


def test_the_signs_are_saved_as_bytes():
    saved: list[Tensor] = []
    x, weight, bias = leaves()
    for writable in (False, True):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            conv_act(x, weight, bias, writable=writable)
    assert [t.dtype for t in saved if t.shape[1:] == (16, 4, 3)] == [torch.float32, torch.bool]


def outcome(function, *tensors, **options):
    """What it returns, or the error that it raises."""
    try:
        return function(*tensors, **options)
    except (RuntimeError, ValueError) as error:
        return error


def transposed(x, weight, bias, *, stride=2, padding=2, output_padding=0):
    return F.leaky_relu(F.conv_transpose2d(x, weight, bias, stride, padding, output_padding), 0.2)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ({"weight": torch.bfloat16}, {}),  # oneDNN would take it, and multiply with something
        ({"weight": torch.float64}, {}),
        ({"weight": torch.float16}, {}),
        ({"x": torch.float64}, {}),
        ({"bias": torch.float64}, {}),
        ({"bias": (7,)}, {}),
        ({"bias": (1,)}, {}),
        ({"x": (4, 16, 0, 8)}, {}),
        ({"x": (0, 16, 8, 8)}, {}),
        ({"x": (4, 8, 8, 8)}, {}),
        ({"x": (16, 8, 8)}, {}),
        ({"x": (16, 8)}, {}),
        ({"x": (4, 0, 8, 8), "weight": (16, 0, 5, 5)}, {}),
        ({"weight": (0, 16, 5, 5), "bias": (0,)}, {}),
        ({"weight": (16, 16, 20, 20)}, {}),
        ({"weight": (16, 12, 5, 5)}, {}),
        ({"x": (4, 16, 1, 1), "weight": (16, 16, 2, 2)}, {"padding": 1}),
        ({}, {"stride": 0}),
        ({}, {"padding": -1}),
    ],
)
@pytest.mark.parametrize("form", [plain, transposed])
def test_odd_arguments_are_taken_or_refused_as_by_torch(changed, options, form, requires_grad):
    given = {"x": torch.randn(4, 16, 8, 8), "weight": torch.randn(16, 16, 5, 5), "bias": torch.randn(16)}
    for name, change in changed.items():
        given[name] = torch.randn(change) if isinstance(change, tuple) else given[name].to(change)
    tensors = [t.requires_grad_(requires_grad) for t in given.values()]
    expected = outcome(form, *tensors, **options)
    found = outcome(conv_act, *tensors, transposed=form is transposed, **options)
    if isinstance(expected, Tensor):
        assert error(found, expected) < 1e-5
        assert found.dtype == expected.dtype
    else:
        assert isinstance(found, Exception), "PyTorch refuses it"


def test_output_padding_of_a_whole_stride_is_refused_as_by_torch():
    x, weight = torch.randn(4, 16, 8, 8), torch.randn(16, 16, 5, 5)
    with pytest.raises(RuntimeError, match="output padding must be smaller than either stride or dilation"):
        conv_act(x, weight, None, transposed=True, output_padding=2)


def test_tensors_without_data():
    x, weight = torch.empty(4, 3, 8, 8, device="meta"), torch.empty(16, 3, 5, 5, device="meta")
    assert conv_act(x, weight, None).shape == (4, 16, 4, 4)
