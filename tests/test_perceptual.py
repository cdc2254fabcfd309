"""The perceptual loss against the same distance computed by hand from the layers of a network."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from oracles import error
from torch import Tensor, nn

from igan_fast import layers, losses
from igan_fast.reference import losses as reference

IMPLS = pytest.mark.parametrize("loss_class", [losses.PerceptualL1Loss, reference.PerceptualL1Loss])
JOINT = pytest.mark.parametrize("joint", [False, True])


def network(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2), nn.Conv2d(5, 6, 3, padding=1)]
    return nn.Sequential(
        nn.Sequential(convs[0], nn.ReLU(inplace)), nn.Sequential(convs[1], nn.ReLU(inplace)), convs[2]
    ).double()


def images(seed: int = 1, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, 9, 8, generator=generator, dtype=torch.float64).requires_grad_()


def by_hand(net: nn.Sequential, fake: Tensor, real: Tensor, weights=(1.0, 1.0)) -> Tensor:
    """The loss for the layers "0.0" (before its activation) and "1"."""
    (conv, _), second, _ = copy.deepcopy(net).requires_grad_(False)
    conv_fake, conv_real = conv(fake), conv(real.detach())
    first = F.l1_loss(conv_fake, conv_real)
    return weights[0] * first + weights[1] * F.l1_loss(second(conv_fake.relu()), second(conv_real.relu()))


@IMPLS
@JOINT
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("weights", [None, (0.5, 3)])
def test_equals_the_layers_by_hand(loss_class, joint, inplace, weights):
    """Also where the activation after a layer is in-place and overwrites its output."""
    net, fake, real = network(inplace=inplace), images(), images(2)
    loss = loss_class(net, ["0.0", "1"], weights, joint=joint)
    found, expected = loss(fake, real), by_hand(network(), fake, real, weights or (1, 1))
    assert error(found, expected) < 1e-12
    gradients = (torch.autograd.grad(value, [fake, real], allow_unused=True) for value in (found, expected))
    (a, none), (e, _) = gradients
    assert error(a, e) < 1e-12
    assert none is None


@IMPLS
def test_precomputed_features(loss_class):
    net, fake, real = network(inplace=True), images(), images(2)
    loss = loss_class(net, ["0.0", "1"])
    features = loss.features(real)
    assert [tuple(f.shape) for f in features] == [(3, 4, 9, 8), (3, 5, 4, 3)]
    assert not any(f.requires_grad for f in features)
    for joint in (False, True):
        assert torch.equal(loss_class(net, ["0.0", "1"], joint=joint)(fake, features), loss(fake, real))


def passes(net: nn.Module, loss: nn.Module, *arguments) -> list[tuple[int, bool]]:
    """The batch size and the grad mode of each forward pass of the extractor."""
    seen: list[tuple[int, bool]] = []
    with net.register_forward_pre_hook(lambda _, inputs: seen.append((len(inputs[0]), torch.is_grad_enabled()))):
        loss(*arguments)
    return seen


@IMPLS
def test_two_passes_or_one(loss_class):
    net = network()
    assert passes(net, loss_class(net, ["1"]), images(), images(2)) == [(3, False), (3, True)]
    assert passes(net, loss_class(net, ["1"], joint=True), images(), images(2)) == [(6, True)]
    assert passes(net, loss_class(net, ["1"]), images(), [torch.zeros(3, 5, 4, 3)]) == [(3, True)]


def hooks_of(net: nn.Module) -> list[dict]:
    return [dict(module._forward_hooks) for module in net.modules()]


@IMPLS
@JOINT
def test_the_extractor_is_not_changed(loss_class, joint):
    net = network()
    net[1].requires_grad_(False)
    net[0].eval()
    net[2].register_forward_hook(lambda *_: None)
    requires_grad, modes, hooks = (
        [p.requires_grad for p in net.parameters()],
        [m.training for m in net.modules()],
        hooks_of(net),
    )
    loss = loss_class(net, ["0.0", "1", "2"], joint=joint).eval()
    assert hooks_of(net) == hooks
    loss(images(), images(2)).backward()
    with pytest.raises(RuntimeError):
        loss(images()[:, :2], images()[:, :2])  # an error within the forward pass
    assert [p.requires_grad for p in net.parameters()] == requires_grad
    assert [m.training for m in net.modules()] == modes
    assert hooks_of(net) == hooks
    assert all(p.grad is None for p in net.parameters())  # it is not trained


@IMPLS
def test_a_users_hook_comes_first(loss_class):
    """The loss uses the output that the hook returns."""
    net, fake, real = network(), images(), images(2)
    before = loss_class(net, ["0.0"])(fake, real)
    net[0][0].register_forward_hook(lambda _m, _a, output: output * 3)
    assert error(loss_class(net, ["0.0"])(fake, real), before * 3) < 1e-12


@IMPLS
def test_the_extractor_is_no_submodule_but_moves_with_the_loss(loss_class):
    net = network()
    holder = nn.ModuleDict({"loss": loss_class(net, ["1"])})
    assert not list(holder.parameters())
    assert not holder.state_dict()
    holder.eval()
    assert net.training
    holder.to(torch.float32)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert holder["loss"](images().float(), images(2).float()).dtype == torch.float32
    copied = copy.deepcopy(holder["loss"])
    assert copied.extractor is not net
    assert torch.equal(copied(images().float(), images(2).float()), holder["loss"](images().float(), images(2).float()))


class Odd(nn.Module):
    """One layer returns several tensors, one runs twice; its submodules have two names each."""

    def __init__(self) -> None:
        super().__init__()
        self.several = Several()
        self.twice = nn.Linear(2, 2)
        self.alias = self.twice
        self.never = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        a, (b, _) = self.several(x)
        return self.twice(self.twice(a + b).relu_())


class Several(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return x * 2, [x + 1, x.square().sum(1)]


@IMPLS
@JOINT
def test_several_outputs_and_several_calls_count_as_their_mean(loss_class, joint):
    torch.manual_seed(0)
    net = Odd().double()
    fake, real = torch.randn(2, 4, 2, dtype=torch.float64)
    difference = fake - real
    expected = F.l1_loss(fake.square().sum(1), real.square().sum(1)) + 3 * difference.abs().mean()
    assert error(loss_class(net, ["several"], [6.0], joint=joint)(fake, real), 6 * expected / 3) < 1e-12
    linear = net.twice
    first = [linear(3 * x + 1) for x in (fake, real)]
    second = [linear(x.relu()) for x in first]
    expected = (F.l1_loss(*first) + F.l1_loss(*second)) / 2
    for name in ("twice", "alias"):
        assert error(loss_class(net, [name], joint=joint)(fake, real), expected) < 1e-12


@IMPLS
def test_a_layer_that_does_not_run(loss_class):
    with pytest.raises(RuntimeError, match="layer 'never' did not run"):
        loss_class(Odd(), ["twice", "never"])(torch.ones(1, 2), torch.ones(1, 2))


class Meeting(nn.Module):
    """Makes two threads run its forward pass at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2, timeout=20)

    def forward(self, x: Tensor) -> Tensor:
        self.barrier.wait()
        return x


