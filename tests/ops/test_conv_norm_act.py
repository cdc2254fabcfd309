"""conv_norm_act against the reference and PyTorch's own modules."""

from __future__ import annotations

import copy
import functools
from contextlib import nullcontext

import pytest
import torch
from oracles import HALF, LAYOUTS, assert_as_good, error, in_float64
from torch import Tensor, nn
from winograd_runs import count_winograd

from igan_fast import ops
from igan_fast.ops.convolution import ConvSettings, plan_of, winograd_costs
from igan_fast.reference import ops as reference

# transposed, output channels, spatial sizes, kernel, stride, padding, output_padding
LAYERS = {
    "D's layer": (False, 6, (8, 8), 5, 2, 2, 0),
    "odd sizes": (False, 5, (7, 9), 3, 2, 1, 0),
    "stride 1": (False, 4, (5, 6), 3, 1, 1, 0),
    "G's layer": (True, 6, (4, 4), 5, 2, 2, 1),
    "G's last layer": (True, 3, (5, 4), 5, 2, 2, 1),
    "4x4 transposed": (True, 2, (4, 3), 4, 2, 1, 0),
    "1-D": (False, 4, (12,), 5, 2, 2, 0),
    "3-D transposed": (True, 4, (3, 2, 3), 3, 2, 1, 1),
}


def arguments(layer, dtype, place, channels_last=False):
    transposed, c_out, spatial, kernel, stride, padding, output_padding = LAYERS[layer]
    parameter_dtype = torch.float32 if dtype in HALF else dtype
    shape = (5, c_out) if transposed else (c_out, 5)
    x = torch.randn(4, 5, *spatial, dtype=torch.float64).to(place.device, dtype)
    if channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    conv_weight = (torch.randn(*shape, *[kernel] * len(spatial), dtype=torch.float64) * 0.2).to(place.device, dtype)
    weight, bias = torch.randn(2, c_out, dtype=torch.float64).to(place.device, parameter_dtype)
    tensors = [t.detach().requires_grad_() for t in (x, conv_weight, weight, bias)]
    options = {"transposed": transposed, "stride": stride, "padding": padding, "output_padding": output_padding}
    return tensors, options


def run(function, *tensors, where=None, **options):
    """The output, the gradients, and the running statistics. ``where`` is a mask of the output's gradient."""
    generator = torch.Generator().manual_seed(2)
    c_out = tensors[2].shape[0]
    mean, var = torch.rand(2, c_out, generator=generator, dtype=torch.float64).to(tensors[2].device, tensors[2].dtype)
    var = var + 0.5
    y = function(*tensors, mean, var, **options)
    grad = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype)
    if where is not None:
        grad = grad * where
    return [y, *torch.autograd.grad(y, tensors, grad), mean, var]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", LAYERS)
def test_equals_the_reference(place, layer, dtype, groups, training):
    if place.interpreted and (groups == 2 or dtype == torch.bfloat16):
        pytest.skip("slow, and tested with norm_act")
    tensors, options = arguments(layer, dtype, place)
    options |= {"groups": groups, "training": training}
    if dtype == torch.bfloat16:
        # Where rounding alone decides the sign of the LeakyReLU's input, the gradient is not compared.
        (y, *_) = in_float64(lambda *t: run(reference.conv_norm_act, *t, **options), *tensors)
        options["where"] = y.detach().abs() > 0.03
    actual = run(ops.conv_norm_act, *tensors, **options, impl=place.impl)
    plain = run(reference.conv_norm_act, *tensors, **options)
    exact = in_float64(lambda *t: run(reference.conv_norm_act, *t, **options), *tensors)
    if dtype == torch.bfloat16:  # the convolution's own rounding, which both have, has many ways to go
        for a, e, p in zip(actual, exact, plain, strict=True):
            assert error(a, e) <= max(3 * error(p, e), 0.02)
    else:
        assert_as_good(actual, plain, exact, dtype)


