"""Gradient penalties of GANs (WGAN-GP and R1): second derivatives of networks, layers and losses, and third ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles import error, in_float64
from torch import Tensor, nn

import igan_fast
from igan_fast import layers, losses, ops, reference
from igan_fast.ops.conv_act import conv_act
from igan_fast.reference import layers as reference_layers
from igan_fast.reference import losses as reference_losses
from igan_fast.reference import ops as reference_ops

Critic = Callable[[Tensor], Tensor]


def wgan_gp(critic: Critic, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """(‖∇D(x̂)‖ − 1)² for x̂ between real and fake images (Gulrajani et al. 2017), and the gradient ∇D(x̂)."""
    share = torch.linspace(0, 1, len(real), dtype=real.dtype).view(-1, 1, 1, 1)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean(), gradient


def r1(critic: Critic, real: Tensor, _fake: Tensor) -> tuple[Tensor, Tensor]:
    """‖∇D(x)‖² for real images x (Mescheder et al. 2018), and the gradient ∇D(x)."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean(), gradient


PENALTIES = pytest.mark.parametrize("penalty", [wgan_gp, r1])


def discriminators(dtype: torch.dtype, *, width: int = 16) -> tuple[nn.Module, nn.Module]:
    """The fused discriminator and the reference's, with the same weights: larger than DCGAN's initial ones, so that the
    penalty is not near 0."""
    torch.manual_seed(0)
    theirs = reference.Discriminator(32, width).to(dtype)
    for parameter in theirs.parameters():
        parameter.data.mul_(3)
    ours = igan_fast.models.Discriminator(32, width).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def images(dtype: torch.dtype, batch: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    real, fake = torch.rand(2, batch, 3, 32, 32, generator=generator, dtype=torch.float64) * 2 - 1
    return real.to(dtype), fake.to(dtype)


def learn(discriminator: nn.Module, penalty, dtype: torch.dtype) -> list[Tensor]:
    """The penalty, its input gradient, and the gradients that D gets from one backward pass of penalty and loss."""
    real, fake = images(dtype)
    value, gradient = penalty(lambda x: discriminator(x).source, real, fake)
    (value * 10 + discriminator(fake).source.mean()).backward()
    learnt = [p.grad for p in discriminator.parameters() if p.grad is not None]
    return [value, gradient, *learnt, *(b for b in discriminator.buffers() if b.is_floating_point())]


@PENALTIES
@pytest.mark.parametrize("training", [True, False])
def test_the_discriminators_gradients_equal_the_references(penalty, training):
    found = [
        learn(discriminator.train(training), penalty, torch.float64) for discriminator in discriminators(torch.float64)
    ]
    assert len(found[0]) == len(found[1]) == 2 + 13 + 6  # 13 of 15 parameters: the shared layer is not used
    for index, (a, e) in enumerate(zip(*found, strict=True)):
        assert error(a, e) < 1e-9, index


@PENALTIES
def test_in_float32(penalty):
    """On a CPU our own convolution kernels run in float32."""
    ours, _ = discriminators(torch.float32)
    _, exact = discriminators(torch.float64)
    found = learn(ours, penalty, torch.float32), learn(exact, penalty, torch.float64)
    for index, (a, e) in enumerate(zip(*found, strict=True)):
        assert error(a, e) < 2e-5, index


@PENALTIES
def test_with_some_parameters_that_do_not_require_grad(penalty):
    """The first layer, one normalisation and the head do not require gradients; the others' gradients are equal."""
    found = []
    for discriminator in discriminators(torch.float64):
        for part in (discriminator.down1, discriminator.source, discriminator.down2.norm):
            part.requires_grad_(False)
        found.append(learn(discriminator, penalty, torch.float64))
    assert len(found[0]) == len(found[1]) == 2 + 13 - 6 + 6
    for index, (a, e) in enumerate(zip(*found, strict=True)):
        assert error(a, e) < 1e-9, index


def of_images(discriminator: nn.Module, penalty) -> list[Tensor]:
    """The penalty's gradient with respect to the images, with a D whose parameters do not require gradients."""
    x = images(torch.float64)[1].requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator.requires_grad_(False)(x).source.sum(), x, create_graph=True)
    return [gradient, *torch.autograd.grad(gradient.flatten(1).norm(dim=1).square().mean(), x)]


