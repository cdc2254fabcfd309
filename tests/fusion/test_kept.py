"""What evaluation keeps of convolutions from call to call, and that it is never used after a tensor has changed."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from operator_counts import operators
from oracles import error
from plain_and_fused import images
from torch import Tensor, nn

import igan_fast
from igan_fast.fusion import kept

pytestmark = pytest.mark.filterwarnings("ignore")

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

#: Convolutions of 16 channels to 16, whose weights have one memory format, or two at once.
CONVOLUTIONS = {
    "3×3": lambda: nn.Conv2d(16, 16, 3, padding=1),
    "3×3, without bias": lambda: nn.Conv2d(16, 16, 3, bias=False),
    "1×1": lambda: nn.Conv2d(16, 16, 1),
    "1×1, stride 2": lambda: nn.Conv2d(16, 16, 1, 2, bias=False),
    "depthwise": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16),
    "depthwise, stride 2": lambda: nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False),
    "two groups": lambda: nn.Conv2d(16, 16, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(16, 16, 4, 2, 1),
    "transposed, 1×1": lambda: nn.ConvTranspose2d(16, 16, 1),
    "transposed, depthwise": lambda: nn.ConvTranspose2d(16, 16, 3, 2, 1, 1, groups=16),
    "dilated": lambda: nn.Conv2d(16, 16, 3, padding=2, dilation=2),
    "reflected": lambda: nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
    "same": lambda: nn.Conv2d(16, 16, 4, padding="same"),
    "one row": lambda: nn.Conv2d(16, 16, (1, 5), padding=(0, 2)),
}


def networks(conv: Any = None, act: nn.Module | None = None, dtype: torch.dtype = torch.float64) -> Any:
    """A fused network in evaluation that has learnt what follows what, and a plain one."""
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1) if conv is None else conv
    plain = nn.Sequential(conv, nn.BatchNorm2d(16), nn.LeakyReLU(0.2) if act is None else act).to(dtype).eval()
    with torch.no_grad():
        plain[1].running_mean.normal_(), plain[1].running_var.uniform_(0.5, 2)
        plain[1].weight.normal_(), plain[1].bias.normal_()
    fused = copy.deepcopy(plain)
    igan_fast.fuse(fused)
    return fused, plain


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that a normalisation is folded into weights."""
    calls: list[str] = []
    fold = kept.fold

    def counted(*arguments: Any) -> Any:
        calls.append("fold")
        return fold(*arguments)

    monkeypatch.setattr(kept, "fold", counted)
    return calls


X = images((4, 16, 11, 7))


@torch.no_grad()
def test_a_normalisation_is_folded_once(folded):
    fused, plain = networks()
    for call in range(5):
        assert error(fused(X), plain(X)) < 1e-9
        assert len(folded) == (1 if call else 0)  # the first call learns
    assert error(fused(X[:1, :, 1:]), plain(X[:1, :, 1:])) < 1e-9
    assert len(folded) == 1  # also for other sizes


def by_fused_adam(net: Any) -> None:
    """PyTorch does not count the changes that this optimiser makes."""
    with torch.enable_grad():
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()


def statistics_of_a_batch(net: Any) -> None:
    net.train()
    net(X * 3 + 1)
    net.eval()


CHANGES = {
    "nothing": lambda net: None,
    "load_state_dict": lambda net: net.load_state_dict({k: v * 2 for k, v in net.state_dict().items()}),
    "one value of the weight, by .data": lambda net: net[0].weight.data[7, 3, 1].fill_(2.0),
    "one value of the bias, by NumPy": lambda net: net[0].bias.detach().numpy().__setitem__(3, 5.0),
    "new data": lambda net: setattr(net[0].weight, "data", torch.ones_like(net[0].weight)),
    "a new weight": lambda net: setattr(net[0], "weight", nn.Parameter(torch.ones_like(net[0].weight))),
    "no bias": lambda net: setattr(net[0], "bias", None),
    "the sign of a zero": lambda net: (net[1].bias.data.zero_().neg_(), net[0].bias.data.zero_()),
    "the norm's weight": lambda net: net[1].weight.mul_(-2),
    "one value of the norm's bias, by .data": lambda net: net[1].bias.data[:1].add_(1),
    "the running mean, by NumPy": lambda net: net[1].running_mean.numpy().__iadd__(0.5),
    "the running variance": lambda net: net[1].running_var.mul_(3),
    "another buffer": lambda net: setattr(net[1], "running_mean", torch.ones(16, dtype=torch.float64)),
    "no norm weight": lambda net: setattr(net[1], "weight", None),
    "eps": lambda net: setattr(net[1], "eps", 0.3),
    "fused Adam": by_fused_adam,
    "statistics of a batch": statistics_of_a_batch,
    "the stride": lambda net: setattr(net[0], "stride", (2, 1)),
    "the stride, as a list": lambda net: setattr(net[0], "stride", [2, 1]),
    "the padding": lambda net: setattr(net[0], "padding", (0, 0)),
    "the memory format": lambda net: net.to(memory_format=torch.channels_last),
    "another norm": lambda net: net.__setitem__(1, nn.BatchNorm2d(16).double().eval()),
    "no norm": lambda net: net.__setitem__(1, nn.Identity()),
    "a not-a-number": lambda net: net[0].weight.data[:1].fill_(torch.nan),
}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_between_calls_are_seen(change, context):
    fused, plain = networks()
    with context():
        for _ in range(3):
            fused(X)
    for net in (fused, plain):
        with torch.no_grad():
            CHANGES[change](net)
    with context():
        for _ in range(3):
            found, expected = fused(X), plain(X)
            assert error(found, expected) < 1e-9
            assert found.stride() == expected.stride()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("conv", CONVOLUTIONS)
