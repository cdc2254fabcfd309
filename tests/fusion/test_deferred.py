"""What a fused module's result is before its first use: what it has learnt, and what it does where that is wrong."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import igan_fast
from igan_fast import ops
from igan_fast.fusion import fused_module
from igan_fast.fusion.deferred import Deferred
from igan_fast.fusion.watched import Guarded, Watched

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


@pytest.mark.parametrize("keep", ["register_hook", "retain_grad"])
@pytest.mark.parametrize("in_place", [lambda h: F.leaky_relu_(h, 0.2), lambda h: F.leaky_relu(h, 0.2, True)])
def test_an_activation_in_place_of_a_result_that_hooks_hold(keep, in_place):
    """The hooks stay with the normalisation's node, ``retain_grad`` goes with the tensor, as in plain PyTorch."""
    norm, plain = nn.BatchNorm2d(8).double(), nn.BatchNorm2d(8).double()
    igan_fast.fuse(norm)
    F.leaky_relu(norm(X), 0.2)
    F.leaky_relu(plain(X), 0.2)
    found = []
    for module in (norm, plain):
        told: list[Tensor] = []
        h = module(X)
        if keep == "retain_grad":
            h.retain_grad()
        else:
            h.register_hook(lambda grad, told=told: told.append(grad.clone()))
        y = in_place(h)
        assert y is h
        (Square.apply(h) + h * 3).sum().backward()
        found.append([h.detach(), *told, *([h.grad] if keep == "retain_grad" else []), module.weight.grad])
    for a, e in zip(*found, strict=True):
        assert (a - e).abs().max() < 1e-9


def test_a_result_that_hooks_hold_is_changed_after_its_activation():
    norm, plain = taught(), nn.BatchNorm2d(8).double()
    found = []
    for module in (norm, plain):
        told: list[Tensor] = []
        h = module(X)
        h.register_hook(lambda grad, told=told: told.append(grad.clone()))
        y = F.relu(h)
        h.mul_(3.0)
        (y + h.square()).sum().backward()
        found.append([*told, module.weight.grad])
    for a, e in zip(*found, strict=True):
        assert (a - e).abs().max() < 1e-9


def test_what_something_else_holds_is_not_changed_in_place():
    h = taught()(X)
    h.retain_grad()
    with pytest.raises(RuntimeError, match=r"changed in place while something else holds it .* igan_fast\.unfuse"):
        h.mul_(3.0)


def test_weak_references_of_cpp_are_no_hindrance():
    norm = taught()
    h = norm(X)
    reference = torch._C._WeakTensorRef(h)
    assert (h + 0 - F.batch_norm(X, None, None, norm.weight, norm.bias, True)).abs().max() < 1e-12
    assert not reference.expired()


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_what_cpp_has_written_into_is_activated(training):
    """As a collective of ``torch.distributed`` writes, or an operator of somebody's own."""
    h = taught(training=training)(X)
    expected = F.relu(nn.BatchNorm2d(8).double().train(training)(X) * -2)
    with torch._C.DisableTorchFunctionSubclass():
        h.mul_(-2)
    assert (F.relu(h) - expected).abs().max() < 1e-12


def test_lists_of_derived_classes():
    class Features(list):
        pass

    norm = taught()
    h = norm(X)
    assert torch.cat(Features([h, norm(X)])).shape == (8, 8, 6, 6)
    y = norm(X)
    (grad,) = torch.autograd.grad(Features([F.relu(y).sum()]), Features([y]))
    assert (grad.unique() == torch.tensor([0.0, 1.0])).all()


class Image(Tensor):
    """Somebody's own."""


@pytest.mark.parametrize("consumed", [True, False])
def test_as_a_class_of_somebodys_own(consumed):
    norm = taught()
    h = norm(X)
    if consumed:
        F.relu(h)
    image = h.as_subclass(Image)
    assert type(image) is Image
    assert (image - F.batch_norm(X, None, None, norm.weight, norm.bias, True)).abs().max() < 1e-12


@torch.no_grad()
def test_a_folded_normalisation_under_autocast_used_otherwise():
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)).eval()
    plain, x = copy.deepcopy(net), X.float()
    igan_fast.fuse(net)
    with torch.autocast("cpu", torch.bfloat16):
        F.relu(net(x))
        h = net(x)
        assert type(h) is Deferred
        result, expected = h * 1, plain(x) * 1
    assert result.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(result, expected)


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad])
def test_an_instance_normalisation_whose_statistics_are_gone(context):
    norm = nn.InstanceNorm2d(8, track_running_stats=True).double().eval()
    igan_fast.fuse(norm)
    norm.running_mean = norm.running_var = None
    with context(), pytest.raises(RuntimeError, match="Expected running_mean and running_var to be defined"):
        norm(X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_normalisation_of_any_dtype_is_folded(dtype):
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).to(dtype).eval()
    plain, x = copy.deepcopy(net), X.to(dtype)
    igan_fast.fuse(net)
    for turn in range(4):
        h = net[0](x)
        assert (net[2](net[1](h)) - plain(x)).abs().max() < {torch.bfloat16: 0.05}.get(dtype, 1e-5)
        assert type(h) is (Deferred if turn else Tensor)


@pytest.mark.parametrize("training", [True, False])
@torch.inference_mode()
def test_an_inference_tensor_that_is_written_through_another_one(training):
    """A view of it, or what it is a view of."""
    norm, images = taught(training=training), torch.cat([X, X])
    base, x = images.clone(), X.clone()
    view = x.view(-1)
    expected = nn.BatchNorm2d(8).double().train(training)(X)
    results = [norm(base[:4]), norm(x)]
    base.zero_(), view.zero_()
    for h in results:
        assert (h * 1 - expected).abs().max() < 1e-9
    y = X.clone()
    assert type(norm(y)) is Deferred  # whose memory is its own


