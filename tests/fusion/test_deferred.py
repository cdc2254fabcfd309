"""Results of fused modules before their first use: what a module learns, and what happens after a wrong guess."""

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


def norm_expecting_relu(*, training: bool = True) -> nn.BatchNorm2d:
    """A fused normalisation that expects a ReLU, because one followed its first call."""
    norm = nn.BatchNorm2d(8).double().train(training)
    igan_fast.fuse(norm)
    F.relu(norm(X))
    return norm


class Square(torch.autograd.Function):
    """A custom autograd function: it gets its input in C++, without ``__torch_function__``."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


def test_the_first_result_is_watched():
    norm = nn.BatchNorm2d(8).double()
    igan_fast.fuse(norm)
    h = norm(X)
    assert type(h) is Watched
    assert h.data_ptr() != 0  # its first use
    assert type(h) is Tensor
    assert type(norm(X)) is Tensor  # no activation followed: nothing is expected


def test_the_expected_activation_returns_what_was_computed_with_the_normalisation():
    norm = norm_expecting_relu()
    h = norm(X)
    assert type(h) is Deferred
    y = F.relu(h)
    assert type(y) is Tensor
    assert (y - F.relu(F.batch_norm(X, None, None, norm.weight, norm.bias, True))).abs().max() < 1e-12


def test_reading_metadata_or_registering_a_hook_computes_nothing():
    h = norm_expecting_relu()(X)
    assert (h.shape, h.dtype, h.dim(), h.stride(), h.requires_grad) == (X.shape, X.dtype, 4, X.stride(), True)
    h.register_hook(lambda grad: None)
    assert type(h) is Deferred
    assert not h.is_computed()


def test_any_other_use_makes_it_an_ordinary_tensor_with_the_plain_result():
    norm = norm_expecting_relu()
    h = norm(X)
    total = h.sum()
    assert type(h) is Tensor
    assert type(total) is Tensor
    assert (h - F.batch_norm(X, None, None, norm.weight, norm.bias, True)).abs().max() < 1e-12
    h.numpy(force=True)


def test_after_three_wrong_guesses_a_module_expects_nothing():
    norm = norm_expecting_relu()
    for _ in range(3):
        norm(X).sum()
        F.relu(norm(X))
    assert type(norm(X)) is Tensor


def test_another_slope_is_learnt_again():
    norm = norm_expecting_relu()
    for slope in (0.1, 0.1, 0.1):
        h = norm(X)
        expected = F.leaky_relu(F.batch_norm(X, None, None, norm.weight, norm.bias, True), slope)
        assert (F.leaky_relu(h, slope) - expected).abs().max() < 1e-12
    assert type(norm(X)) is Deferred


@torch.no_grad()
def test_an_in_place_change_of_the_input_does_not_change_the_activated_result():
    norm = norm_expecting_relu(training=False)
    x = X.clone()
    expected = F.relu(nn.BatchNorm2d(8).double().eval()(x))
    h = norm(x)
    x.zero_()
    assert (F.relu(h) - expected).abs().max() < 1e-12


@torch.no_grad()
def test_an_in_place_change_of_the_input_before_another_use_raises():
    norm = norm_expecting_relu(training=False)
    x = X.clone()
    h = norm(x)
    x.zero_()
    with pytest.raises(RuntimeError, match=r"changed in place between .* igan_fast\.unfuse\(model\)"):
        h.sum()
    assert norm(X).sum().isfinite()  # the next call is watched


@torch.inference_mode()
def test_inference_tensors_are_guarded_against_changes():
    """Inference tensors have no version counter."""
    norm = norm_expecting_relu(training=False)
    x = X.clone()
    expected = nn.BatchNorm2d(8).double().eval()(x)
    h = norm(x)
    assert type(x) is Guarded
    x.zero_()
    assert type(x) is Tensor
    assert (h.sum() - expected.sum()).abs() < 1e-9


def test_an_in_place_change_after_the_activation():
    norm, plain = norm_expecting_relu(), nn.BatchNorm2d(8).double()
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
def test_an_in_place_activation_of_a_result_with_hooks(keep, in_place):
    """Hooks stay at the normalisation's node; ``retain_grad`` moves with the tensor, as in plain PyTorch."""
    norm, plain = nn.BatchNorm2d(8).double(), nn.BatchNorm2d(8).double()
    igan_fast.fuse(norm)
    F.leaky_relu(norm(X), 0.2)
    F.leaky_relu(plain(X), 0.2)
    found = []
    for module in (norm, plain):
        gradients: list[Tensor] = []
        h = module(X)
        if keep == "retain_grad":
            h.retain_grad()
        else:
            h.register_hook(lambda grad, gradients=gradients: gradients.append(grad.clone()))
        y = in_place(h)
        assert y is h
        (Square.apply(h) + h * 3).sum().backward()
        found.append([h.detach(), *gradients, *([h.grad] if keep == "retain_grad" else []), module.weight.grad])
    for a, e in zip(*found, strict=True):
        assert (a - e).abs().max() < 1e-9


