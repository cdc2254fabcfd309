"""Copies from one memory format to another, against PyTorch's own copy."""

from __future__ import annotations

import pytest
import torch

from igan_fast import ops
from igan_fast.ops.layout import channels_first, channels_last

LAST = torch.channels_last
SHAPES = [
    (2, 16, 8, 8), (1, 64, 32, 32), (3, 5, 7, 9), (2, 17, 1, 33), (1, 4, 2, 2), (2, 3, 6, 6), (2, 8, 1, 1),
    (2, 40, 3, 1), (0, 8, 4, 4), (2, 0, 4, 4), (2, 8, 0, 4), (1, 1, 5, 5), (4, 100, 19, 21),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_torch(shape, dtype):
    x = torch.randn(shape, dtype=dtype)
    for given in (x, x.contiguous(memory_format=LAST), x.permute(0, 1, 3, 2)):
        last, first = channels_last(given), channels_first(given)
        assert torch.equal(last, given)
        assert torch.equal(first, given)
        assert last.stride() == given.contiguous(memory_format=LAST).stride()
        assert first.stride() == given.contiguous().stride()


def test_no_copy_where_the_memory_format_is_right_already():
    x = torch.randn(2, 8, 5, 5)
    last = x.contiguous(memory_format=LAST)
    assert channels_first(x).data_ptr() == x.data_ptr()
    assert channels_last(last).data_ptr() == last.data_ptr()


def test_nan_and_infinity_are_copied():
    x = torch.randn(2, 20, 9, 9)
    x[0, 3, 2, 1], x[1, 17, 8, 8] = float("nan"), float("-inf")
    assert torch.equal(channels_last(x), x) is False  # NaN
    torch.testing.assert_close(channels_last(x), x, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("transpose", [channels_first, channels_last])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_first_and_second_derivatives(transpose, layout):
    x = torch.randn(2, 8, 5, 4).contiguous(memory_format=layout).requires_grad_()
    (first,) = torch.autograd.grad(transpose(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(first, 3 * x.detach() ** 2)
    assert torch.equal(second, 6 * x.detach())


@pytest.mark.parametrize("transpose", [channels_first, channels_last])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_the_copy_may_be_written_into(transpose, layout):
    x = torch.randn(2, 8, 5, 4).contiguous(memory_format=layout).requires_grad_()
    y = transpose(x * 2)
    y += 1
    torch.nn.functional.leaky_relu_(y, 0.5)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, torch.where(2 * x.detach() + 1 > 0, 2.0, 1.0))


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize(("shape", "ours"), [((2, 4, 2, 2), 1), ((2, 3, 8, 8), 0), ((2, 8, 1, 3), 0)])
def test_which_copy_runs(shape, ours, monkeypatch):
    made, transpose = [], torch.ops.igan_fast.transpose
    monkeypatch.setattr(torch.ops.igan_fast, "transpose", lambda x: made.append(0) or transpose(x))
    channels_last(torch.randn(shape))
    assert len(made) == ours


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
def test_the_operator_refuses_what_it_cannot_take():
    with pytest.raises(RuntimeError, match=r"expected \(N, rows, columns\), contiguous"):
        torch.ops.igan_fast.transpose(torch.randn(2, 6, 4).transpose(1, 2))
    with pytest.raises(RuntimeError, match="expected float32"):
        torch.ops.igan_fast.transpose(torch.randn(2, 6, 4, dtype=torch.float64))
    assert torch.ops.igan_fast.transpose(torch.empty(2, 0, 4)).shape == (2, 4, 0)


def test_compiles_without_a_break():
    compiled = torch.compile(lambda x: channels_first(channels_last(x) * 2), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(compiled(x), x * 2)
