"""``fuse`` replaces only what it makes faster: what it leaves to PyTorch, by which rule, and that the results agree."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from oracles import error
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import igan_fast
from igan_fast.fusion import FusionReport, fused_module, normalization, ways
from igan_fast.ops.convolution import ConvSettings, choice, winograd_costs
from igan_fast.ops.convolution.dispatch import problem_of
from igan_fast.ops.convolution.winograd import Winograd

#: A convolution of 512 channels at 7 × 7, which has far more weights than inputs, and one with more inputs.
LARGE, SMALL = (nn.Conv2d(512, 512, 3, padding=1), (1, 512, 7, 7)), (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 56, 56))


@pytest.fixture(autouse=True)
def measured_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits as users have them; conftest.py removes them for the other tests."""
    monkeypatch.undo()


def names(report: FusionReport) -> tuple[list[str], list[str]]:
    """The modules that are fused, and those that are left alone."""
    return [entry.name for entry in report.fused], [entry.name for entry in report.left_alone]


def fused_of(plain: nn.Module) -> nn.Module:
    fused = copy.deepcopy(plain)
    igan_fast.fuse(fused)
    return fused


def test_convolutions_that_can_gain_nothing_keep_their_class() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 16, 3),  # our kernels
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 32, 1),
        nn.Conv2d(32, 3, 1),  # one pixel, but to few channels
        nn.Conv3d(1, 2, 3),
        parametrizations.weight_norm(nn.Conv1d(1, 2, 3)),
    )
    report = igan_fast.fuse(model)
    assert names(report) == (["0", "3"], ["1", "2", "4", "5"])
    assert type(model[1]) is nn.Conv2d
    assert all("no batch normalisation can follow" in entry.result for entry in report.left_alone)


def test_a_batch_normalisation_of_as_many_channels_may_follow_each_convolution() -> None:
    layers = [nn.Conv1d(4, 5, 3), nn.Conv1d(5, 6, 3), nn.ConvTranspose1d(6, 5, 3), nn.Conv2d(8, 5, 1)]
    for norm in (nn.BatchNorm1d(5), nn.BatchNorm2d(5), nn.SyncBatchNorm(5)):
        report = igan_fast.fuse(copy.deepcopy(nn.Sequential(*layers, nn.InstanceNorm1d(6), norm)))
        assert names(report) == (["0", "2", "3", "4", "5"], ["1"])


@torch.no_grad()
@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv2d(4, 6, 3, 2, 1, bias=False),
        lambda: nn.Conv2d(4, 6, (1, 3), padding="same", dilation=(1, 2), groups=2),
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
        lambda: nn.utils.weight_norm(nn.Conv2d(4, 6, 3)),
        lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
    ],
)
def test_a_call_that_gains_nothing_is_the_call_of_pytorchs_modules(conv: Any) -> None:
    plain = nn.Sequential(conv(), nn.BatchNorm2d(6), nn.ReLU()).eval()
    plain[1].running_mean.normal_(), plain[1].running_var.uniform_(0.5, 2)
    fused, x = fused_of(plain), torch.randn(2, 4, 9, 8)
    for _ in range(4):
        assert torch.equal(fused(x), plain(x))
    for parameter in (plain[0].bias, fused[0].bias):
        if parameter is not None:
            parameter.fill_(3)
    assert torch.equal(fused(x), plain(x))
    assert fused[0]._expectation.left
    for net in (fused, plain):
        with pytest.raises(RuntimeError, match="expected input"):
            net(x[:, :3])


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.1}]
)
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_a_small_normalisation_is_pytorchs(kind: Any, options: dict[str, Any]) -> None:
    plain = kind(4, **options)
    x = torch.randn(3, 4, 5) if kind is nn.BatchNorm1d else torch.randn(3, 4, 5, 6)
    if kind is not nn.SyncBatchNorm:  # which refuses to train here
        plain.train()(x)
    plain.eval()
    fused = fused_of(plain)
    for _ in range(3):
        assert torch.equal(fused(x), plain(x))
    if options == {}:
        for module in (fused, plain):
            module.running_mean = module.running_var = None  # then the statistics are those of the batch
        assert torch.equal(fused(x), plain(x))
        return
    if kind is not nn.SyncBatchNorm:
        assert torch.equal(fused.train()(x), plain.train()(x))
        for one, other in zip(fused.buffers(), plain.buffers(), strict=True):
            assert torch.equal(one, other)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            fused(x[:1, :, :1, :1] if x.dim() == 4 else x[:1, :, :1])
    if kind is nn.BatchNorm2d:
        for module in (fused, plain):
            with pytest.raises(ValueError, match="expected 4D input"):
                module(x[0])