@IMPLS
def test_two_threads_with_one_extractor(loss_class):
    """Both register their hooks before either runs a layer."""
    net = network()
    given = [(images(seed), images(seed + 1)) for seed in (1, 3)]
    expected = [by_hand(net, *pair) for pair in given]
    loss = loss_class(nn.Sequential(Meeting(), *net), ["1.0", "2"])
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(loss, *zip(*given, strict=True)))
    for a, e, (fake, _) in zip(found, expected, given, strict=True):
        assert error(a, e) < 1e-12
        assert error(*(torch.autograd.grad(value, fake)[0] for value in (a, e))) < 1e-12
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(hooks_of(loss.extractor))


class Elsewhere(nn.Sequential):
    """Runs its layers in another thread, as nn.DataParallel does."""

    def forward(self, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(super().forward, x).result()


@IMPLS
def test_layers_that_run_in_another_thread_raise(loss_class):
    with pytest.raises(RuntimeError, match=r"layer '0.0' did not run .* in threads of its own .* give it"):
        loss_class(Elsewhere(*network()), ["0.0"])(images(), images(2))


class Mapped(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}


@IMPLS
def test_a_layer_that_returns_no_tensors(loss_class):
    net = nn.Sequential(Mapped())
    with pytest.raises(TypeError, match="layer '0' returns a dict; expected a tensor"):
        loss_class(net, ["0"])(torch.ones(1), torch.ones(1))
    assert not net[0]._forward_hooks


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return []


@IMPLS
def test_a_layer_that_returns_nothing(loss_class):
    with pytest.raises(ValueError, match="layer '0' returns no tensor; expected at least one"):
        loss_class(nn.Sequential(Nothing()), ["0"])(torch.ones(1), torch.ones(1))


def normalised(norm: nn.Module, *, training: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(inplace=True)).double().train(training)


@IMPLS
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, layers.NormAct2d])
def test_joint_raises_for_statistics_of_both_batches(loss_class, norm):
    for made, training in ((norm(4), True), (norm(4, track_running_stats=False), False)):
        net = normalised(made, training=training)
        loss = loss_class(net, ["2"], joint=True)
        with pytest.raises(RuntimeError, match=rf"joint would normalise fake and real .* in '1', a {norm.__name__}"):
            loss(images(), images(2))
        features = loss.features(images(2))
        loss(images(), features)  # each batch by itself
    frozen = normalised(norm(4), training=True)
    frozen[1].eval()
    found = [loss_class(frozen, ["2"], joint=joint)(images(), images(2)) for joint in (False, True)]
    assert error(found[1], found[0]) < 1e-12


