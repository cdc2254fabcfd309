"""The fused networks and layers equal the reference's: results, gradients, statistics and state."""

from __future__ import annotations

import copy
import functools
import inspect

import pytest
import torch
from oracles import error
from torch import Tensor, nn

import igan_fast
from igan_fast import layers, models, ops, reference
from igan_fast.ops import backend
from igan_fast.reference import layers as reference_layers
from igan_fast.reference import models as reference_models
from igan_fast.reference import ops as reference_ops

SIZES = {"image_size": 32, "attributes": 5, "latent": 6, "width": 16}  # wide enough for our own convolution kernels


def model_pair(dtype: torch.dtype = torch.float32, **sizes) -> tuple[reference.IterativeGAN, igan_fast.IterativeGAN]:
    """The reference's model and the fused one, with the same weights."""
    torch.manual_seed(0)
    theirs = reference.IterativeGAN(**SIZES | sizes).to(dtype)
    ours = igan_fast.IterativeGAN(**SIZES | sizes).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def results_of(model: reference.IterativeGAN, images: Tensor, z: Tensor, c: Tensor) -> list[Tensor]:
    """All outputs of the three networks, the gradients of a weighted sum of them, and all buffers afterwards."""
    images, z, c = (t.clone().requires_grad_() for t in (images, z, c))
    generated = model.generate(z, c)
    scores = model.discriminator(images)
    codes = model.classifier(scores.shared)
    outputs = [generated, scores.source, scores.shared, *scores.features, *codes]
    generator = torch.Generator().manual_seed(1)
    mixture = sum((out * torch.rand(out.shape, generator=generator).to(out)).sum() / out.numel() for out in outputs)
    gradients = torch.autograd.grad(mixture, [images, z, c, *model.parameters()])
    return [*outputs, *gradients, *(b.clone() for b in model.buffers())]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("dtype", "sizes", "allowed"),
    [
        (torch.float64, {}, 1e-10),
        (torch.float64, {"image_size": 48, "signed_labels": True}, 1e-10),
        (torch.float32, {}, 2e-5),
        (torch.float32, {"image_size": 64, "width": 17}, 2e-5),
    ],
)
def test_equals_the_reference(training, dtype, sizes, allowed):
    theirs, ours = model_pair(dtype, **sizes)
    theirs.train(training), ours.train(training)
    for model in (theirs, ours):  # so that the running statistics are not 0 and 1
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name.endswith("running_var"):
                    buffer.fill_(1.3)
    size = (sizes | SIZES | sizes)["image_size"]
    images = torch.rand(6, 3, size, size, dtype=dtype) * 2 - 1
    z, c = torch.rand(6, 6, dtype=dtype) * 2 - 1, torch.rand(6, 5, dtype=dtype)
    for index, (a, e) in enumerate(zip(*(results_of(m, images, z, c) for m in (ours, theirs)), strict=True)):
        assert error(a, e) < allowed, f"result {index}: {error(a, e)}"


def test_transform_and_rebuild_equal_the_reference():
    theirs, ours = model_pair()
    theirs.eval(), ours.eval()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        assert error(ours.rebuild(images), theirs.rebuild(images)) < 1e-5
        changes = {0: 1.0, 3: "flip"}
        assert error(ours.transform(images, changes), theirs.transform(images, changes)) < 1e-5
        beyond = {"strength": 1.5, "companions": reference.Companions(torch.full((5, 5), 0.1) + 0.1 * torch.eye(5))}
        expected = theirs.transform(images, changes, **beyond)
        assert error(ours.transform(images, changes, **beyond), expected) < 1e-5