@torch.no_grad()
@pytest.mark.parametrize(("activation", "gains"), [(nn.ReLU(), True), (nn.ReLU6(), False), (nn.Identity(), False)])
def test_a_large_normalisation_in_evaluation_gains_with_its_activation_only(
    activation: nn.Module, gains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    compute = normalization.normalize
    monkeypatch.setattr(normalization, "normalize", lambda *given: calls.append(given) or compute(*given))
    plain = nn.Sequential(nn.BatchNorm2d(96), activation).eval()
    plain[0].running_mean.normal_(), plain[0].running_var.uniform_(0.5, 2)
    fused, x = fused_of(plain), torch.randn(1, 96, 112, 112)
    for _ in range(4):
        assert error(fused(x), plain(x)) < 1e-6
    assert len(calls) == (4 if gains else 1)  # the first call finds out what follows


@torch.no_grad()
def test_what_was_left_to_pytorch_is_looked_at_anew_where_it_may_gain() -> None:
    """For an input of another shape or memory format, and once the network has another dtype."""
    fused, x = fused_of(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).eval()), torch.randn(2, 4, 9, 8)
    left = fused[0]._expectation
    for number, given in enumerate((x, x.contiguous(memory_format=torch.channels_last), x[:1]), start=1):
        for _ in range(3):
            fused(given)
        assert len(left.left) == number
        assert (left.left_shape, left.left_stride) == (given.shape, given.stride())
    fused.double()
    assert (left.left, left.left_shape) == (set(), None)
    fused(x.double())
    assert len(left.left) == 1


@torch.no_grad()
def test_what_was_left_to_pytorch_stays_what_pytorch_computes() -> None:
    """Also for tensors without strides, and for modules that were changed since."""
    plain = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).eval()
    fused, x = fused_of(plain), torch.randn(2, 4, 9, 8)
    for _ in range(3):
        fused(x)
    for given in (x.to_sparse(), torch.nested.nested_tensor([x[0], x[1]])):
        messages = []
        for net in (plain, fused):
            with pytest.raises(RuntimeError) as raised:
                net(given)
            messages.append(str(raised.value).split("\n")[0][:60])
        assert messages[0] == messages[1]
    for net in (plain, fused):
        net[1].weight = nn.Parameter(torch.arange(6.0))
        net[1].momentum = None
    assert torch.equal(fused(x), plain(x))
    for net in (plain, fused):
        parametrizations.weight_norm(net[0])
        net[0].parametrizations.weight.original0.mul_(2)
    assert torch.equal(fused(x), plain(x))


def test_our_kernels_have_to_be_predicted_faster_with_all_that_surrounds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a call, a copy of each value and a comparison of each weight, against 0.8 of PyTorch's time."""
    monkeypatch.setattr(Winograd, "convolve", lambda *_: lambda *arguments: arguments[0])
    monkeypatch.setattr(choice, "_kept", choice._choose)
    settings = ConvSettings.cached(2, padding=1)
    x, weight = torch.randn(1, 16, 20, 20), torch.randn(32, 16, 3, 3)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, weight)]
    values, weights, pytorchs = 16 * 400 + 32 * 400, 32 * 16 * 9, 1e-3
    for given, kept, surrounds in (
        ((x, weight), False, 80e-6 + 0.6e-9 * values),
        ((x, weight), True, 80e-6 + 0.6e-9 * values + 0.35e-9 * weights),
        (last, True, 80e-6 + 0.35e-9 * weights),
    ):
        for factor, expected in ((0.999, True), (1.001, False)):
            ours = factor * (0.8 * pytorchs - surrounds)
            monkeypatch.setattr(Winograd, "seconds", lambda *_, ours=ours: (ours, pytorchs))
            assert ways._own_kernels_gain(*given, None, settings, kept=kept) is expected