def test_an_in_place_change_of_a_result_with_hooks_after_the_activation():
    norm, plain = norm_expecting_relu(), nn.BatchNorm2d(8).double()
    found = []
    for module in (norm, plain):
        gradients: list[Tensor] = []
        h = module(X)
        h.register_hook(lambda grad, gradients=gradients: gradients.append(grad.clone()))
        y = F.relu(h)
        h.mul_(3.0)
        (y + h.square()).sum().backward()
        found.append([*gradients, module.weight.grad])
    for a, e in zip(*found, strict=True):
        assert (a - e).abs().max() < 1e-9


def test_an_in_place_change_raises_where_something_else_holds_the_result():
    h = norm_expecting_relu()(X)
    h.retain_grad()
    with pytest.raises(RuntimeError, match=r"changed in place while something else holds it .* igan_fast\.unfuse"):
        h.mul_(3.0)


@pytest.mark.parametrize("in_place", [F.relu_, lambda h: h.mul_(3.0), lambda h: F.leaky_relu(h, 0.2, inplace=True)])
def test_in_place_changes_while_the_profiler_records_shapes(in_place):
    """The profiler holds a weak reference in C++ to each tensor of which it records the shape."""
    norm, plain = norm_expecting_relu(), nn.BatchNorm2d(8).double()
    found = []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True):
        for module in (norm, plain):
            h = module(X)
            y = in_place(h)
            assert y is h
            z = F.conv2d(h, torch.ones(4, 8, 1, 1, dtype=torch.float64)) + h[:, :4]
            (z.square() + (h * y)[:, 4:]).sum().backward()
            found.append([h.detach() + 0, z.detach(), module.weight.grad, module.bias.grad])
    for a, e in zip(*found, strict=True):
        assert (a - e).abs().max() < 1e-9


