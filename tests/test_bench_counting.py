"""``bench.counting``: what calls read, write and compute, against numbers computed by hand."""

from __future__ import annotations

import functools
import sys
from collections import Counter as Numbers
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from triton_interpreter import count_calls

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))

from bench.counting import BIAS, Call, Counter  # noqa: E402
from igan_fast.ops import backend  # noqa: E402
from igan_fast.ops.sign_mask import sign_mask_bytes  # noqa: E402


def calls_of(function: Any) -> list[Call]:
    with Counter() as counter:
        function()
    return counter.calls


def traffic(function: Any) -> tuple[int, int]:
    """The bytes that the only call reads and writes."""
    (call,) = calls_of(function)
    return call.read, call.written


def test_a_matrix_product() -> None:
    a, b = torch.ones(4, 6), torch.ones(6, 8)
    (call,) = calls_of(lambda: a @ b)
    assert call == Call("mm", ((4, 6), (6, 8)), ((4, 8),), torch.float32, 4 * (24 + 48), 4 * 32, 2 * 4 * 6 * 8)
    assert call.moved == 4 * (24 + 48 + 32)


def test_a_convolution_and_the_pass_of_its_bias() -> None:
    x, weight, bias = torch.ones(2, 3, 16, 16), torch.ones(8, 3, 5, 5), torch.ones(8)
    product, addition = calls_of(lambda: F.conv2d(x, weight, bias, 2, 2))
    out = 2 * 8 * 8 * 8
    assert (product.read, product.written) == (4 * (2 * 3 * 256 + 8 * 75), 4 * out)
    assert product.flops == 2 * out * 75
    assert addition.operator == BIAS
    assert (addition.read, addition.written, addition.flops) == (4 * (out + 8), 4 * out, 0)
    assert [call.operator for call in calls_of(lambda: F.conv2d(x, weight, None, 2, 2))] == ["convolution"]