SETTINGS = {
    "pairs": (nn.Conv2d(4, 6, (5, 1), (3, 1), (2, 0)), (9, 4)),
    "dilated": (nn.Conv2d(4, 6, 3, dilation=(2, 1), padding=(2, 1)), (7, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (6, 6)),
    "grouped, transposed": (nn.ConvTranspose2d(4, 6, (4, 3), (2, 1), 1, (1, 0), groups=2), (5, 4)),
    "dilated, transposed": (nn.ConvTranspose2d(4, 3, 3, 2, 1, 1, dilation=2), (5, 4)),
    "few channels, pairs": (nn.ConvTranspose2d(4, 3, 4, (2, 2), (1, 0)), (5, 4)),
    "1-D": (nn.Conv1d(4, 6, 5, 2, 2, groups=2), (12,)),
    "3-D": (nn.Conv3d(4, 6, 3, (1, 2, 2), (1, 1, 0), bias=True), (3, 5, 5)),
    "the model's, with a bias": (nn.Conv2d(16, 16, 5, 2, 2), (32, 32)),
    "the model's, transposed, with a bias": (nn.ConvTranspose2d(16, 16, 5, 2, 2, 1), (16, 16)),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("mode", ["training", "eval", "eval without gradient"])
@pytest.mark.parametrize("groups", [1, 4])
def test_all_settings_of_a_convolution(native, setting, mode, groups):
    """Against PyTorch's own modules in float64: pairs, dilation, convolution groups, and a bias and its gradient."""
    conv, spatial = SETTINGS[setting]
    x = torch.randn(4, conv.in_channels, *spatial, device=native.device, requires_grad=True)
    dtype = torch.float32 if conv.in_channels == 16 else torch.float64
    conv = copy.deepcopy(conv).to(native.device, dtype)
    norm = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[x.dim()](conv.out_channels)
    norm = norm.to(native.device, dtype)
    with torch.no_grad():
        norm.weight.normal_(), norm.bias.normal_(), norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    x = x.detach().to(dtype).requires_grad_()
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    module = nn.Sequential(conv, norm).train(mode == "training")
    inputs = [x, conv.weight, norm.weight, norm.bias, conv.bias]
    tolerance = 2e-5 if dtype == torch.float32 else 1e-10
    with torch.no_grad() if mode == "eval without gradient" else nullcontext():
        expected = torch.cat([module(part) for part in x.tensor_split(groups)])
        actual = ops.conv_norm_act(
            *inputs[:4],
            mean,
            var,
            transposed=isinstance(conv, nn.modules.conv._ConvTransposeNd),
            stride=conv.stride,
            padding=conv.padding,
            output_padding=conv.output_padding,
            dilation=conv.dilation,
            conv_groups=conv.groups,
            conv_bias=conv.bias,
            training=norm.training,
            negative_slope=1.0,
            groups=groups,
            impl="native",
        )
    assert error(actual, expected) < tolerance
    assert error(mean, norm.running_mean) < tolerance
    assert error(var, norm.running_var) < tolerance
    if mode != "eval without gradient":
        grad = torch.randn_like(expected)
        *firsts, bias_gradient = torch.autograd.grad(actual, inputs, grad)
        *expected_firsts, expected_bias_gradient = torch.autograd.grad(expected, inputs, grad)
        for index, (a, e) in enumerate(zip(firsts, expected_firsts, strict=True)):
            assert error(a, e) < tolerance, index
        if mode == "training":
            assert not bias_gradient.any()
            assert expected_bias_gradient.abs().max() < 1e-2  # rounding noise, 1.3e-3 was seen
        else:
            assert error(bias_gradient, expected_bias_gradient) < tolerance


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_of_instance_normalisation(native, training):
    conv, norm = nn.Conv2d(3, 5, 3, bias=True), nn.InstanceNorm2d(5, affine=True, track_running_stats=True)
    module = nn.Sequential(conv, norm).to(native.device).train(training)
    with torch.no_grad():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.weight.normal_()
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    x = torch.randn(4, 3, 6, 5, device=native.device)
    expected = module(x)
    actual = ops.conv_norm_act(
        x, conv.weight, norm.weight, norm.bias, mean, var, stride=1, padding=0, conv_bias=conv.bias,
        training=training, negative_slope=1.0, groups=4, average_groups=True, impl="native",
    )  # fmt: skip
    assert error(actual, expected) < 1e-5
    assert error(mean, norm.running_mean) < 1e-5
    assert error(var, norm.running_var) < 1e-5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stride": (2, 2, 2)}, r"stride is \(2, 2, 2\); expected a number, or 2 of them"),
        ({"dilation": (1,)}, r"dilation is \(1,\); expected a number, or 2 of them"),
        ({"output_padding": (0, 1)}, r"output_padding is \(0, 1\); expected 0 unless transposed"),
        ({"conv_bias": torch.zeros(3)}, r"conv_bias has shape \(3,\); expected \(6,\), one per channel"),
        ({"conv_groups": 5}, r"x has 5 channels; expected 25"),
    ],
)
def test_wrong_settings_of_a_convolution(native, wrong, message):
    tensors, options = arguments("D's layer", torch.float32, native)
    with pytest.raises(ValueError, match=message):
        ops.conv_norm_act(*tensors, **options | wrong, impl="native")


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("layer", ["D's layer", "G's layer", "G's last layer"])
@pytest.mark.parametrize("mode", ["training", "eval", "eval without gradient"])
def test_equals_torch_modules(place, layer, channels_last, mode):
    (x, conv_weight, weight, bias), options = arguments(layer, torch.float32, place, channels_last)
    kernel = conv_weight.shape[-1]
    kind = nn.ConvTranspose2d if options["transposed"] else nn.Conv2d
    extra = {"output_padding": options["output_padding"]} if options["transposed"] else {}
    conv = kind(5, weight.numel(), kernel, options["stride"], options["padding"], bias=False, **extra).to(x.device)
    norm = nn.BatchNorm2d(weight.numel()).to(x.device)
    with torch.no_grad():
        conv.weight.copy_(conv_weight), norm.weight.copy_(weight), norm.bias.copy_(bias)
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    training = mode == "training"
    module = nn.Sequential(conv, norm, nn.LeakyReLU(0.2)).train(training)
    with torch.no_grad() if mode == "eval without gradient" else nullcontext():
        expected = module(x)
        actual = ops.conv_norm_act(
            x, conv_weight, weight, bias, mean, var, training=training, impl=place.impl, **options
        )
    assert error(actual, expected) < 1e-5
    assert error(mean, norm.running_mean) < 1e-5
    assert error(var, norm.running_var) < 1e-5
    assert actual.is_contiguous(memory_format=torch.channels_last) or not channels_last