@IMPLS
@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(4), layers.NormAct2d(4, groups="instance"), nn.GroupNorm(2, 4)])
def test_joint_allows_instance_normalisation(loss_class, norm):
    net = normalised(norm, training=True)
    found = [loss_class(net, ["1"], joint=joint)(images(), images(2)) for joint in (False, True)]
    assert error(found[1], found[0]) < 1e-12


@IMPLS
def test_joint_needs_the_batch_in_the_first_dimension(loss_class):
    net = nn.Sequential(nn.Flatten(0))
    assert loss_class(net, ["0"])(images(), images()).item() == 0
    with pytest.raises(ValueError, match=r"joint: layer '0' returns shape \(1296,\); expected 6 images first"):
        loss_class(net, ["0"], joint=True)(images(), images())


def test_half_types_autocast_and_inference():
    net, fake, real = network(inplace=True).float(), images().float(), images(2).float()
    loss = losses.PerceptualL1Loss(net, ["0.0", "1"])
    exact = by_hand(network(), fake.double(), real.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(fake, real)
    assert found.dtype == torch.float32
    assert error(found, exact) < 0.02
    with torch.inference_mode():
        assert error(loss(fake, real), exact) < 1e-5
    loss.bfloat16()
    assert error(loss(fake.bfloat16(), real.bfloat16()), exact) < 0.02


def test_first_and_second_derivatives():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Softplus(), nn.Conv2d(2, 2, 3)).double()
    real = images(2, 1)[:, :, :6, :6].detach()
    fake = (real + torch.rand_like(real)).requires_grad_()
    loss = losses.PerceptualL1Loss(net, ["1", "2"])
    assert torch.autograd.gradcheck(lambda x: loss(x, real), fake)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, real), fake)


def test_a_network_that_was_compiled_before_raises():
    """Compiled code does not call hooks that are registered later."""
    torch._dynamo.reset()
    compiled = torch.compile(network().requires_grad_(False), backend="eager")
    fake, real = images(), images(2)
    compiled(fake)
    with torch.no_grad():
        compiled(real)
    with pytest.raises(RuntimeError, match=r"layer '_orig_mod.0.0' did not run .* give it uncompiled"):
        losses.PerceptualL1Loss(compiled, ["_orig_mod.0.0"])(fake, real)


def test_compiled_with_graph_breaks():
    torch._dynamo.reset()
    loss = losses.PerceptualL1Loss(network(inplace=True), ["0.0", "1"])
    compiled = torch.compile(loss, backend="aot_eager")
    for seed in (1, 3):
        assert error(compiled(images(seed), images(2)), by_hand(network(), images(seed), images(2))) < 1e-12
    assert not any(hooks_of(loss.extractor))


@IMPLS
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((lambda x: x, ["0"]), TypeError, "extractor is a function; expected a torch.nn.Module"),
        ((network(), "0.0"), TypeError, "layers is a str; expected a sequence of names"),
        ((network(), []), ValueError, "layers is empty"),
        ((network(), ["0.0", "0.O"]), ValueError, r"layers\[1\] is '0.O'; expected the name .*, like .*'0.0'"),
        ((network(), ["relu"]), ValueError, r"layers\[0\] is 'relu'; expected the name .*, like '0', '0.0', '0.1'"),
        ((nn.Identity(), ["x"]), ValueError, "and it has none"),
        ((network(), ["1", "0", "1"]), ValueError, r"layers\[2\] is '1' again; expected each layer once"),
        ((network(), ["1"], [1, 2]), ValueError, "weights has 2 numbers for 1 layers"),
        ((network(), ["1"], [float("inf")]), ValueError, r"weights\[0\] is inf"),
    ],
)
def test_raises_for_settings(loss_class, arguments, kind, message):
    with pytest.raises(kind, match=message):
        loss_class(*arguments)


@IMPLS
def test_raises_for_images_that_do_not_match(loss_class):
    loss = loss_class(network(), ["0", "1"])
    with pytest.raises(ValueError, match=r"fake has shape \(3, 3, 9, 8\), real \(2, 3, 9, 8\); expected the same"):
        loss(images(), images(2, 2))
    with pytest.raises(ValueError, match="real has 1 entries for 2 layers"):
        loss(images(), loss.features(images())[:1])
    with pytest.raises(ValueError, match=r"layer '0' has shape \(3, 4, 9, 8\), its real counterpart \(2, 4, 9, 8\)"):
        loss(images(), loss.features(images(2, 2)))
    assert "extractor=Sequential, layers=['0', '1']" in repr(loss)