@pytest.mark.parametrize("name", ["Generator", "Discriminator", "Classifier", "IterativeGAN"])
def test_the_same_names_arguments_and_state(name):
    ours, theirs = getattr(models, name), getattr(reference_models, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert inspect.signature(ours.forward) == inspect.signature(theirs.forward)
    sizes = {k: v for k, v in SIZES.items() if k in inspect.signature(theirs).parameters}
    shapes = [{k: v.shape for k, v in kind(**sizes).state_dict().items()} for kind in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert list(shapes[0]) == list(shapes[1])


def operators_of(module: nn.Module) -> list[object]:
    """The module of operators of each layer that has one."""
    return [part.operators for part in module.modules() if hasattr(part, "operators")]


@pytest.mark.parametrize("name", ["NormAct2d", "ConvNormAct2d", "ConvTransposeNormAct2d"])
def test_layers_equal_the_references(name):
    ours, theirs = getattr(layers, name), getattr(reference_layers, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    arguments = (16,) if name == "NormAct2d" else (16, 20)
    torch.manual_seed(0)
    a, e = ours(*arguments), theirs(*arguments)
    a.load_state_dict(e.state_dict())
    x = torch.randn(4, 16, 8, 8)
    assert error(a(x), e(x)) < 1e-5
    for (key, p), q in zip(a.state_dict().items(), e.state_dict().values(), strict=True):
        assert error(p, q) < 1e-5, key
    assert operators_of(a) == [ops] * (1 if name == "NormAct2d" else 2)


def test_every_layer_of_the_fused_model_runs_on_fused_operators():
    """None was left in plain PyTorch by mistake."""
    theirs, ours = model_pair()
    assert operators_of(ours) == [ops] * 13  # G and D: 3 blocks each, of 2 layers; and G's first norm
    assert operators_of(theirs) == [reference_ops] * 13


def test_features_and_judge_together_equal_the_discriminators_forward():
    _, ours = model_pair()
    ours.eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    whole = ours.discriminator(images)
    features = ours.discriminator.features(images)
    source, shared = ours.discriminator.judge(features[-1])
    assert torch.equal(whole.source, source)
    assert torch.equal(whole.shared, shared)
    assert all(torch.equal(a, b) for a, b in zip(whole.features, features, strict=True))


def test_normalised_apart_equals_one_pass_per_part():
    theirs, ours = model_pair()
    first, second = torch.rand(2, 5, 3, 32, 32) * 2 - 1
    expected = [theirs.discriminator(x).features for x in (first, second)]
    with layers.normalised_apart(ours.discriminator, 2):
        together = ours.discriminator.features(torch.cat([first, second]))
    for h, a, b in zip(together, *expected, strict=True):
        assert error(h, torch.cat([a, b])) < 1e-5
    for (name, p), q in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert error(p, q) < 1e-5, name
    assert {m.groups for m in ours.modules() if isinstance(m, reference_layers.NormAct2d)} == {1}


def test_normalised_apart_ends_after_an_error_too():
    norm = layers.NormAct2d(3)
    with pytest.raises(ValueError, match="divisor"), layers.normalised_apart(norm, 2):
        norm(torch.randn(3, 3, 2, 2))
    assert norm.groups == 1


def test_the_package_exports_the_fused_model():
    assert igan_fast.IterativeGAN is models.IterativeGAN
    assert issubclass(igan_fast.IterativeGAN, nn.Module)


@pytest.fixture
def switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with IGAN_FAST_IMPL=reference."""
    monkeypatch.setattr(backend, "_DEFAULT", "reference")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"image_size": 48, "signed_labels": True}, {"width": 33}])
def test_switched_off_it_equals_the_reference_bit_for_bit(switched_off, training, sizes):
    theirs, ours = model_pair(**sizes)
    theirs.train(training), ours.train(training)
    size = theirs.arguments()["image_size"]
    batch = torch.rand(4, 3, size, size) * 2 - 1, torch.randn(4, 6), torch.rand(4, 5)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = batch[0].contiguous(memory_format=layout), *batch[1:]
        for a, e in zip(*(results_of(model, *given) for model in (ours, theirs)), strict=True):
            assert torch.equal(a, e)
            assert a.stride() == e.stride()


NETWORKS = {
    "generator": lambda n: (torch.randn(n, 6), torch.rand(n, 5)),
    "discriminator": lambda n: (torch.randn(n, 3, 32, 32),),
    "classifier": lambda n: (torch.randn(n, 1024),),
}


def leaves(found) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(found)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("tracer", ["fx", "trace", "export"])
def test_traced_and_exported_networks(name, training, tracer):
    """Called with another batch size; the running statistics are updated as in the reference."""
    theirs, ours = (getattr(model.train(training), name) for model in model_pair())
    example, given = NETWORKS[name](4), NETWORKS[name](6)
    if tracer == "fx":
        traced = torch.fx.symbolic_trace(ours)
    elif tracer == "trace":
        traced = torch.jit.trace(copy.deepcopy(ours), example, check_trace=False)
    else:
        batch = torch.export.Dim("batch", min=2)
        traced = torch.export.export(ours, example, dynamic_shapes=[{0: batch}] * len(example)).module()
    if tracer != "fx":  # tracing ran the network on the example
        ours.load_state_dict(theirs.state_dict())
    for a, e in zip(leaves(traced(*given)), leaves(theirs(*given)), strict=True):
        assert error(a, e) < 1e-5
    if tracer == "fx":
        for a, e in zip(traced.buffers(), theirs.buffers(), strict=True):
            assert error(a, e) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_functional_call_under_transforms(name):
    theirs, ours = (getattr(model, name) for model in model_pair())
    given = NETWORKS[name](4)

    def loss(network, parameters, buffers):
        outputs = torch.func.functional_call(network, (parameters, buffers), given)
        return sum(out.square().mean() for out in leaves(outputs))

    found = [
        torch.func.grad(functools.partial(loss, network))(
            dict(network.named_parameters()), dict(network.named_buffers())
        )
        for network in (ours, theirs)
    ]
    for key in found[1]:
        assert error(found[0][key], found[1][key]) < 1e-5
    per_image = [torch.vmap(lambda *t, n=n: leaves(n.eval()(*(x[None] for x in t)))[0])(*given) for n in (ours, theirs)]
    assert error(*per_image) < 1e-5


@pytest.mark.parametrize(
    "make", [lambda m: m, lambda m: m.generator, lambda m: m.discriminator, lambda m: m.classifier]
)
def test_torch_jit_script_raises_an_error_of_one_line(make):
    network = make(model_pair()[1])
    with pytest.raises(RuntimeError, match=r"^torch.jit.script cannot compile igan_fast's \w+; use torch.jit.trace or"):
        torch.jit.script(nn.Sequential(network))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: nn.utils.spectral_norm(m.discriminator.down1),
        lambda m: nn.utils.spectral_norm(m.discriminator.down2.conv),
        lambda m: nn.utils.spectral_norm(m.generator.to_rgb, dim=1),
        lambda m: nn.utils.parametrizations.spectral_norm(m.discriminator.down1),
        lambda m: nn.utils.parametrizations.weight_norm(m.generator.up1.conv),
        lambda m: nn.utils.weight_norm(m.generator.to_rgb),
        lambda m: m.discriminator.down1.register_forward_hook(lambda module, args, out: out * 2),
        lambda m: m.generator.up2.norm.register_forward_hook(lambda module, args, out: out * 2),
        lambda m: setattr(m.discriminator, "down1", nn.Conv2d(3, 16, 6, 2, 2)),
        lambda m: setattr(m.discriminator, "down1", nn.Conv2d(3, 16, 5, 2, 2, padding_mode="reflect")),
        lambda m: setattr(m.generator, "to_rgb", nn.ConvTranspose2d(16, 3, 4, 2, 1)),
        lambda m: setattr(m.generator, "to_rgb", nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(16, 3, 3, 1, 1))),
        lambda m: setattr(m.discriminator.down1, "forward", lambda x: x[:, :1, ::2, ::2].expand(-1, 16, -1, -1)),
        lambda m: setattr(m.generator, "norm", nn.Sequential(nn.BatchNorm2d(128), nn.ReLU())),
        lambda m: setattr(m.generator, "up3", nn.Sequential(nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU())),
        lambda m: setattr(m.generator.up2.norm, "forward", lambda x: x * 2),
    ],
)
def test_a_layer_with_hooks_or_replaced_by_another(change):
    """Hooks are called (the older spectral_norm and weight_norm are hooks), and a replacement is used."""
    models = model_pair()
    for model in models:
        torch.manual_seed(1)
        change(model)
    found = []
    for model in models:
        torch.manual_seed(2)
        parameters = dict(model.named_parameters())
        outputs = [model.generator(torch.randn(4, 6), torch.rand(4, 5)), model.discriminator(torch.randn(4, 3, 32, 32))]
        total = sum(out.square().mean() for out in leaves(outputs))
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        found.append(dict(zip(parameters, gradients, strict=True)) | dict(model.named_buffers()) | {"total": total})
    for key, expected in found[1].items():
        assert (found[0][key] is None) == (expected is None), key
        assert expected is None or error(found[0][key], expected) < 1e-4, key