@pytest.mark.parametrize("layer", ["D's layer", "G's layer", "G's last layer"])
@pytest.mark.parametrize("training", [True, False])
def test_first_and_second_derivatives(native, layer, training, threads):
    torch.set_num_threads(1)  # thousands of calls too small to share
    (x, conv_weight, weight, bias), options = arguments(layer, torch.float64, native)
    x = x.detach()[:2, :2, :4, :4].contiguous().requires_grad_()
    conv_weight = (conv_weight[:2] if options["transposed"] else conv_weight[:2, :2]).detach()
    conv_weight = (conv_weight[:, :2] if options["transposed"] else conv_weight).contiguous().requires_grad_()
    weight, bias = (t.detach()[:2].requires_grad_() for t in (weight, bias))
    mean, var = torch.zeros(2, 2, dtype=torch.float64, device=x.device).add(0.7)

    def function(*tensors: Tensor) -> Tensor:
        kept = (None, None) if training else (mean, var)
        return ops.conv_norm_act(*tensors, *kept, training=training, impl="native", **options)

    assert torch.autograd.gradcheck(function, (x, conv_weight, weight, bias))
    assert torch.autograd.gradgradcheck(function, (x, conv_weight, weight, bias))


def wide(transposed: bool) -> tuple[list[Tensor], dict]:
    """A layer of the model's kind, wide enough for our own convolution kernels, and its options."""
    x = torch.randn(12, 20, 8, 8, requires_grad=True)
    conv_weight = (torch.randn(20, 24, 5, 5) if transposed else torch.randn(24, 20, 5, 5)).mul_(0.1).requires_grad_()
    weight, bias = (torch.randn(24, requires_grad=True) for _ in range(2))
    return [x, conv_weight, weight, bias], {"transposed": transposed, "output_padding": int(transposed)}