@torch.no_grad()
def test_every_convolution_is_folded_into_pytorchs_memory_format(conv, layout, dtype, folded):
    """Weights of one pixel or of one channel have both memory formats at once, and PyTorch goes by their strides."""
    for of_weights in LAYOUTS.values():
        fused, plain = networks(CONVOLUTIONS[conv](), dtype=dtype)
        for net in (fused, plain):
            net.to(memory_format=of_weights)
        x = X.to(dtype).contiguous(memory_format=LAYOUTS[layout])
        del folded[:]
        for _ in range(3):
            found, expected = fused(x), plain(x)
            assert error(found, expected) < {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
            assert found.dtype == expected.dtype
            assert found.stride() == expected.stride()
        assert len(folded) == 1


@pytest.mark.parametrize("act", [nn.ReLU6(), nn.ReLU6(True), nn.SiLU(), nn.SiLU(True), nn.PReLU(), nn.Hardtanh(-1, 2)])
@pytest.mark.parametrize("conv", ["3×3", "1×1", "depthwise"])
@torch.no_grad()
def test_other_activations_follow_the_folded_convolution(conv, act):
    fused, plain = networks(CONVOLUTIONS[conv](), copy.deepcopy(act), torch.float32)
    x = X.float()
    counts: Counter[str] = Counter()
    for _ in range(3):
        found, expected = fused(x), plain(x)
        assert error(found, expected) < 1e-5
        counts = operators(fused, lambda net, x: net(x), x, False)
    assert not any("batch_norm" in name or "norm_act" in name for name in counts), sorted(counts)


@pytest.mark.parametrize("training", [True, False])
def test_training_forgets_what_evaluation_has_kept(training):
    fused, _ = networks()
    with torch.no_grad():
        for _ in range(3):
            fused(X)
    held = [weakref.ref(entry.weight) for entry in fused[0]._expectation.kept.values()]
    assert held
    fused.train(training)
    fused(X).sum().backward()
    gc.collect()
    assert [reference() for reference in held] == [None] * len(held)


def test_copies_and_files_hold_no_kept_weights():
    fused, plain = networks()
    with torch.no_grad():
        for _ in range(3):
            fused(X)
        file = io.BytesIO()
        torch.save(fused, file)
        file.seek(0)
        for other in (copy.deepcopy(fused), torch.load(file, weights_only=False)):
            assert not other[0]._expectation.kept
            other[0].weight.mul_(2), other[0].bias.mul_(2)
            twin = copy.deepcopy(plain)
            twin[0].weight.mul_(2), twin[0].bias.mul_(2)
            for _ in range(3):
                assert error(other(X), twin(X)) < 1e-9
        assert error(fused(X), plain(X)) < 1e-9


@torch.no_grad()
def test_large_weights_are_not_kept():
    """A copy of them would cost more than it gains."""
    fused, plain = networks()
    small = X[:1, :, :3, :3].contiguous()
    assert small.numel() < plain[0].weight.numel()
    for _ in range(3):
        assert error(fused(small), plain(small)) < 1e-9
    assert not fused[0]._expectation.kept


@torch.no_grad()
def test_weights_of_a_frozen_network_are_kept_however_large():
    fused, plain = networks()
    igan_fast.freeze(fused)
    small = X[:1, :, :3, :3].contiguous()
    for _ in range(3):
        assert error(fused(small), plain(small)) < 1e-9
    assert fused[0]._expectation.kept
    for net in (fused, plain):
        net[0].weight.mul_(2)
    assert error(fused(small), plain(small)) < 1e-9


@torch.no_grad()
def test_the_result_of_another_use_is_that_of_the_weights_at_the_call():
    """The plain result is computed later, from the copies."""
    fused, plain = networks()
    for _ in range(3):
        fused(X)
    h, expected = fused[0](X), plain[0](X)
    fused[0].weight.data.zero_()
    assert error(h + 1, expected + 1) < 1e-9


@torch.no_grad()
def test_calls_that_gain_nothing_go_straight_to_pytorch(monkeypatch):
    """Their kind is remembered, while what follows stays the same."""
    monkeypatch.undo()  # the limit, which conftest.py removes for the other tests
    fused, plain = networks(nn.Conv2d(16, 16, 1))
    for _ in range(3):
        fused(X)
    assert len(fused[0]._expectation.left) == 1
    looked: list[Tensor] = []
    monkeypatch.setattr(type(fused[0]), "_evaluated", lambda self, x, *_: looked.append(x), raising=False)
    assert error(fused(X), plain(X)) < 1e-12
    assert not looked
    fused(X[1:])  # another kind
    assert len(looked) == 1


def test_the_number_of_remembered_kinds_is_bounded():
    expectation = networks()[0][0]._expectation
    for kind in range(1000):
        expectation.leave_to_pytorch(kind)
        expectation.way_of(kind, lambda: None)
    assert len(expectation.left) <= 256
    assert len(expectation.ways) <= 256