@pytest.mark.parametrize("way", ["list", "tensor"])
def test_a_backward_pass_into_a_result(way):
    h = taught()(X)
    F.relu(h).sum().backward(inputs=[h] if way == "list" else h)
    assert (h.grad.unique() == torch.tensor([0.0, 1.0])).all()


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("consumed", [True, False])
def test_parameters_that_change_unseen_before_a_result_is_used(context, training, consumed):
    """By ``.data``, as weights are clipped, and as a running average of weights is put in and taken out."""
    norm, plain = taught(training=training), nn.BatchNorm2d(8).double().train(training)
    F.relu(plain(X))
    found = []
    for module in (norm, plain):
        with context():
            h = module(X)
            if consumed:
                F.relu(h)
            for t in (*module.parameters(), *module.buffers()):
                t.data.mul_(3)
            found.append(h.tanh())
    assert (found[0] - found[1]).abs().max() < 1e-12


def test_a_result_that_is_used_after_an_optimiser_has_stepped():
    norm = taught()
    optimiser = torch.optim.SGD(norm.parameters(), 0.1)
    for _ in range(5):
        h = norm(X)
        expected = F.batch_norm(X, None, None, norm.weight.clone(), norm.bias.clone(), True).detach()
        F.relu(h).sum().backward()
        optimiser.step()
        assert (h.detach() - expected).abs().max() < 1e-12
    assert type(norm(X)) is Tensor  # where it is used beside its activation too, nothing is to be gained


def folding() -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """In evaluation, after a call: the convolution expects the normalisation."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 8, 3, padding=1).double(), nn.BatchNorm2d(8).double().eval()
    igan_fast.fuse(nn.Sequential(conv, norm))
    with torch.no_grad():
        F.relu(norm(conv(X)))
        assert type(conv(X)) is Deferred
    return conv, norm


def _clip(conv):
    for parameter in conv.parameters():
        parameter.data.mul_(3)


@pytest.mark.parametrize(
    "change",
    [
        _clip,
        lambda conv: setattr(conv, "stride", (2, 2)),
        lambda conv: setattr(conv, "bias", None),
        lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight * 2)),
    ],
)
@pytest.mark.parametrize("consumed", [True, False])
@torch.no_grad()
def test_a_convolution_that_changes_before_its_result_is_used(change, consumed):
    conv, norm = folding()
    expected = F.conv2d(X, conv.weight, conv.bias, padding=1)
    h = conv(X)
    if consumed:
        norm(h)
    change(conv)
    assert (h * 1 - expected).abs().max() < 1e-12


@torch.no_grad()
def test_a_convolution_by_weights_that_are_not_its_own():
    conv, _ = folding()
    weight = torch.ones_like(conv.weight)
    h = torch.func.functional_call(conv, {"weight": weight}, (X,))
    assert (h * 1 - F.conv2d(X, weight, conv.bias, padding=1)).abs().max() < 1e-12


@pytest.mark.parametrize("training", [True, False])
@torch.inference_mode()
def test_a_network_that_was_made_in_inference_mode(training):
    """Its parameters do not count their changes."""
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).double().train(training)
    plain = copy.deepcopy(net)
    igan_fast.fuse(net)
    for _ in range(4):
        assert (net(X) - plain(X)).abs().max() < 1e-9
        net[1].running_var.mul_(2), plain[1].running_var.mul_(2)


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({"padding": 1}, {"stride": [2, 2], "padding": [1, 1]}),
        ({"padding": 1}, {"stride": (2,), "dilation": (1,)}),
        ({}, {"padding": "same"}),
        ({"padding": "same"}, {"dilation": (2, 2)}),
        ({"padding": "same"}, {"padding": "valid", "stride": (2, 2)}),
        ({"padding": 1}, {"groups": 8}),
    ],
)
def test_settings_that_are_set_later(settings, change, context):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, **settings), nn.BatchNorm2d(8), nn.ReLU()).eval()
    for name, value in change.items():
        setattr(net[0], name, value)
    if "groups" in change:
        net[0].weight = nn.Parameter(net[0].weight[:, :1].detach().clone())
    plain, x = copy.deepcopy(net), X.float()
    igan_fast.fuse(net)
    with context():
        for _ in range(3):
            assert (net(x) - plain(x)).abs().max() < 1e-4


@torch.no_grad()
def test_a_padding_that_pytorch_refuses():
    conv, _ = folding()
    conv.padding, conv.stride = "same", (2, 2)
    with pytest.raises(RuntimeError, match="padding='same' is not supported for strided convolutions"):
        conv(X)


@pytest.mark.filterwarnings("ignore:Dynamo")
def test_a_compiled_function_takes_a_result():
    torch._dynamo.reset()
    norm, compiled = taught(), torch.compile(lambda h: F.relu(h) * 2, backend="eager")
    expected = F.relu(F.batch_norm(X, None, None, norm.weight, norm.bias, True)) * 2
    assert (compiled(norm(X)) - expected).abs().max() < 1e-12


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
    assert X.numel() < fused_module.MIN_ELEMENTS
    assert type(norm(X)) is Tensor
    assert norm(X).grad_fn.name() == "NativeBatchNormBackward0"


def test_what_a_module_has_learnt_is_not_copied():
    import pickle

    norm = taught()
    for other in (copy.deepcopy(norm), copy.copy(norm), pickle.loads(pickle.dumps(norm))):
        assert type(other(X)) is Watched
    assert type(norm(X)) is Deferred