def test_a_frozen_discriminator_in_eval_mode():
    """D is then piecewise linear, and its input gradient piecewise constant: the penalty's gradient is 0."""
    found = [of_images(discriminator.eval(), r1) for discriminator in discriminators(torch.float64)]
    assert error(found[0][0], found[1][0]) < 1e-9
    assert not found[0][1].any()
    assert not found[1][1].any()


def test_a_frozen_discriminator_in_training():
    found = [of_images(discriminator, r1) for discriminator in discriminators(torch.float64)]
    assert found[1][1].any()
    for a, e in zip(*found, strict=True):
        assert error(a, e) < 1e-9


def penalised(function: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    """The gradient g of ``function`` with respect to the first tensor, and the gradients of a penalty of ‖g‖."""
    (gradient,) = torch.autograd.grad(function(*tensors), tensors[0], create_graph=True)
    inputs = [t for t in tensors if t.requires_grad]
    return [gradient, *torch.autograd.grad((gradient.flatten(1).norm(dim=1) - 1).square().mean(), inputs)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["norm", "instance", "groups", "conv", "transposed"])
def test_layers(kind, training, dtype):
    def made(impl, dtype) -> nn.Module:
        torch.manual_seed(0)
        layer = {
            "norm": lambda: impl.NormAct2d(20),
            "instance": lambda: impl.NormAct2d(20, groups="instance"),
            "groups": lambda: impl.NormAct2d(20, groups=2),
            "conv": lambda: impl.ConvNormAct2d(20, 24),
            "transposed": lambda: impl.ConvTransposeNormAct2d(20, 24, negative_slope=0.2),
        }[kind]()
        return layer.to(dtype).train(training)

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 20, 8, 8, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    ours, theirs = made(layers, dtype), made(reference_layers, torch.float64)

    def of(layer: nn.Module, x: Tensor) -> list[Tensor]:
        # Cubes, because the sum of the squares of normalised values is almost constant.
        return penalised(lambda x, *_: layer(x).pow(3).sum() / 100, x, *layer.parameters())

    for index, (a, e) in enumerate(zip(of(ours, x), of(theirs, x.detach().double().requires_grad_()), strict=True)):
        assert error(a, e) < (1e-9 if dtype == torch.float64 else 1e-4), index


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_feature_matching(dtype):
    """The loss has a gradient of constant size: the penalty's gradient comes from the network before it."""
    generator = torch.Generator().manual_seed(1)
    x, real, weight = (torch.randn(3, 4, 5, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))
    x, weight = x.requires_grad_(), weight.requires_grad_()

    def loss(impl, x: Tensor, weight: Tensor) -> Tensor:
        maps = [[(x * weight).tanh(), x.square()], [weight * x.pow(3), x]]
        return impl.FeatureMatchingLoss.spade()(maps, [[real.to(x.dtype)] * 2] * 2)

    found = penalised(lambda *t: loss(losses, *t), x, weight)
    exact = in_float64(lambda *t: penalised(lambda *u: loss(reference_losses, *u), *t), x, weight)
    for a, e in zip(found, exact, strict=True):
        assert error(a, e) < (1e-9 if dtype == torch.float64 else 1e-5)


def test_a_compiled_discriminator_raises():
    """torch.compile does not support second derivatives: an error, and no wrong result."""
    torch._dynamo.reset()
    ours, _ = discriminators(torch.float32)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        learn(compiled, r1, torch.float32)


def convolved(o: object, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """``conv_act``, or the same in PyTorch where ``o`` is the reference, which has no ``conv_act``."""
    return conv_act(x, w, b, **CONV) if o is ops else F.leaky_relu(F.conv2d(x, w, b, **CONV), 0.2)


CONV = {"stride": 1, "padding": 1}
RUNNING = {"running_mean": torch.full((5,), 0.2).double(), "running_var": torch.full((5,), 1.3).double()}


def film_of(x: Tensor, s: Tensor) -> Tensor:
    means = x.mean((2, 3))
    return torch.cat([means * s, means.sin()], 1)


#: Functions of the operators ``o`` of either implementation, a batch x, convolution weights w, a scale s and a bias b.
OPERATORS: dict[str, Callable[..., Tensor]] = {
    "norm_act": lambda o, x, w, s, b: o.norm_act(x, s, b),
    "norm_act, two groups": lambda o, x, w, s, b: o.norm_act(x, s, None, groups=2),
    "norm_act, eval": lambda o, x, w, s, b: o.norm_act(x, s, b, **RUNNING, training=False),
    "norm_act, film": lambda o, x, w, s, b: o.norm_act(x, s, b, groups=2, film=film_of(x, s)),
    "norm_act, film, eval": lambda o, x, w, s, b: o.norm_act(
        x, s, b, **RUNNING, training=False, negative_slope=0.0, film=film_of(x, s)
    ),
    "conv_norm_act": lambda o, x, w, s, b: o.conv_norm_act(x, w, s, b, **CONV),
    "conv_norm_act, film": lambda o, x, w, s, b: o.conv_norm_act(x, w, s, b, film=film_of(x, s), **CONV),
    "conv_norm_act, transposed": lambda o, x, w, s, b: o.conv_norm_act(x, w, s, b, transposed=True, **CONV),
    "conv_norm_act, transposed, to few channels": lambda o, x, w, s, b: o.conv_norm_act(
        x, w[:, :3], s[:3], b[:3], transposed=True, **CONV
    ),
    "conv_norm_act, eval": lambda o, x, w, s, b: o.conv_norm_act(x, w, s, b, **RUNNING, training=False, **CONV),
    "conv_act": lambda o, x, w, s, b: convolved(o, x, w, b),
    "conv_act, of few channels": lambda o, x, w, s, b: convolved(o, x[:, :3], w[:, :3], b),
    "feature_l1": lambda o, x, w, s, b: o.feature_l1([x.pow(3), w.exp()], [x.sin(), w]),
}


def elementary_batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps):
    """``F.batch_norm`` in elementary functions, without the update of the running statistics."""
    if training:
        mean = x.mean((0, 2, 3), keepdim=True)
        var = (x - mean).square().mean((0, 2, 3), keepdim=True)
    else:
        mean, var = running_mean.view(-1, 1, 1), running_var.view(-1, 1, 1)
    normalised = (x - mean) * (var + eps).rsqrt()
    scale, shift = (x.new_tensor(v) if t is None else t.view(-1, 1, 1) for t, v in ((weight, 1.0), (bias, 0.0)))
    return normalised * scale + shift


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize("frozen", [(), (1,), (1, 2, 3)])
@pytest.mark.parametrize("operator", OPERATORS)
def test_three_derivatives(operator, frozen, monkeypatch):
    """Each time the gradient of the sum of the cubes of the last gradients; the third time without a graph.

    For the reference batch norm is computed in elementary functions: in its third derivative PyTorch's own treats the
    statistics as constants.
    """
    torch.manual_seed(0)
    shapes = ((4, 5, 3, 3), (5, 5, 3, 3), (5,), (5,))
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=k not in frozen) for k, shape in enumerate(shapes)]
    inputs = [t for t in given if t.requires_grad]

    def derivatives(of: object) -> list[Tensor]:
        found: list[Tensor] = []
        value = OPERATORS[operator](of, *given).pow(3).sum()
        for graph in (True, True, False):
            gradients = torch.autograd.grad(value, inputs, create_graph=graph, materialize_grads=True)
            found += gradients
            value = sum((g / 10).pow(3).sum() for g in gradients)
        return found

    monkeypatch.setattr(F, "batch_norm", elementary_batch_norm)
    expected = derivatives(reference_ops)
    monkeypatch.undo()
    assert expected[-len(inputs)].any()
    for index, (a, e) in enumerate(zip(derivatives(ops), expected, strict=True)):
        assert error(a, e) < 1e-8, index
