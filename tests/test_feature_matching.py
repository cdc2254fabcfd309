"""Feature matching against the formulas of pix2pixHD, SPADE and HiFi-GAN, written again in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles import HALF, error
from torch import Tensor

from igan_fast import losses, ops
from igan_fast.reference import losses as reference

IMPLS = pytest.mark.parametrize("loss_class", [losses.FeatureMatchingLoss, reference.FeatureMatchingLoss])


def maps(*counts: int, dtype=torch.float64, seed: int = 0) -> list[list[Tensor]]:
    """A list of feature maps for each discriminator: all of different shapes, 1-D and 2-D."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (2, 3, 4 + d, 5 + layer) if (d + layer) % 2 else (2, 3, 7 + layer) for d in range(9) for layer in range(9)
    ]
    return [
        [
            torch.randn(shapes[9 * d + layer], generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
            for layer in range(count)
        ]
        for d, count in enumerate(counts)
    ]


def pix2pixhd(fake, real, weight):
    """Each of the first n_layers_D + 1 feature maps (of n_layers_D + 2) has the weight 4 / (n_layers_D + 1) / num_D."""
    n_layers = len(fake[0]) - 2
    total = 0.0
    for fakes, reals in zip(fake, real, strict=True):
        for f, r in zip(fakes[:-1], reals[:-1], strict=True):
            total = total + (1 / len(fake)) * (4 / (n_layers + 1)) * F.l1_loss(f, r.detach()) * weight
    return total


def spade(fake, real, weight):
    total = 0.0
    for fakes, reals in zip(fake, real, strict=True):
        for f, r in zip(fakes[:-1], reals[:-1], strict=True):
            total = total + F.l1_loss(f, r.detach()) * weight / len(fake)
    return total


def hifigan(fake, real, weight):
    total = 0.0
    for fakes, reals in zip(fake, real, strict=True):
        for f, r in zip(fakes, reals, strict=True):
            total = total + (r.detach() - f).abs().mean()
    return total * weight


ORIGINALS = [(pix2pixhd, 10.0, (5, 5)), (pix2pixhd, 10.0, (6, 6, 6)), (spade, 10.0, (5, 5)), (hifigan, 2.0, (6,) * 5)]


@IMPLS
@pytest.mark.parametrize(("original", "default", "counts"), ORIGINALS)
@pytest.mark.parametrize("weight", [None, 3.5])
def test_the_losses_of_the_original_projects(loss_class, original, default, counts, weight):
    fake, real = maps(*counts), maps(*counts, seed=1)
    make = getattr(loss_class, original.__name__)
    loss = make() if weight is None else make(weight)
    assert type(loss) is loss_class
    found, expected = loss(fake, real), original(fake, real, default if weight is None else weight)
    assert error(found, expected) < 1e-12
    leaves = [f for fakes in fake for f in fakes]
    gradients = (torch.autograd.grad(value, leaves, allow_unused=True) for value in (found, expected))
    for a, e in zip(*gradients, strict=True):
        assert (a is None) == (e is None)  # without the last feature map
        assert a is None or error(a, e) < 1e-12


@IMPLS
@pytest.mark.parametrize(
    ("reduction", "expected"), [("sum", 1 + 2 + 3 + 4 + 5), ("discriminator_mean", 15 / 2), ("mean", (1.5 + 4) / 2)]
)
def test_reductions_by_hand(loss_class, reduction, expected):
    """One discriminator has two feature maps, the other three."""
    fake = [[torch.full((2,), value) for value in values] for values in ((1.0, 2.0), (3.0, 4.0, 5.0))]
    real = [[torch.zeros(2) for _ in values] for values in fake]
    assert loss_class(2.0, reduction)(fake, real).item() == pytest.approx(2 * expected)
    flat = [f for fakes in fake for f in fakes]
    of_one = {"sum": 15, "discriminator_mean": 15, "mean": 3}[reduction]
    assert loss_class(2.0, reduction)(flat, [r for reals in real for r in reals]).item() == pytest.approx(2 * of_one)


@IMPLS
@pytest.mark.parametrize("reduction", ["sum", "discriminator_mean", "mean"])
def test_weights(loss_class, reduction):
    fake, real = maps(4, 4, 4), maps(4, 4, 4, seed=1)
    of_layers, of_discriminators = [1.0, 0.5, 2.0], (0.25, 1, 0.0)
    loss = loss_class(3.0, reduction, layer_weights=of_layers, discriminator_weights=of_discriminators, drop_last=True)
    distances = torch.stack(
        [
            torch.stack([F.l1_loss(f, r) for f, r in zip(*sides, strict=True)][:3])
            for sides in zip(fake, real, strict=True)
        ]
    )
    weighted = (
        distances * torch.tensor(of_layers, dtype=torch.float64) * torch.tensor(of_discriminators).double()[:, None]
    )
    expected = {"sum": weighted.sum(), "discriminator_mean": weighted.sum() / 3, "mean": weighted.mean()}[reduction]
    assert error(loss(fake, real), 3 * expected) < 1e-12


@IMPLS
def test_groups_of_discriminators(loss_class):
    """HiFi-GAN's multi-period and multi-scale discriminators together: each innermost sequence is one discriminator."""
    fake, real = maps(3, 3, 3), maps(3, 3, 3, seed=1)

    def nested(side):
        return (tuple(side[:2]), [side[2]])

    for reduction in ("sum", "discriminator_mean", "mean"):
        loss = loss_class(1.0, reduction, drop_last=True)
        assert torch.equal(loss(nested(fake), nested(real)), loss(fake, real))


@IMPLS
@pytest.mark.parametrize("detach_real", [True, False])
def test_the_real_feature_maps_are_detached(loss_class, detach_real):
    fake, real = maps(2, 2), maps(2, 2, seed=1)
    loss = loss_class(detach_real=detach_real)(fake, real)
    gradients = torch.autograd.grad(loss, [real[0][0], fake[0][0]], allow_unused=True)
    assert (gradients[0] is None) == detach_real
    assert gradients[0] is None or torch.equal(gradients[0], -gradients[1])


def test_the_operator_is_called_once_however_deep_the_nesting(monkeypatch):
    calls = []

    class Counting:
        @staticmethod
        def feature_l1(*arguments):
            calls.append(len(arguments[0]))
            return ops.feature_l1(*arguments)

    monkeypatch.setattr(losses.FeatureMatchingLoss, "operators", Counting)
    losses.FeatureMatchingLoss.spade()([maps(3, 4), maps(5)], [maps(3, 4, seed=1), maps(5, seed=1)])
    assert calls == [2 + 3 + 4]


@pytest.mark.parametrize("dtype", HALF)
def test_half_types(dtype):
    fake, real = maps(3, 3, dtype=dtype), maps(3, 3, dtype=dtype, seed=1)
    found = losses.FeatureMatchingLoss.hifigan()(fake, real)
    assert found.dtype == torch.float32
    wide = [[[t.detach().double() for t in ts] for ts in side] for side in (fake, real)]
    assert error(found, hifigan(*wide, 2.0)) < 1e-6  # sums are in float32, not in the half type
    (gradient,) = torch.autograd.grad(found, fake[0][0])
    assert gradient.dtype == dtype


def test_autocast_changes_nothing():
    fake, real = maps(2, dtype=torch.float32), maps(2, dtype=torch.float32, seed=1)
    loss = losses.FeatureMatchingLoss()
    expected = loss(fake, real)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(fake, real)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic):
    torch._dynamo.reset()
    loss = losses.FeatureMatchingLoss.pix2pixhd()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    fake, real = maps(3, 3, dtype=torch.float32), maps(3, 3, dtype=torch.float32, seed=1)
    found, expected = compiled(fake, real), loss(fake, real)
    assert error(found, expected) < 1e-6
    for a, e in zip(*(torch.autograd.grad(value, fake[0][:2]) for value in (found, expected)), strict=True):
        assert error(a, e) < 1e-6