def far_from_zero(*tensors: Tensor, **options) -> Tensor:
    """Where rounding does not decide the sign of the LeakyReLU's input."""
    (y, *_) = in_float64(lambda *t: run(reference.conv_norm_act, *t, **options), *tensors)
    return y.detach().abs() > 1e-4


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("training", "groups"), [(True, 1), (True, 2), (True, 4), (False, 1)])
def test_our_own_convolution_equals_the_reference(transposed, training, groups, monkeypatch):
    count_winograd(monkeypatch)  # so that it runs for small convolutions too
    tensors, options = wide(transposed)
    options |= {"training": training, "groups": groups}
    settings = ConvSettings(2, transposed=transposed, stride=2, padding=2, output_padding=int(transposed))
    assert plan_of(*tensors[:2], None, settings).implementation.own_kernels
    options["where"] = far_from_zero(*tensors, **options)
    actual = run(ops.conv_norm_act, *tensors, **options, impl="native")
    exact = in_float64(lambda *t: run(reference.conv_norm_act, *t, **options), *tensors)
    for index, (a, e) in enumerate(zip(actual, exact, strict=True)):
        assert error(a, e) < 3e-5, index
    del options["where"]
    if not training:
        with torch.no_grad():  # folded
            kept = torch.rand(2, 24)
            folded = ops.conv_norm_act(*tensors, *kept, **options, impl="native")
            assert error(folded, reference.conv_norm_act(*tensors, *kept, **options)) < 1e-5


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize("transposed", [False, True])
def test_frozen_convolution_keeps_no_input(transposed):
    (x, conv_weight, weight, bias), options = wide(transposed)
    y = ops.conv_norm_act(x, conv_weight.detach(), weight, bias, impl="native", **options)
    node = next(n for n in (y.grad_fn, *(f for f, _ in y.grad_fn.next_functions)) if hasattr(n, "saved_tensors"))
    assert all(saved is None or saved.data_ptr() != x.data_ptr() for saved in node.saved_tensors)
    (dx,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    expected = reference.conv_norm_act(x, conv_weight.detach(), weight, bias, **options)
    assert error(dx, torch.autograd.grad(expected.square().sum(), x)[0]) < 1e-4


@pytest.mark.parametrize("layer", ["D's layer", "G's layer", "G's last layer"])
@pytest.mark.parametrize("frozen", [(1,), (1, 2, 3), (0,)])
def test_second_derivatives_with_frozen_parts(native, layer, frozen, threads):
    torch.set_num_threads(1)  # thousands of calls too small to share
    tensors, options = arguments(layer, torch.float64, native)
    cut = (slice(2), slice(2))
    tensors = [tensors[0][:2, :2, :4, :4], tensors[1][cut], tensors[2][:2], tensors[3][:2]]
    tensors = [t.detach().contiguous().requires_grad_(k not in frozen) for k, t in enumerate(tensors)]
    assert torch.autograd.gradgradcheck(lambda *t: ops.conv_norm_act(*t, impl="native", **options), tensors)


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_gradient_penalty_through_our_own_convolution(transposed):
    """Of cubes, because the squares of normalised values sum to almost a constant. Against float64."""
    tensors, options = wide(transposed)
    where = far_from_zero(*tensors, **options)

    def penalty(function, *tensors: Tensor, **impl) -> list[Tensor]:
        y = function(*tensors, **options, **impl) * where
        (dx,) = torch.autograd.grad(y.pow(3).sum(), tensors[0], create_graph=True)
        return [dx, *torch.autograd.grad(dx.square().sum(), tensors)]

    actual = penalty(ops.conv_norm_act, *tensors, impl="native")
    exact = in_float64(lambda *t: penalty(reference.conv_norm_act, *t), *tensors)
    for index, (a, e) in enumerate(zip(actual, exact, strict=True)):
        assert error(a, e) < 1e-4, index


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_in_eval_mode_through_our_own_convolution(transposed):
    """With running statistics, as in a frozen network through which another one learns. Against float64."""
    tensors, options = wide(transposed)
    conv_bias, kept = torch.randn(24).requires_grad_(), (torch.randn(24), torch.rand(24) + 0.5)
    options |= {"training": False, "negative_slope": 1.0}  # with a kink, rounding would decide some signs

    def gradients(function, x, conv_weight, weight, bias, conv_bias, *kept: Tensor, **impl) -> list[Tensor]:
        y = function(x, conv_weight, weight, bias, *kept, conv_bias=conv_bias, **options, **impl)
        wanted = (x, conv_weight, weight, bias, conv_bias)
        return [y, *torch.autograd.grad((y * y.detach().sin()).sum(), wanted)]

    actual = gradients(ops.conv_norm_act, *tensors, conv_bias, *kept, impl="native")
    exact = in_float64(lambda *t: gradients(reference.conv_norm_act, *t), *tensors, conv_bias, *kept)
    for index, (a, e) in enumerate(zip(actual, exact, strict=True)):
        assert error(a, e) < 1e-4, index


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize("transposed", [False, True])
def test_when_our_own_convolution_runs(transposed, monkeypatch):
    """Elsewhere PyTorch's does. Its results are as good, so the calls are counted."""
    calls = count_winograd(monkeypatch)
    (x, conv_weight, weight, bias), options = wide(transposed)
    kept = torch.rand(2, 24)

    def made(function) -> list[str]:
        calls.clear()
        function()
        return sorted(calls)

    def step(*given: Tensor, **settings) -> None:
        ops.conv_norm_act(*given, **options, **settings).sum().backward()

    assert made(lambda: step(x, conv_weight, weight, bias)) == ["convolve", "input_gradient", "weight_gradient"]
    assert made(lambda: step(x, conv_weight.detach(), weight, bias)) == ["convolve", "input_gradient"]
    assert made(lambda: step(x.detach(), conv_weight, weight, bias)) == ["convolve", "weight_gradient"]
    assert made(lambda: step(x, conv_weight, weight, bias, impl="reference")) == []
    for native in (True, False):  # False as for impl="triton"
        settings = ConvSettings(
            2, transposed=transposed, stride=2, padding=2, output_padding=int(transposed), native=native
        )
        assert plan_of(x, conv_weight, None, settings).implementation.own_kernels == native
    evaluating = made(lambda: step(x, conv_weight, weight, bias, *kept, training=False))
    assert evaluating == ["convolve", "input_gradient", "weight_gradient"]
    with torch.no_grad():
        assert made(lambda: ops.conv_norm_act(x, conv_weight, weight, bias, **options)) == ["convolve"]
        folded = {"training": False} | options
        assert made(lambda: ops.conv_norm_act(x, conv_weight, weight, bias, *kept, **folded)) == ["convolve"]
    for products, expected in (("none", ["convolve", "input_gradient", "weight_gradient"]), ("matrices", [])):
        monkeypatch.setattr(winograd_costs, "_PRODUCTS", dict.fromkeys(HALF, products))
        with torch.autocast("cpu", torch.bfloat16):
            assert made(lambda: step(x, conv_weight, weight, bias)) == expected


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_own_convolution_takes_any_layout(transposed, layout):
    tensors, options = wide(transposed)
    options |= {"impl": "native", "where": far_from_zero(*tensors, **options)}
    laid = [LAYOUTS[layout](t.detach()).requires_grad_() if t.dim() == 4 else t for t in tensors]
    for a, e in zip(run(ops.conv_norm_act, *laid, **options), run(ops.conv_norm_act, *tensors, **options), strict=True):
        assert error(a, e) < 1e-6


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize("transposed", [False, True])
def test_frozen_convolution_in_eval_mode(transposed):
    (x, conv_weight, weight, bias), options = wide(transposed)
    given = (x, conv_weight.detach(), weight.detach(), bias.detach(), *torch.rand(2, 24))
    options |= {"training": False}
    y = ops.conv_norm_act(*given, impl="native", **options)
    exact = in_float64(lambda *t: [reference.conv_norm_act(*t, **options)], *given)[0]
    assert error(y, exact) < 1e-5
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    expected = reference.conv_norm_act(*given, **options)
    assert error(dx, torch.autograd.grad(expected.square().sum(), x)[0]) < 1e-4


def test_frozen_and_missing_parameters(place):
    """A gradient of the input alone, as D is used in G's step."""
    (x, conv_weight, weight, _), options = arguments("D's layer", torch.float32, place)
    for given in ((conv_weight.detach(), weight.detach(), None), (conv_weight.detach(), None, None)):
        gradients = []
        for function, impl in ((ops.conv_norm_act, {"impl": place.impl}), (reference.conv_norm_act, {})):
            y = function(x, *given, **options, **impl)
            gradients.append(torch.autograd.grad(y.square().sum(), x)[0])
        assert error(*gradients) < 1e-4
    y = ops.conv_norm_act(x.detach(), conv_weight, weight.detach(), None, impl=place.impl, **options)
    expected = reference.conv_norm_act(x.detach(), conv_weight, weight.detach(), None, **options)
    assert error(*(torch.autograd.grad(out.square().sum(), conv_weight)[0] for out in (y, expected))) < 1e-4


@pytest.mark.parametrize("layer", ["D's layer", "G's layer"])
@pytest.mark.parametrize("training", [True, False])
def test_under_autocast(place, layer, training):
    """The convolution runs in bfloat16, the statistics in float32; gradients have the parameters' dtypes."""
    (x, conv_weight, weight, bias), options = arguments(layer, torch.float32, place)
    exact = run(reference.conv_norm_act, x, conv_weight, weight, bias, training=training, **options)
    with torch.autocast(place.device.type, torch.bfloat16):
        actual = run(ops.conv_norm_act, x, conv_weight, weight, bias, training=training, impl=place.impl, **options)
        plain = run(reference.conv_norm_act, x, conv_weight, weight, bias, training=training, **options)
    for a, p, e in zip(actual, plain, exact, strict=True):
        assert a.dtype == p.dtype
        assert error(a, e) <= max(3 * error(p, e), 0.02)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_tensors_without_data(transposed, training):
    """Wide enough for our own convolution, whose filters have a size that only the kernels know."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad():
        x, kept = torch.empty(12, 20, 8, 8), (torch.empty(24), torch.empty(24))
        conv_weight = torch.empty(20, 24, 5, 5) if transposed else torch.empty(24, 20, 5, 5)
        y = ops.conv_norm_act(
            x, conv_weight, None, None, *kept, transposed=transposed, output_padding=int(transposed), training=training
        )
        assert y.shape == ((12, 24, 16, 16) if transposed else (12, 24, 4, 4))


def test_one_value_per_channel_raises(place):
    x, conv_weight = torch.randn(1, 2, 2, 2, device=place.device), torch.randn(3, 2, 5, 5, device=place.device)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        ops.conv_norm_act(x, conv_weight, None, None, impl=place.impl)


def test_empty_batch_does_as_the_reference_does(place):
    x, conv_weight = torch.randn(0, 2, 4, 4, device=place.device), torch.randn(3, 2, 5, 5, device=place.device)
    kept = torch.zeros(3, device=place.device), torch.ones(3, device=place.device)
    y = ops.conv_norm_act(x, conv_weight, None, None, *kept, training=False, impl=place.impl)
    assert y.shape == (0, 3, 2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_padding": 1}, "output_padding is 1; expected 0 unless transposed"),
        ({"conv_weight": torch.randn(3, 7, 5, 5)}, r"x has 2 channels; expected 7, as conv_weight \(3, 7, 5, 5\)"),
        ({"conv_weight": torch.randn(3, 2, 5)}, r"conv_weight \(3, 2, 5\); expected 3 to 5 dimensions, both"),
        ({"weight": torch.ones(2)}, r"weight has shape \(2,\); expected \(3,\)"),
        ({"groups": 3}, "groups is 3; expected a positive divisor of the batch size 2"),
    ],
)
def test_what_does_not_fit_is_refused(place, change, message):
    given = {"conv_weight": torch.randn(3, 2, 5, 5), "weight": None, "bias": None} | change
    given = {k: v.to(place.device) if isinstance(v, Tensor) else v for k, v in given.items()}
    with pytest.raises(ValueError, match=message):
        ops.conv_norm_act(torch.randn(2, 2, 8, 8, device=place.device), **given, impl=place.impl)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "changed",
    [
        {"conv_weight": torch.bfloat16},  # oneDNN would take it, and multiply with something
        {"conv_weight": torch.float64},
        {"x": torch.float64},
        {"conv_bias": torch.float64},
        {"x": (4, 16, 0, 8)},
        {"x": (4, 16, 1, 1), "conv_weight": (16, 16, 2, 2)},  # transposed an empty result, of padding 1
        {"conv_weight": (0, 16, 5, 5), "conv_bias": (0,)},
        {"conv_weight": (16, 16, 20, 20)},
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_odd_arguments_are_taken_or_refused_as_by_the_reference(place, changed, training, transposed):
    given = {"x": torch.randn(4, 16, 8, 8), "conv_weight": torch.randn(16, 16, 5, 5), "conv_bias": torch.randn(16)}
    for name, change in changed.items():
        given[name] = torch.randn(change) if isinstance(change, tuple) else given[name].to(change)
    given = {name: t.to(place.device) for name, t in given.items()}
    channels = given["conv_weight"].shape[1 if transposed else 0]
    padding = min(2, given["conv_weight"].shape[2] - 1)
    found = []
    for function in (functools.partial(ops.conv_norm_act, impl=place.impl), reference.conv_norm_act):
        kept = torch.zeros(channels, device=place.device), torch.ones(channels, device=place.device)
        try:
            y = function(
                weight=None,
                bias=None,
                running_mean=kept[0],
                running_var=kept[1],
                transposed=transposed,
                padding=padding,
                training=training,
                **given,
            )
            found.append([y, *kept])
        except (RuntimeError, ValueError) as refusal:
            found.append(refusal)
    ours, theirs = found
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception), "PyTorch refuses it"
    else:
        for a, e in zip(ours, theirs, strict=True):
            assert error(a, e) < 1e-5
