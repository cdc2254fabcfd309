"""The fast wing's networks and layers: equal to the reference's, in results, gradients, statistics and state."""

from __future__ import annotations

import inspect

import pytest
import torch
from oracles import error
from torch import Tensor, nn

import igan_fast
from igan_fast import layers, models, ops, reference
from igan_fast.reference import layers as reference_layers
from igan_fast.reference import models as reference_models
from igan_fast.reference import ops as reference_ops

SIZES = {"image_size": 32, "attributes": 5, "latent": 6, "width": 16}  # wide enough for our own convolution kernels


def twins(dtype: torch.dtype = torch.float32, **sizes) -> tuple[reference.IterativeGAN, igan_fast.IterativeGAN]:
    """A model of each wing, of the same weights."""
    torch.manual_seed(0)
    theirs = reference.IterativeGAN(**SIZES | sizes).to(dtype)
    ours = igan_fast.IterativeGAN(**SIZES | sizes).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def results_of(model: reference.IterativeGAN, images: Tensor, z: Tensor, c: Tensor) -> list[Tensor]:
    """Everything that the networks give, the gradients of a mixture of it, and the buffers afterwards."""
    images, z, c = (t.clone().requires_grad_() for t in (images, z, c))
    drawn = model.generate(z, c)
    judged = model.discriminator(images)
    codes = model.classifier(judged.shared)
    outputs = [drawn, judged.source, judged.shared, *judged.features, *codes]
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
    theirs, ours = twins(dtype, **sizes)
    theirs.train(training), ours.train(training)
    for model in (theirs, ours):  # statistics that are no longer 0 and 1
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
    theirs, ours = twins()
    theirs.eval(), ours.eval()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        assert error(ours.rebuild(images), theirs.rebuild(images)) < 1e-5
        changes = {0: 1.0, 3: "flip"}
        assert error(ours.transform(images, changes), theirs.transform(images, changes)) < 1e-5


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
    """What each layer that has its operators from one of the wings runs on."""
    return [part.operators for part in module.modules() if hasattr(part, "operators")]


@pytest.mark.parametrize("name", ["NormAct2d", "ConvNormAct2d", "ConvTransposeNormAct2d"])
def test_layers_are_twins(name):
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


def test_every_layer_of_the_fast_wing_is_fused():
    """None is left in plain PyTorch by an oversight."""
    theirs, ours = twins()
    assert operators_of(ours) == [ops] * 13  # three blocks of two each in G and in D, and G's first normalisation
    assert operators_of(theirs) == [reference_ops] * 13


def test_both_halves_of_the_discriminator_are_the_whole():
    _, ours = twins()
    ours.eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    whole = ours.discriminator(images)
    features = ours.discriminator.features(images)
    source, shared = ours.discriminator.judge(features[-1])
    assert torch.equal(whole.source, source)
    assert torch.equal(whole.shared, shared)
    assert all(torch.equal(a, b) for a, b in zip(whole.features, features, strict=True))


def test_normalised_apart_is_one_pass_each():
    theirs, ours = twins()
    first, second = torch.rand(2, 5, 3, 32, 32) * 2 - 1
    expected = [theirs.discriminator(x).features for x in (first, second)]
    with layers.normalised_apart(ours.discriminator, 2):
        together = ours.discriminator.features(torch.cat([first, second]))
    for h, a, b in zip(together, *expected, strict=True):
        assert error(h, torch.cat([a, b])) < 1e-5
    for (name, p), q in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert error(p, q) < 1e-5, name
    assert {m.groups for m in ours.modules() if isinstance(m, reference_layers.NormAct2d)} == {1}


def test_normalised_apart_ends_with_the_block_also_on_an_error():
    norm = layers.NormAct2d(3)
    with pytest.raises(ValueError, match="divisor"), layers.normalised_apart(norm, 2):
        norm(torch.randn(3, 3, 2, 2))
    assert norm.groups == 1


def test_it_is_what_the_package_exports():
    assert igan_fast.IterativeGAN is models.IterativeGAN
    assert issubclass(igan_fast.IterativeGAN, nn.Module)