@IMPLS
def test_first_and_second_derivatives(loss_class):
    real = maps(2, 2, seed=1)
    loss = loss_class.spade()

    def squared(*leaves: Tensor) -> Tensor:
        return loss([[leaves[0] * leaves[1], leaves[0]], [leaves[1], leaves[1]]], sides).square()

    leaves = [real[0][0].detach().clone().requires_grad_(), torch.ones_like(real[0][0]).requires_grad_()]
    sides = [[real[0][0].detach() + 1] * 2] * 2
    assert torch.autograd.gradcheck(squared, leaves)
    assert torch.autograd.gradgradcheck(squared, leaves)


@IMPLS
@pytest.mark.parametrize(
    ("fake", "real", "options", "kind", "message"),
    [
        (torch.ones(1), [torch.ones(1)], {}, TypeError, "fake is a tensor; expected a sequence"),
        ([torch.ones(1)], torch.ones(1), {}, TypeError, "real is a tensor; expected a sequence"),
        ([], [], {}, ValueError, "fake is empty; expected feature maps"),
        ([[torch.ones(1)], []], [[torch.ones(1)], []], {}, ValueError, r"fake\[1\] is empty"),
        ([[torch.ones(1)]], [[torch.ones(1)]] * 2, {}, ValueError, "fake has 1 entries, its real counterpart 2"),
        ([torch.ones(2)], [torch.ones(1)], {}, ValueError, r"fake\[0\] has shape \(2,\), its real counterpart \(1,\)"),
        ([[torch.ones(1)]], [torch.ones(1)], {}, ValueError, r"fake\[0\] is a tensor on one side and a sequence"),
        ([[None]], [[None]], {}, TypeError, r"fake\[0\]\[0\] is a NoneType; expected a tensor"),
        (
            [torch.ones(1), [torch.ones(1)]],
            [torch.ones(1), [torch.ones(1)]],
            {},
            TypeError,
            r"fake\[0\] is a tensor among",
        ),
        (
            [torch.ones(1)],
            [torch.ones(1)],
            {"drop_last": True},
            ValueError,
            "fake has one feature map, which drop_last",
        ),
        ([torch.ones(1)], [torch.ones(1)], {"layer_weights": [1, 2]}, ValueError, "layer_weights has 2 numbers for 1"),
        ([torch.ones(1)], [torch.ones(1)], {"layer_weights": []}, ValueError, "layer_weights has 0 numbers for 1"),
        (
            [[torch.ones(1)]],
            [[torch.ones(1)]],
            {"discriminator_weights": (1, 2)},
            ValueError,
            "discriminator_weights has 2 numbers for 1 discriminators",
        ),
    ],
)
def test_raises(loss_class, fake, real, options, kind, message):
    with pytest.raises(kind, match=message):
        loss_class(**options)(fake, real)


@IMPLS
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"reduction": "max"}, ValueError, "reduction is 'max'; expected one of sum, discriminator_mean, mean"),
        ({"weight": "1"}, TypeError, "weight is a str; expected a number"),
        ({"weight": float("nan")}, ValueError, "weight is nan; expected a finite number"),
        ({"layer_weights": 2.0}, TypeError, "layer_weights is a float; expected a sequence of numbers"),
        ({"layer_weights": [1, None]}, TypeError, r"layer_weights\[1\] is a NoneType"),
        ({"discriminator_weights": [float("inf")]}, ValueError, r"discriminator_weights\[0\] is inf"),
    ],
)
def test_raises_for_settings(loss_class, options, kind, message):
    with pytest.raises(kind, match=message):
        loss_class(**options)


@IMPLS
def test_has_no_state(loss_class):
    loss = loss_class.spade()
    assert not loss.state_dict()
    assert not list(loss.parameters())
    assert "reduction='discriminator_mean'" in repr(loss)
