"""norm_act's derivatives, what its graph keeps, and the same bits every time."""

from __future__ import annotations

import threading

import pytest
import torch
from norm_act_cases import arguments, check, run, running
from oracles import LAYOUTS, TWO_LAYOUTS, NoGradient, error
from torch import Tensor

from igan_fast import ops
from igan_fast.reference import ops as reference


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_first_and_second_derivatives(place, training, groups):
    if place.interpreted and training and groups == 2:
        pytest.skip("takes the interpreter long; groups=1 has the same kernels")
    fast = place.interpreted  # checks one random direction, which is enough to show a wrong derivative
    x, weight, bias, _ = arguments((4, 2, 3), torch.float64, place)
    kept = (None, None) if training else running(x)

    def function(*tensors: Tensor) -> Tensor:
        return ops.norm_act(*tensors, *kept, training=training, groups=groups, impl=place.impl)

    assert torch.autograd.gradcheck(function, (x, weight, bias), fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, (x, weight, bias), fast_mode=fast)
    assert torch.autograd.gradgradcheck(lambda v: function(v, weight.detach(), None), (x,), fast_mode=fast)


def test_a_gradient_penalty(place):
    """Second derivatives as GANs use them."""
    x, weight, bias, _ = arguments((4, 3, 6), torch.float32, place)

    def penalty(function, **options) -> tuple[Tensor, ...]:
        (first,) = torch.autograd.grad(function(x, weight, bias, **options).square().sum(), x, create_graph=True)
        return torch.autograd.grad((first.flatten(1).norm(dim=1) - 1).square().mean(), (x, weight, bias))

    for a, e in zip(penalty(ops.norm_act, impl=place.impl), penalty(reference.norm_act), strict=True):
        assert error(a, e) < 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_format_is_kept(place, layout):
    x = LAYOUTS[layout](torch.randn(2, 4, 3, 3, device=place.device)).requires_grad_()
    y = ops.norm_act(x, None, None, impl=place.impl)
    assert y.stride() == reference.norm_act(x.cpu(), None, None).stride()  # on a GPU, PyTorch keeps any strides
    if layout in ("contiguous", "channels_last"):
        assert torch.autograd.grad(y.square().sum(), x)[0].stride() == x.stride()


@pytest.mark.every_build
def test_gradient_of_another_layout(place):
    x, weight, bias, grad = arguments((2, 4, 3, 3), torch.float32, place, "channels_last")
    check(place, x, weight, bias, grad.contiguous(), torch.float32)
    check(place, x, weight, bias, torch.ones((), device=place.device).expand(2, 4, 3, 3), torch.float32)


def test_running_statistics_changed_before_the_backward(place):
    """As by a training step between the forward in eval mode and its backward."""
    x, weight, bias, grad = arguments((3, 4, 5), torch.float32, place)
    mean, var = running(x)
    y = ops.norm_act(x, weight, bias, mean, var, training=False, impl=place.impl)
    mean.zero_(), var.fill_(9)
    expected = run(reference.norm_act, x, weight, bias, grad, statistics=True, training=False)[1:4]
    for a, e in zip(torch.autograd.grad(y, (x, weight, bias), grad), expected, strict=True):
        assert error(a, e) < 1e-5


def test_saves_the_input_and_the_statistics_only(place):
    x, weight, bias, _ = arguments((8, 4, 10), torch.float32, place)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        ops.norm_act(x, weight, bias, impl=place.impl)
    assert sum(t.numel() for t in kept.values()) == 8 * 4 * 10 + 4 * 4  # x; weight, bias, mean, var


def test_inputs_are_not_changed_and_the_graph_can_be_kept(place):
    x, weight, bias, grad = arguments((3, 4, 5), torch.float32, place)
    before = [t.clone() for t in (x, weight, bias, grad)]
    y = ops.norm_act(x, weight, bias, impl=place.impl)
    first = torch.autograd.grad(y, (x, weight, bias), grad, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(y, (x, weight, bias), grad), strict=True))
    assert all(torch.equal(a, b) for a, b in zip((x, weight, bias, grad), before, strict=True))


def test_no_grad_and_inference_mode(place):
    x, weight, bias, _ = arguments((3, 4, 5), torch.float32, place)
    expected = reference.norm_act(x, weight, bias).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = ops.norm_act(x, weight, bias, impl=place.impl)
        assert not y.requires_grad
        assert error(y, expected) < 1e-5


@pytest.mark.parametrize("layout", TWO_LAYOUTS)
def test_same_bits_every_time(place, layout):
    given_ = arguments((6, 5, 21, 17), torch.float32, place, layout)
    first = run(ops.norm_act, *given_, statistics=True, impl=place.impl)
    for _ in range(2 if place.interpreted else 20):
        again = run(ops.norm_act, *given_, statistics=True, impl=place.impl)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(8, 48, 33, 33), (8, 3, 100, 100), (256, 64)], ids=str)
def test_same_bits_on_any_number_of_threads(native, threads, layout, shape):
    given_ = arguments(shape, torch.float32, native, layout)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(run(ops.norm_act, *given_, statistics=True))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_two_threads_at_once(native):
    inputs = [arguments((8, 32, 20, 20), torch.float32, native) for _ in range(2)]
    expected = [run(ops.norm_act, *given_) for given_ in inputs]
    wrong = []

    def work(index: int) -> None:
        for _ in range(20):
            result = run(ops.norm_act, *inputs[index])
            if not all(torch.equal(a, b) for a, b in zip(result, expected[index], strict=True)):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("training", [True, False])
def test_no_gradient_comes_back(place, training):
    x, weight, bias, _ = arguments((3, 4, 5), torch.float32, place)
    mean, var = running(x)
    y = ops.norm_act(x, weight, bias, mean, var, training=training, impl=place.impl)
    found = torch.autograd.grad(NoGradient.apply(y).sum(), (x, weight, bias), allow_unused=True)
    assert found == (None, None, None)
