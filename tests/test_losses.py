"""The fused losses against the reference's, and the integrated loss against the sum of its three terms."""

from __future__ import annotations

import inspect

import pytest
import torch
from oracles import HALF, error
from torch import Tensor

from igan_fast import losses, ops
from igan_fast.reference import losses as reference

IMPLS = pytest.mark.parametrize("impl", [losses, reference], ids=["fused", "reference"])


def test_names_and_arguments_are_the_references():
    assert losses.__all__ == reference.__all__
    for name in losses.__all__:
        assert inspect.signature(getattr(losses, name)) == inspect.signature(getattr(reference, name)), name


@pytest.mark.parametrize("weights", [None, [0.5, 2.0]])
def test_perceptual_loss(weights):
    fakes = [torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    reals = [torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = []
    for module in (losses, reference):
        loss = module.perceptual_loss(fakes, reals, weights)
        found.append([loss, *torch.autograd.grad(loss, fakes, retain_graph=True)])
        assert torch.autograd.grad(loss, reals, allow_unused=True) == (None, None)
    for a, e in zip(*found, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pixel_loss(dtype):
    fake = torch.randn(2, 3, 4, 4).to(dtype).requires_grad_()
    real = torch.randn(2, 3, 4, 4).to(dtype)
    (a, e) = (module.pixel_loss(fake, real) for module in (losses, reference))
    assert a.dtype == e.dtype
    torch.testing.assert_close(a, e)
    torch.testing.assert_close(*(torch.autograd.grad(loss, fake)[0] for loss in (a, e)))


def rebuild(dtype: torch.dtype = torch.float64) -> list[list[Tensor] | Tensor]:
    """Arguments of the integrated loss, all of them leaf tensors."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    features = [[leaf(2, 3, 4, 4), leaf(2, 5, 2, 3), leaf(2, 7, 1, 1)] for _ in range(2)]
    return [*features, leaf(2, 3, 8, 8), leaf(2, 3, 8, 8), leaf(2, 6), leaf(2, 6)]


def leaves_of(arguments: list[list[Tensor] | Tensor]) -> list[Tensor]:
    return [t for argument in arguments for t in (argument if isinstance(argument, list) else [argument])]


@IMPLS
@pytest.mark.parametrize(("lambdas", "layer_weights"), [(None, None), ((5, 2.0, 20), [1.0, 0.5, 0])])
def test_integrated_loss_is_the_sum_of_its_terms(impl, lambdas, layer_weights):
    arguments = rebuild()
    fake, real, image, real_image, code, noise = arguments
    loss = impl.IntegratedLoss(layer_weights=layer_weights, **({} if lambdas is None else {"lambdas": lambdas}))
    expected = reference.integrated_loss(
        reference.perceptual_loss(fake, real, layer_weights),
        reference.pixel_loss(image, real_image),
        reference.latent_loss(code, noise),
        lambdas or (2.0, 0.5, 1.0),
    )
    terms = loss.terms(*arguments)
    assert type(terms) is losses.IntegratedTerms
    for found in (loss(*arguments), impl.integrated_loss(*terms, loss.lambdas)):
        assert error(found, expected) < 1e-12
        gradients = (
            torch.autograd.grad(value, leaves_of(arguments), allow_unused=True, retain_graph=True)
            for value in (found, expected)
        )
        for index, (a, e) in enumerate(zip(*gradients, strict=True)):
            assert (a is None) == (e is None) == (3 <= index < 6), "the real features alone are a target"
            assert a is None or error(a, e) < 1e-12


def test_the_integrated_loss_calls_its_operator_once(monkeypatch):
    calls = []

    class Counting:
        @staticmethod
        def feature_l1(*arguments):
            calls.append(len(arguments[0]))
            return ops.feature_l1(*arguments)

    monkeypatch.setattr(losses.IntegratedLoss, "operators", Counting)
    losses.IntegratedLoss()(*rebuild())
    assert calls == [3 + 1 + 1]


def test_nested_features_of_the_integrated_loss():
    fake, real, *rest = rebuild()
    nested = [[fake[0], tuple(fake[1:])], [real[0], tuple(real[1:])]]
    loss = losses.IntegratedLoss(layer_weights=[1, 2, 3])
    assert torch.equal(loss(*nested, *rest), loss(fake, real, *rest))
    assert torch.equal(loss.terms(*nested, *rest).perceptual, loss.terms(fake, real, *rest).perceptual)


@pytest.mark.parametrize("dtype", HALF)
def test_integrated_loss_of_half_types(dtype):
    arguments = rebuild(dtype)
    wide = [[t.double() for t in a] if isinstance(a, list) else a.double() for a in arguments]
    with torch.autocast("cpu", torch.bfloat16):
        found = losses.IntegratedLoss()(*arguments)
    assert found.dtype == torch.float32
    assert error(found, reference.IntegratedLoss()(*wide)) < 1e-6


def test_integrated_loss_compiles_without_a_graph_break():
    torch._dynamo.reset()
    loss, arguments = losses.IntegratedLoss(), rebuild(torch.float32)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, expected = compiled(*arguments), loss(*arguments)
    assert error(found, expected) < 1e-6
    inputs = [*arguments[0], arguments[2], arguments[4]]
    for a, e in zip(*(torch.autograd.grad(value, inputs) for value in (found, expected)), strict=True):
        assert error(a, e) < 1e-6


@IMPLS
@pytest.mark.parametrize(
    ("options", "change", "kind", "message"),
    [
        ({"lambdas": (1, 2)}, {}, ValueError, "lambdas has 2 numbers for 3 terms"),
        ({"lambdas": (1, 2, "3")}, {}, TypeError, r"lambdas\[2\] is a str; expected a number"),
        ({"layer_weights": [float("nan")]}, {}, ValueError, r"layer_weights\[0\] is nan"),
        ({"layer_weights": [1, 2]}, {}, ValueError, "layer_weights has 2 numbers for 3 feature maps"),
        ({}, {0: [], 1: []}, ValueError, "fake_features is empty"),
        ({}, {1: []}, ValueError, "fake_features has 3 entries, its real counterpart 0"),
        ({}, {3: torch.ones(1)}, ValueError, r"fake_images has shape \(2, 3, 8, 8\), its real counterpart \(1,\)"),
        ({}, {4: None}, TypeError, "predicted_noise is a NoneType; expected a tensor"),
        ({}, {5: [1.0]}, TypeError, "predicted_noise's real counterpart is a list; expected a tensor"),
    ],
)
def test_integrated_loss_raises(impl, options, change, kind, message):
    arguments = [change.get(index, argument) for index, argument in enumerate(rebuild())]
    with pytest.raises(kind, match=message):
        impl.IntegratedLoss(**options)(*arguments)