@pytest.mark.parametrize("by_pytorch", ["convolve", "input_gradient", "weight_gradient"])
def test_in_training_what_our_kernels_compute_has_to_gain_together(by_pytorch, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, where PyTorch computes one of the three. With contiguous maps, five copies are made in all."""
    pytorchs = {"convolve": 1e-3, "input_gradient": 2e-3, "weight_gradient": 3e-3}
    for name in pytorchs:
        run = None if name == by_pytorch else lambda *arguments: arguments[0]
        monkeypatch.setattr(Winograd, name, lambda *_, run=run: run)
    monkeypatch.setattr(choice, "_kept", choice._choose)
    settings = ConvSettings.cached(2, padding=1)
    x, weight = torch.randn(2, 16, 20, 20), torch.randn(32, 16, 3, 3)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, weight)]
    limit = 0.9 * (6e-3 - pytorchs[by_pytorch]) - 80e-6
    for given, copies in (((x, weight), 3 * 2 * 16 * 400 + 2 * 2 * 32 * 400), (last, 0)):
        for factor, expected in ((0.999, True), (1.001, False)):
            half = factor * (limit - 0.6e-9 * copies) / 2
            times = {name: (9.0 if name == by_pytorch else half, pytorchs[name]) for name in pytorchs}
            monkeypatch.setattr(Winograd, "seconds", lambda self, problem, which, times=times: times[which])
            assert ways.gains_in_training(*given, None, settings) is expected


def test_in_training_pytorch_computes_what_our_kernels_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("convolve", "input_gradient", "weight_gradient"):
        monkeypatch.setattr(Winograd, name, lambda *_: None)
    monkeypatch.setattr(choice, "_kept", choice._choose)
    x, weight = torch.randn(2, 16, 20, 20), torch.randn(32, 16, 3, 3)
    assert ways.gains_in_training(x, weight, None, ConvSettings.cached(2, padding=1)) is False


def test_predicted_times_are_those_of_the_weights_memory_format() -> None:
    """In channels_last PyTorch saves 0.7 ns for each weight, and the transform of our filter takes 0.8 ns more."""
    x, weight = torch.randn(1, 512, 7, 7), torch.randn(512, 512, 3, 3)
    settings, found = ConvSettings.cached(2, padding=1), []
    for given in (weight, weight.contiguous(memory_format=torch.channels_last)):
        predicted = Winograd().seconds(problem_of(x, given, None, settings), "convolve")
        assert predicted is not None
        found.append(predicted)
    (ours, pytorchs), (ours_last, pytorchs_last) = found
    assert ours_last - ours == pytest.approx(0.8e-9 * weight.numel(), rel=1e-6)
    assert pytorchs - pytorchs_last == pytest.approx(0.7e-9 * weight.numel(), rel=1e-6)


def test_from_few_channels_our_kernel_computes_large_maps() -> None:
    weight, settings = torch.randn(32, 3, 3, 3), ConvSettings.cached(2, padding=1)
    for side, expected in ((180, False), (182, True)):  # 2^20 values are 181² of 32 channels
        x = torch.randn(1, 3, side, side)
        given = [t.contiguous(memory_format=torch.channels_last) for t in (x, weight)]
        assert ways._own_kernels_gain(*given, None, settings, kept=False) is expected
        assert ways.gains_in_training(*given, None, settings) is expected


@pytest.fixture
def always_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minimal filtering is predicted to gain where its filters are kept, on any machine."""
    monkeypatch.setattr(Winograd, "seconds", lambda self, problem, _: (0.0 if problem.constant else 1.0, 1.0))
    monkeypatch.setattr(winograd_costs, "MARGIN", math.inf)
    monkeypatch.setattr(choice, "_kept", choice._choose)


@torch.no_grad()
@pytest.mark.usefixtures("always_gains")
@pytest.mark.parametrize("sizes", [LARGE, SMALL], ids=["many weights", "few weights"])
def test_weights_are_kept_at_once_or_where_a_call_finds_those_of_the_call_before(sizes: Any) -> None:
    conv, shape = sizes
    at_once = conv is SMALL[0]
    plain = nn.Sequential(copy.deepcopy(conv), nn.Sigmoid())
    fused, x = fused_of(plain), torch.randn(shape)
    expectation = fused[0]._expectation
    for _ in range(3):  # it learns what follows in the first call
        assert error(fused(x), plain(x)) < 1e-5
    assert expectation.kept
    for _ in range(3):  # weights that change at each call are not kept, if they are many
        for net in (fused, plain):
            net[0].weight.data.mul_(1.1)
        assert error(fused(x), plain(x)) < 1e-5
        assert bool(expectation.kept) is at_once
    assert error(fused(x), plain(x)) < 1e-5
    assert expectation.kept


@torch.no_grad()
@pytest.mark.usefixtures("always_gains")
def test_a_convolution_of_many_weights_is_folded_once_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_module, "MIN_ELEMENTS", 0)
    torch.manual_seed(0)
    plain = nn.Sequential(copy.deepcopy(LARGE[0]), nn.BatchNorm2d(512), nn.ReLU()).eval()
    plain[1].running_mean.normal_(std=0.1), plain[1].running_var.uniform_(0.5, 2)
    fused, x = fused_of(plain), torch.randn(LARGE[1])
    found: list[Tensor] = [fused(x) for _ in range(6)]
    assert fused[0]._expectation.kept.keys() == {False}
    for y in found:
        assert error(y, plain(x)) < 1e-5
    plain[1].weight.data.mul_(2), fused[1].weight.data.mul_(2)
    for _ in range(3):
        assert error(fused(x), plain(x)) < 1e-5


def test_a_linear_layer_of_few_rows_is_pytorchs() -> None:
    plain = nn.Linear(1024, 2048)
    fused = fused_of(plain)
    for x in (torch.randn(1, 1024), torch.randn(0, 1024), torch.randn(2, 3, 1024), torch.randn(64, 1024)):
        for context in (torch.no_grad, torch.enable_grad):
            with context():
                assert error(fused(x), plain(x)) < 1e-5