@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradients_of_a_convolution_are_three_calls(transposed: bool) -> None:
    """Each product has as many FLOPs as the forward pass. That of the input gradient does not read the input."""
    x = torch.ones(2, 3, 16, 16).to(torch.bfloat16).requires_grad_()
    weight = torch.ones(*((3, 8) if transposed else (8, 3)), 5, 5, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.ones(8, dtype=torch.bfloat16, requires_grad=True)
    y = F.conv_transpose2d(x, weight, bias, 2, 2, 1) if transposed else F.conv2d(x, weight, bias, 2, 2)
    products = 2 * (256 if transposed else 64) * 25 * 3 * 8
    grad = torch.ones_like(y)
    of_x, of_weight, of_bias = calls_of(lambda: torch.autograd.grad(y, (x, weight, bias), grad, retain_graph=True))
    assert (of_x.read, of_x.written) == (2 * (y.numel() + weight.numel()), 2 * x.numel())
    assert (of_weight.read, of_weight.written) == (2 * (y.numel() + x.numel()), 2 * weight.numel())
    assert (of_bias.operator, of_bias.read, of_bias.written) == ("sum", 2 * y.numel(), 2 * 8)
    assert [call.flops for call in (of_x, of_weight, of_bias)] == [2 * products, 2 * products, 0]
    assert of_x.dtype == torch.bfloat16
    assert calls_of(lambda: torch.autograd.grad(y, weight, grad)) == [of_weight]


def test_what_touches_no_data_is_no_call() -> None:
    x = torch.ones(4, 6)
    assert not calls_of(lambda: (x.view(24), x.t()[1:], x.detach(), x.expand(2, 4, 6), x.permute(1, 0).unsqueeze(0)))
    assert not calls_of(lambda: (torch.empty(9), torch.empty_like(x), x.new_empty(5), x.reshape(6, 4)))


def test_what_is_overwritten_is_not_read() -> None:
    x, y = torch.ones(4, 6), torch.ones(4, 6, dtype=torch.bfloat16)
    assert traffic(lambda: x.copy_(y)) == (48, 96)
    assert traffic(lambda: x.fill_(2.0)) == (0, 96)
    assert traffic(lambda: x.zero_()) == (0, 96)
    assert traffic(lambda: F.leaky_relu_(x, 0.2)) == (96, 96)
    assert traffic(lambda: x.add_(x)) == (192, 96)


def test_new_tensors() -> None:
    x = torch.ones(4, 6)
    assert traffic(lambda: torch.zeros(7)) == (0, 28)
    assert traffic(lambda: torch.zeros_like(x)) == (0, 96)
    assert traffic(lambda: x.new_ones(3)) == (0, 12)
    assert traffic(lambda: x.to(torch.bfloat16)) == (96, 48)
    assert traffic(lambda: torch.cat([x, x])) == (192, 192)
    assert traffic(lambda: x.t().contiguous()) == (96, 96)
    assert traffic(lambda: x.sum()) == (96, 4)


def test_an_expanded_tensor_is_read_once() -> None:
    row, x = torch.ones(1, 6).expand(4, 6), torch.ones(4, 6)
    assert traffic(lambda: row + x) == (4 * (6 + 24), 96)
    assert traffic(lambda: x[:1].expand(4, 6).sum()) == (24, 4)


def test_padding_fills_and_copies() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    assert traffic(lambda: F.pad(x.detach(), (0, 2), value=1.0)) == (24, 40 + 24)
    y = x[:, 1:]  # the gradient of the cut is filled with zeros first
    grad = torch.ones(2, 2)
    assert traffic(lambda: torch.autograd.grad(y, x, grad)) == (16, 24 + 16)


def test_adam_moves_28_bytes_for_a_parameter() -> None:
    parameter = torch.nn.Parameter(torch.ones(1000))
    optimizer = torch.optim.Adam([parameter], fused=True)
    parameter.grad = torch.ones(1000)
    optimizer.step()
    (call,) = [call for call in calls_of(optimizer.step) if call.operator == "_fused_adam_"]
    assert (call.read, call.written) == (16 * 1000 + 4, 12 * 1000)  # and the number of steps


@pytest.mark.parametrize("gradients", [False, True])
def test_a_backward_pass_is_counted_with_its_lines(gradients: bool) -> None:
    """The lines are those of this package: here the call of a reference's operator, and nothing outside of it."""
    from igan_fast.reference import ops

    x = torch.ones(2, 3, 4, 4, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True, check_nan=False), Counter(lines=True) as counter:
        y = ops.activate(x, 0.2)
        before = len(counter.calls)
        if gradients:
            torch.autograd.grad(y.sum(), x)
    found = {call.operator: call.line for call in counter.calls[before if gradients else 0 :]}
    name = "leaky_relu_backward" if gradients else "leaky_relu"
    assert found[name].startswith("reference/ops.py:")
    assert found[name].endswith(" activate")
    assert {call.caller for call in counter.calls} == {""}  # there is no iteration


class Convolution(NamedTuple):
    """A convolution, and the fake tensors that its operators take."""

    x: Tensor
    weight: Tensor
    y: Tensor
    stride: list[int]
    padding: list[int]
    transposed: bool

    @property
    def to(self) -> tuple[Any, ...]:
        """What the operators take to compute y."""
        return self.weight, list(self.y.shape[2:]), self.stride, self.padding, self.transposed

    @property
    def back(self) -> tuple[Any, ...]:
        """And to compute the gradient of x."""
        return self.weight, list(self.x.shape[2:]), self.stride, self.padding, not self.transposed

    @property
    def of_weight(self) -> tuple[Any, ...]:
        return self.y, self.x, list(self.weight.shape[2:]), self.stride, self.padding

    def flops_by_pytorch(self) -> list[int]:
        """Of y, of x's gradient and of the weight's, by PyTorch's counter."""
        x, weight = self.x.clone().requires_grad_(), self.weight.clone().requires_grad_()
        options = {"stride": self.stride, "padding": self.padding}
        found = []
        with FlopCounterMode(display=False) as counter:
            if self.transposed:
                options["output_padding"] = [self.y.shape[2] - (x.shape[2] - 1) * 2 - 1, 1]
                y = F.conv_transpose2d(x, weight, None, **options)
            else:
                y = F.conv2d(x, weight, None, **options)
            assert y.shape == self.y.shape
            found.append(counter.get_total_flops())
        for leaf in (x, weight):
            with FlopCounterMode(display=False) as counter:
                torch.autograd.grad(y, leaf, torch.ones_like(y), retain_graph=True)
            found.append(counter.get_total_flops())
        return found


def convolution(channels: int, out: int, transposed: bool, dtype: torch.dtype = torch.bfloat16) -> Convolution:
    """From 9×7 to 5×4 pixels or back, with 5×5 taps and stride 2."""
    shapes = [(2, channels, 9, 7), (2, out, 5, 4)]
    if transposed:
        shapes = [(2, channels, 5, 4), (2, out, 9, 8)]
    x, y = (torch.empty(shape, dtype=dtype) for shape in shapes)
    weight = torch.empty((channels, out, 5, 5) if transposed else (out, channels, 5, 5), dtype=dtype)
    return Convolution(x, weight, y, [2, 2], [2, 2], transposed)


@pytest.fixture
def triton_operators() -> Any:
    """Triton's operators on fake tensors, of which nothing is computed."""
    pytest.importorskip("triton", reason="Triton is not installed")
    if backend.switched_off() or not backend._triton_can_load():
        pytest.skip("the fused operators are switched off")
    with FakeTensorMode():
        yield getattr(torch.ops, backend.TRITON)


@pytest.mark.parametrize("transposed", [False, True])
def test_our_convolutions_have_the_flops_of_pytorchs(triton_operators: Any, transposed: bool) -> None:
    case = convolution(6, 10, transposed)
    forward, of_input, of_weight = case.flops_by_pytorch()
    assert forward == of_input == of_weight == 2 * 2 * 20 * 25 * 60
    nothing = [None] * 3
    for operator, arguments in (
        ("convolution", (case.x, case.weight, None, *case.to[1:], 0.2)),
        ("convolution", (case.y, case.weight, None, *case.back[1:], 1.0)),
        ("convolution_statistics", (case.x, *case.to, 1)),
        ("convolution_block_gradient", (case.y, *case.back, *nothing, *nothing, 1.0, 0.0, None, None, 1.0)),
        ("convolution_weight_gradient", (*case.of_weight, transposed)),
    ):
        (call,) = calls_of(functools.partial(getattr(triton_operators, operator), *arguments))
        assert (call.operator, call.flops) == (operator, forward)


def test_convolutions_of_images_have_the_flops_of_pytorchs(triton_operators: Any) -> None:
    d, g = convolution(3, 16, False), convolution(16, 3, True)
    affine, var = torch.empty(1, 3, 16), torch.empty(1, 16)
    for case, operator, arguments in (
        (d, "convolution_from_image", (d.x, d.weight, None, *d.to[1:4], 0.2)),
        (d, "convolution_to_image", (d.y, d.weight, None, *d.back[1:4], 1.0)),
        (d, "convolution_image_weight_gradient", (*d.of_weight, True, d.y, 0.2)),
        (g, "convolution_to_image", (g.x, g.weight, None, *g.to[1:4], 1.0)),
        (g, "convolution_image_block_gradient", (g.y, *g.back[:4], g.x, affine, var, 0.0, 1e-5)),
        (g, "convolution_image_weight_gradient", (g.x, g.y, *g.of_weight[2:], False)),
    ):
        (call,) = calls_of(functools.partial(getattr(triton_operators, operator), *arguments))
        assert (call.operator, [call.flops] * 3) == (operator, case.flops_by_pytorch())


@pytest.mark.parametrize("films", [False, True])
def test_a_block_reads_and_writes_each_map_once(triton_operators: Any, films: bool) -> None:
    """By hand: two bytes for each number of a map, four for the numbers of a channel."""
    case = convolution(6, 10, True)
    film = torch.empty(2, 12, dtype=torch.bfloat16) if films else None
    of_x, of_y = ((torch.empty(1, 3, c), torch.empty(1, c)) for c in (6, 10))
    terms, weight = torch.empty(2, 1, 10), 2 * 60 * 25
    x, y, gammas = 2 * 2 * 6 * 20, 2 * 2 * 10 * 72, 2 * 2 * 12 if films else 0
    before = case.x, *of_x, 0.2, 1e-5
    raw = case.y, of_y[0], terms
    mask = torch.empty(sign_mask_bytes(case.x.numel()), dtype=torch.uint8)
    for operator, arguments, read, written in (
        ("convolution_statistics", (case.x, *case.to, 1, of_x[0], 0.2, film), x + weight + gammas + 72, y + 80),
        (
            "convolution_block_gradient",
            (case.y, *case.back, *raw, *before, mask, torch.empty(()), 1.0, film),
            2 * y + weight + 4 * (30 + 20) + x + 4 * (18 + 6) + mask.numel() + 4 + gammas,
            x + 4 * (12 + 6 + 6) + 2 * gammas,  # the gradient of film is in float32
        ),
        (
            "convolution_weight_gradient",
            (*case.of_weight, True, of_x[0], 0.2, *raw, film),
            2 * y + x + 72 + 4 * (30 + 20) + gammas,
            weight,
        ),
        ("convolution_norm_gradient", (case.y, case.y, of_y[0][0, 0], *of_y[1:] * 2, 1e-5, terms), 2 * y + 200, y),
        (
            "feature_l1_raw",
            ([case.x] * 2, [case.x] * 2, [of_x[0], None], [of_x[0]] * 2, *[[0.2] * 2] * 2, [1.0] * 2),
            4 * x + 3 * 72,
            2 * mask.numel() + 4,
        ),
    ):
        (call,) = calls_of(functools.partial(getattr(triton_operators, operator), *arguments))
        assert (call.operator, call.read, call.written) == (operator, read, written)


@pytest.mark.every_build
@pytest.mark.parametrize("operator", ["norm_act", "feature_l1"])
def test_our_operators_read_what_their_kernels_read(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is what the interpreter's kernels load and store, but for the sums and parameters of channels."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from igan_fast.ops.triton import common, norm_act_launches

    if not common.INTERPRETED:
        pytest.skip("Triton's kernels are compiled here")
    moved: Numbers[str] = Numbers()
    watch = functools.partial(count_calls, monkeypatch, moved)

    def bytes_of(pointers: Any, mask: Any) -> int:  # a program that reads a value several times at once reads it once
        addresses = np.unique(pointers.data[mask.data])
        return len(addresses) * pointers.dtype.scalar.element_ty.primitive_bitwidth // 8

    watch("create_masked_load", lambda pointers, mask, *_: {"read": bytes_of(pointers, mask)})
    watch("create_masked_store", lambda pointers, value, mask, *_: {"written": bytes_of(pointers, mask)})
    # Segments of several tiles, as in large tensors: the first tile of a segment is read once more, for its mean.
    monkeypatch.setattr(norm_act_launches, "_PROGRAMS", 2)
    operators = torch.ops.igan_fast_triton
    x, y, grad = (torch.randn(2, 8, 64, 64) for _ in range(3))
    one = torch.ones(())

    def run() -> None:
        if operator == "norm_act":
            weight, bias = torch.ones(8), torch.zeros(8)
            _, mean, var = operators.norm_act(x, weight, bias, 1e-5, 0.2, 1, None)
            operators.norm_act_backward(grad, x, weight, bias, mean, var, 1e-5, 0.2, True, None)
        else:
            _, signs = operators.feature_l1([x], [y], [1.0], True)
            operators.feature_l1_backward(one, signs, [x.numel()], [0], [1.0], torch.float32)

    calls = [call for call in calls_of(run) if call.operator.startswith(operator)]
    assert len(calls) == 2
    size = 4 * x.numel()
    expected_read = 2 * size + 4 * size if operator == "norm_act" else 2 * size + size // 16
    expected_written = 2 * size if operator == "norm_act" else size // 16 + size
    for counted, by_hand, by_kernels in (
        (sum(call.read for call in calls), expected_read, moved["read"]),
        (sum(call.written for call in calls), expected_written, moved["written"]),
    ):
        assert by_hand <= counted <= 1.01 * by_hand
        assert counted * 0.99 <= by_kernels <= counted * 1.05
