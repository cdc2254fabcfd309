"""feature_l1's derivatives, what its graph keeps, and the same bits every time."""

from __future__ import annotations

import math
import threading
import weakref

import pytest
import torch
from feature_l1_cases import pair, run
from oracles import DTYPES, NoGradient, error
from torch import Tensor

from igan_fast import ops
from igan_fast.ops.sign_mask import sign_mask_bytes
from igan_fast.reference import ops as reference


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_have_no_gradient(place, dtype):
    fake = torch.tensor([1.0, -2.0, -0.0, 3.0], dtype=dtype, device=place.device, requires_grad=True)
    real = torch.tensor([1.0, -2.0, 0.0, 2.0], dtype=dtype, device=place.device)
    (gradient,) = torch.autograd.grad(ops.feature_l1([fake], [real], impl=place.impl), fake)
    expected = torch.tensor([0, 0, 0, 0.25], dtype=dtype, device=place.device)
    assert torch.equal(gradient, expected)


@pytest.mark.every_build
@pytest.mark.parametrize("upstream", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_travels(place, upstream):
    """At a tie the gradient is ∞ · 0 = NaN, as in PyTorch."""
    fake = torch.tensor([1.0, 2.0], device=place.device, requires_grad=True)
    real = torch.tensor([1.0, 3.0], device=place.device)
    gradients = [
        torch.autograd.grad(f([fake], [real]) * upstream, fake)[0] for f in (ops.feature_l1, reference.feature_l1)
    ]
    assert error(*gradients) < 1e-6


def test_gradients_of_one_side_or_some_pairs(place):
    (f1, r1), (f2, r2) = (pair((3, 4), torch.float32, place) for _ in range(2))
    loss = ops.feature_l1([f1.detach(), f2], [r1, r2.detach()], impl=place.impl)
    gradients = torch.autograd.grad(loss, [r1, f2])
    assert error(gradients[0], -torch.sign(f1 - r1) / 12) < 1e-6
    assert error(gradients[1], torch.sign(f2 - r2) / 12) < 1e-6
    assert not ops.feature_l1([f1.detach()], [r1.detach()], impl=place.impl).requires_grad
    with torch.no_grad():
        assert not ops.feature_l1([f1], [r1], impl=place.impl).requires_grad
    with torch.inference_mode():
        assert error(ops.feature_l1([f1], [r1], impl=place.impl), (f1 - r1).abs().mean()) < 1e-6


def test_the_same_tensor_on_both_sides(place):
    x = torch.randn(5, device=place.device, requires_grad=True)
    loss = ops.feature_l1([x, x], [x, 2 * x.detach()], impl=place.impl)
    (gradient,) = torch.autograd.grad(loss, x)
    assert error(gradient, -torch.sign(x) / 5) < 1e-6


def test_backward_twice_over_a_kept_graph(place):
    fake, real = pair((3, 70), torch.float32, place)
    loss = ops.feature_l1([fake], [real], impl=place.impl)
    first = torch.autograd.grad(loss, [fake, real], retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, [fake, real]), strict=True))


def test_gradient_has_the_memory_format_of_the_fake_side(place):
    fake, real = pair((2, 8, 4, 4), torch.float32, place, "channels_last", "contiguous")
    (gradient,) = torch.autograd.grad(ops.feature_l1([fake], [real], impl=place.impl), fake)
    assert gradient.stride() == fake.stride()


def test_first_and_second_derivatives(place):
    fake = torch.randn(2, 3, 2, dtype=torch.float64, device=place.device, requires_grad=True)
    real = torch.randn(2, 3, 2, dtype=torch.float64, device=place.device, requires_grad=True)

    def squared(f: Tensor, r: Tensor) -> Tensor:
        return ops.feature_l1([f, f * 2], [r, r * r], [1.0, 0.5], impl=place.impl).square()

    assert torch.autograd.gradcheck(squared, (fake, real))
    assert torch.autograd.gradgradcheck(squared, (fake, real))


def test_the_graph_holds_neither_inputs_nor_differences(place):
    """The graph holds the sign mask, two bits per element."""
    fake, real = pair((64, 64), torch.float32, place)
    features = fake * 1
    storage = weakref.ref(features.untyped_storage())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = ops.feature_l1([features], [real], impl=place.impl)
    assert sum(t.numel() * t.element_size() for t in kept) == 64 * 64 // 4
    del features
    assert place.interpreted or storage() is None  # Triton's interpreter itself keeps a reference
    loss.backward()
    assert fake.grad is not None


def test_the_example_of_a_sign_mask(place):
    """The one that igan_fast/ops/sign_mask.py explains; csrc/ops/feature_l1/pair.h has the order of CUDA."""
    fake, real = (torch.tensor(values, device=place.device) for values in ([5.0, 1.0, 2.0], [3.0, 4.0, 2.0]))
    _, mask = place.ops.feature_l1([fake], [real], [1.0], True)
    assert mask.tolist() == ([1, 2, *[0] * 14] if place.cuda_kernels else [1, *[0] * 7, 2, *[0] * 7])
    assert mask.numel() == sign_mask_bytes(3)
    for scale, expected in ((1 / 3, [1 / 3, -1 / 3, 0]), (-1 / 3, [-1 / 3, 1 / 3, 0])):
        grad = torch.ones((), device=place.device)
        (gradient,) = place.ops.feature_l1_backward(grad, mask, [3], [0], [scale], torch.float32)
        assert error(gradient, torch.tensor(expected)) < 1e-6


def test_inputs_are_not_changed(place):
    fake, real = pair((3, 100), torch.float32, place)
    before = fake.clone(), real.clone()
    run(ops.feature_l1, [fake], [real], impl=place.impl)
    assert torch.equal(fake, before[0])
    assert torch.equal(real, before[1])


def test_same_bits_every_time(place):
    fakes, reals = zip(*(pair((2, 37, 31), torch.float32, place) for _ in range(3)), strict=True)
    first = run(ops.feature_l1, fakes, reals, impl=place.impl)
    for _ in range(3 if place.interpreted else 20):
        again = run(ops.feature_l1, fakes, reals, impl=place.impl)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_same_bits_on_any_number_of_threads(native, threads):
    fake, real = pair((4, 33, 65, 17), torch.float32, native)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(run(ops.feature_l1, [fake], [real]))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_two_threads_at_once(native):
    inputs = [pair((50_000,), torch.float32, native) for _ in range(2)]
    expected = [run(ops.feature_l1, [f], [r]) for f, r in inputs]
    wrong = []

    def work(index: int) -> None:
        for _ in range(20):
            f, r = inputs[index]
            if not all(torch.equal(a, b) for a, b in zip(run(ops.feature_l1, [f], [r]), expected[index], strict=True)):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_no_gradient_comes_back(place):
    fake, real = pair((3, 4), torch.float32, place)
    loss = ops.feature_l1([fake.requires_grad_()], [real], impl=place.impl)
    assert torch.autograd.grad(NoGradient.apply(loss), fake, allow_unused=True) == (None,)