def test_a_custom_function_after_an_in_place_change_under_a_weak_reference():
    """The custom function's node would be connected to the result as it was before the change."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            with torch._C.DisableTorchFunctionSubclass():
                return x * 2

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            return grad * 2

    def written() -> tuple[Tensor, object]:
        h = norm_expecting_relu()(X)
        reference = torch._C._WeakTensorRef(h)
        return F.relu_(h), reference

    h, reference = written()
    with pytest.raises(RuntimeError, match=r"given to a custom autograd function.* record_shapes=False"):
        Twice.apply(h)
    with torch.no_grad():
        h, reference = written()
        assert torch.equal(Twice.apply(h), 2 * F.relu(norm_expecting_relu()(X)))
    del reference


def test_weak_references_in_cpp():
    norm = norm_expecting_relu()
    h = norm(X)
    reference = torch._C._WeakTensorRef(h)
    assert (h + 0 - F.batch_norm(X, None, None, norm.weight, norm.bias, True)).abs().max() < 1e-12
    assert not reference.expired()


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_the_activation_after_cpp_has_written_into_the_result(training):
    """As a collective of ``torch.distributed`` does, or a custom operator."""
    h = norm_expecting_relu(training=training)(X)
    expected = F.relu(nn.BatchNorm2d(8).double().train(training)(X) * -2)
    with torch._C.DisableTorchFunctionSubclass():
        h.mul_(-2)
    assert (F.relu(h) - expected).abs().max() < 1e-12


def test_results_in_lists_of_derived_classes():
    class Features(list):
        pass

    norm = norm_expecting_relu()
    h = norm(X)
    assert torch.cat(Features([h, norm(X)])).shape == (8, 8, 6, 6)
    y = norm(X)
    (grad,) = torch.autograd.grad(Features([F.relu(y).sum()]), Features([y]))
    assert (grad.unique() == torch.tensor([0.0, 1.0])).all()


class Image(Tensor):
    """A subclass of Tensor."""


@pytest.mark.parametrize("consumed", [True, False])
def test_as_subclass(consumed):
    norm = norm_expecting_relu()
    h = norm(X)
    if consumed:
        F.relu(h)
    image = h.as_subclass(Image)
    assert type(image) is Image
    assert (image - F.batch_norm(X, None, None, norm.weight, norm.bias, True)).abs().max() < 1e-12


@torch.no_grad()
def test_another_use_of_a_folded_normalisation_under_autocast():
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
def test_an_instance_normalisation_whose_statistics_were_removed(context):
    norm = nn.InstanceNorm2d(8, track_running_stats=True).double().eval()
    igan_fast.fuse(norm)
    norm.running_mean = norm.running_var = None
    with context(), pytest.raises(RuntimeError, match="Expected running_mean and running_var to be defined"):
        norm(X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@torch.no_grad()
def test_normalisations_of_any_dtype_are_folded(dtype):
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).to(dtype).eval()
    plain, x = copy.deepcopy(net), X.to(dtype)
    igan_fast.fuse(net)
    for call in range(4):
        h = net[0](x)
        assert (net[2](net[1](h)) - plain(x)).abs().max() < {torch.bfloat16: 0.05}.get(dtype, 1e-5)
        assert type(h) is (Deferred if call else Tensor)


@pytest.mark.parametrize("training", [True, False])
@torch.inference_mode()
def test_an_inference_tensor_that_is_changed_through_another_tensor(training):
    """Through a view of it, or through its base."""
    norm, images = norm_expecting_relu(training=training), torch.cat([X, X])
    base, x = images.clone(), X.clone()
    view = x.view(-1)
    expected = nn.BatchNorm2d(8).double().train(training)(X)
    results = [norm(base[:4]), norm(x)]
    base.zero_(), view.zero_()
    for h in results:
        assert (h * 1 - expected).abs().max() < 1e-9
    y = X.clone()
    assert type(norm(y)) is Deferred  # its memory is not shared


@pytest.mark.parametrize("way", ["list", "tensor"])
def test_a_gradient_with_respect_to_a_result(way):
    h = norm_expecting_relu()(X)
    F.relu(h).sum().backward(inputs=[h] if way == "list" else h)
    assert (h.grad.unique() == torch.tensor([0.0, 1.0])).all()


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("consumed", [True, False])
def test_parameters_that_change_uncounted_before_a_result_is_used(context, training, consumed):
    """By ``.data``: as WGAN clips weights, and as averaged weights are swapped in and out."""
    norm, plain = norm_expecting_relu(training=training), nn.BatchNorm2d(8).double().train(training)
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
    norm = norm_expecting_relu()
    optimiser = torch.optim.SGD(norm.parameters(), 0.1)
    for _ in range(5):
        h = norm(X)
        expected = F.batch_norm(X, None, None, norm.weight.clone(), norm.bias.clone(), True).detach()
        F.relu(h).sum().backward()
        optimiser.step()
        assert (h.detach() - expected).abs().max() < 1e-12
    assert type(norm(X)) is Tensor  # used beside its activation too: computing both together gains nothing


def folding() -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A network in evaluation, after one call: its convolution expects the normalisation."""
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
def test_a_convolution_with_weights_that_are_not_its_parameters():
    conv, _ = folding()
    weight = torch.ones_like(conv.weight)
    h = torch.func.functional_call(conv, {"weight": weight}, (X,))
    assert (h * 1 - F.conv2d(X, weight, conv.bias, padding=1)).abs().max() < 1e-12


@pytest.mark.parametrize("training", [True, False])
@torch.inference_mode()
def test_a_network_that_was_created_in_inference_mode(training):
    """Its parameters have no version counter."""
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
def test_settings_that_change_later(settings, change, context):
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
def test_a_padding_for_which_pytorch_raises():
    conv, _ = folding()
    conv.padding, conv.stride = "same", (2, 2)
    with pytest.raises(RuntimeError, match="padding='same' is not supported for strided convolutions"):
        conv(X)


@pytest.mark.filterwarnings("ignore:Dynamo")
def test_a_result_as_input_of_a_compiled_function():
    torch._dynamo.reset()
    norm, compiled = norm_expecting_relu(), torch.compile(lambda h: F.relu(h) * 2, backend="eager")
    expected = F.relu(F.batch_norm(X, None, None, norm.weight, norm.bias, True)) * 2
    assert (compiled(norm(X)) - expected).abs().max() < 1e-12


def test_the_plain_result_is_not_kept_beside_the_activated_one():
    norm = norm_expecting_relu()
    h = norm(X.clone().requires_grad_())
    y = F.relu(h)
    held = weakref.ref(h)
    del h
    gc.collect()
    assert held() is None
    y.sum().backward()


def test_small_tensors_are_left_to_pytorch(monkeypatch):
    norm = norm_expecting_relu()
    monkeypatch.undo()
    assert X.numel() < fused_module.MIN_ELEMENTS
    assert type(norm(X)) is Tensor
    assert norm(X).grad_fn.name() == "NativeBatchNormBackward0"


def test_an_expectation_is_not_copied():
    import pickle

    norm = norm_expecting_relu()
    for other in (copy.deepcopy(norm), copy.copy(norm), pickle.loads(pickle.dumps(norm))):
        assert type(other(X)) is Watched
    assert type(norm(X)) is Deferred
