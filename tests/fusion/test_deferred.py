"""What a fused module's result is before its first use: what it has learnt, and what it does where that is wrong."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import igan_fast
from igan_fast import ops
from igan_fast.fusion import twin
from igan_fast.fusion.deferred import Deferred, Guarded, Watched

pytestmark = pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])

X = torch.randn(4, 8, 6, 6, dtype=torch.float64)


def taught(*, training: bool = True) -> nn.BatchNorm2d:
    """A fused normalisation that a ReLU has followed."""
    norm = nn.BatchNorm2d(8).double().train(training)
    igan_fast.fuse(norm)
    F.relu(norm(X))
    return norm


class Square(torch.autograd.Function):
    """Somebody's own, which Python's functions do not see."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


def test_the_first_result_is_an_ordinary_tensor_that_is_watched():
    norm = nn.BatchNorm2d(8).double()
    igan_fast.fuse(norm)
    h = norm(X)
    assert type(h) is Watched
    assert h.data_ptr() != 0  # its first use
    assert type(h) is Tensor
    assert type(norm(X)) is Tensor  # nothing is to be gained here any more


def test_an_expected_activation_gets_what_was_computed_with_the_normalisation():
    norm = taught()
    h = norm(X)
    assert type(h) is Deferred
    y = F.relu(h)
    assert type(y) is Tensor
    assert (y - F.relu(F.batch_norm(X, None, None, norm.weight, norm.bias, True))).abs().max() < 1e-12


def test_asking_for_a_shape_or_a_hook_computes_nothing():
    h = taught()(X)
    assert (h.shape, h.dtype, h.dim(), h.stride(), h.requires_grad) == (X.shape, X.dtype, 4, X.stride(), True)
    h.register_hook(lambda grad: None)
    assert type(h) is Deferred
    assert not h.is_computed()


def test_another_use_gets_the_plain_result_and_the_tensor_becomes_an_ordinary_one():
    norm = taught()
    h = norm(X)
    total = h.sum()
    assert type(h) is Tensor
    assert type(total) is Tensor
    assert (h - F.batch_norm(X, None, None, norm.weight, norm.bias, True)).abs().max() < 1e-12
    h.numpy(force=True)


def test_a_place_that_is_wrong_too_often_expects_nothing():
    norm = taught()
    for _ in range(3):
        norm(X).sum()
        F.relu(norm(X))
    assert type(norm(X)) is Tensor


def test_a_slope_that_changes_is_learnt_anew():
    norm = taught()
    for slope in (0.1, 0.1, 0.1):
        h = norm(X)
        expected = F.leaky_relu(F.batch_norm(X, None, None, norm.weight, norm.bias, True), slope)
        assert (F.leaky_relu(h, slope) - expected).abs().max() < 1e-12
    assert type(norm(X)) is Deferred


@torch.no_grad()
def test_a_change_in_place_that_the_prediction_did_not_need_changes_nothing():
    norm = taught(training=False)
    x = X.clone()
    expected = F.relu(nn.BatchNorm2d(8).double().eval()(x))
    h = norm(x)
    x.zero_()
    assert (F.relu(h) - expected).abs().max() < 1e-12


@torch.no_grad()
def test_a_change_in_place_and_an_unexpected_use_are_refused():
    norm = taught(training=False)
    x = X.clone()
    h = norm(x)
    x.zero_()
    with pytest.raises(RuntimeError, match=r"changed in place between .* igan_fast\.unfuse\(model\)"):
        h.sum()
    assert norm(X).sum().isfinite()  # the next call is watched


@torch.inference_mode()
def test_inference_tensors_are_guarded_against_changes():
    """They do not count their changes."""
    norm = taught(training=False)
    x = X.clone()
    expected = nn.BatchNorm2d(8).double().eval()(x)
    h = norm(x)
    assert type(x) is Guarded
    x.zero_()
    assert type(x) is Tensor
    assert (h.sum() - expected.sum()).abs() < 1e-9


def test_a_result_changed_after_its_activation_goes_on_as_an_ordinary_tensor():
    norm, plain = taught(), nn.BatchNorm2d(8).double()
    gradients = []
    for module in (norm, plain):
        h = module(X)
        F.relu(h)
        assert h.mul_(3.0) is h
        y = Square.apply(h)
        y.sum().backward()
        gradients.append([y.detach(), module.weight.grad, module.bias.grad])
    for a, e in zip(*gradients, strict=True):
        assert (a - e).abs().max() < 1e-9


def test_a_result_that_hooks_hold_is_not_changed_after_its_activation():
    h = taught()(X)
    h.register_hook(lambda grad: None)
    F.relu(h)
    with pytest.raises(RuntimeError, match="changed in place after an activation has taken it"):
        h.mul_(3.0)


def test_the_plain_result_is_not_kept_beside_the_activated_one():
    norm = taught()
    h = norm(X.clone().requires_grad_())
    y = F.relu(h)
    held = weakref.ref(h)
    del h
    gc.collect()
    assert held() is None
    y.sum().backward()


def test_small_tensors_are_pytorchs(monkeypatch):
    norm = taught()
    monkeypatch.undo()
    assert X.numel() < twin.SMALLEST
    assert type(norm(X)) is Tensor
    assert norm(X).grad_fn.name() == "NativeBatchNormBackward0"


def test_what_a_module_has_learnt_is_not_copied():
    import copy
    import pickle

    norm = taught()
    for other in (copy.deepcopy(norm), copy.copy(norm), pickle.loads(pickle.dumps(norm))):
        assert type(other(X)) is Watched
    assert type(norm(X)) is Deferred
