"""The choice between a network of blocks and its layers by measurement, with timers that are made up."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from measuring import Turns, measuring
from oracles import error
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from igan_fast.ops import tuning
from igan_fast.ops.blocks import Block, Norm, RawMap, block_features, block_image, can_run_blocks, measured, network
from igan_fast.ops.convolution import ConvSettings, asking_for, choice
from igan_fast.ops.triton import common, convolution_image_weight, convolution_weight
from igan_fast.reference import ops as reference

if not common.INTERPRETED:
    pytest.skip("the choice is made here without a GPU, in Triton's interpreter", allow_module_level=True)

pytestmark = pytest.mark.every_build

DOWN = ConvSettings.cached(2, stride=2, padding=1)
UP = ConvSettings.cached(2, transposed=True, stride=2, padding=1)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs, each of which takes the interpreter long. Single convolutions are not measured."""
    import triton_interpreter

    triton_interpreter.speed_up()
    for module in (convolution_weight, convolution_image_weight):
        monkeypatch.setattr(module, "_PROGRAMS", 2)
    monkeypatch.setattr(choice, "_ON_DEMAND", [])
    torch.manual_seed(0)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often a network was computed as one node."""
    found: list[str] = []
    apply = network.Network.apply

    def noted(*arguments: Any) -> Any:
        found.append("node")
        return apply(*arguments)

    monkeypatch.setattr(network.Network, "apply", noted)
    return found


def norm(channels: int, groups: int = 2) -> Norm:
    gamma, beta = torch.rand(channels) + 0.5, torch.randn(channels)
    leaves = (t.double().requires_grad_() for t in (gamma, beta))
    return Norm(*leaves, torch.zeros(channels).double(), torch.ones(channels).double(), 0.1, 1e-5, 0.2, groups)


def down() -> list[Block]:
    """From 2 channels to 3 to 4."""
    weights = [torch.randn(out, channels, 3, 3).double().requires_grad_() for out, channels in ((3, 2), (4, 3))]
    return [Block(DOWN, weight, norm(len(weight))) for weight in weights]


def images(*shape: int) -> Tensor:
    return torch.randn(*(shape or (4, 2, 6, 4))).double().requires_grad_()


def leaves_of(x: Tensor, blocks: list[Block]) -> list[Any]:
    return [x, *(t for block in blocks for t in (block.conv_weight, *block.norm[:2]))]


def maps_of_reference(x: Tensor, blocks: list[Block]) -> list[Tensor]:
    maps = [x]
    for block in blocks:
        running = [torch.zeros_like(t) + start for t, start in zip(block.norm[2:4], (0, 1), strict=True)]
        options = {"stride": block.settings.stride, "padding": block.settings.padding}
        tensors = maps[-1], block.conv_weight, *block.norm[:2], *running
        maps.append(reference.conv_norm_act(*tensors, groups=block.norm.groups, **options))
        for mine, expected in zip(block.norm[2:4], running, strict=True):
            assert mine is not None
            assert error(mine, expected) < 1e-12  # moved once: not when it was measured
    return maps


@pytest.mark.parametrize(
    ("of_blocks", "as_node", "with_targets"),
    [
        (0.5, True, False),
        (0.5, True, True),
        (1.5, False, False),
        (1.5, False, True),
        (1.0, False, False),
        (RuntimeError("out of memory"), False, True),
    ],
)
def test_the_faster_way_is_taken(
    monkeypatch: pytest.MonkeyPatch, nodes: list[str], of_blocks: Any, as_node: bool, with_targets: bool
) -> None:
    """Of equally fast ones the layers are, and a network that fails is not."""
    timer = Turns(0.0 if isinstance(of_blocks, Exception) else of_blocks)
    x, blocks = images(), down()
    targets = [torch.randn(4, c, *size).double() for c, size in ((2, (6, 4)), (3, (3, 2)), (4, (2, 1)))]
    if isinstance(of_blocks, Exception):

        def fails(*arguments: Any) -> None:
            raise of_blocks

        monkeypatch.setattr(network.Network, "apply", fails)
    state = torch.get_rng_state()
    with measuring(monkeypatch, timer):
        found = block_features(x, blocks, [RawMap(t) for t in targets] if with_targets else None)
        assert timer.turns == 2
        assert torch.equal(torch.get_rng_state(), state)
        maps = maps_of_reference(x, blocks)
        assert all(error(a.activation(), b) < 1e-10 for a, b in zip(found.maps, maps, strict=True))
        assert all(not each.y.requires_grad for each in found.maps)
        if with_targets:
            assert found.distance is not None
            loss, expected = found.distance, reference.feature_l1(maps, targets)
        else:
            assert found.distance is None
            loss, expected = found.last.square().sum(), maps[-1].square().sum()
        assert error(loss, expected) < 1e-10
        gradients = (torch.autograd.grad(each, leaves_of(x, blocks)) for each in (loss, expected))
        assert all(error(a, b) < 1e-9 for a, b in zip(*gradients, strict=True))
        nodes.clear()
        block_features(x, blocks, [RawMap(t) for t in targets] if with_targets else None)
        assert timer.turns == 2
        assert len(nodes) == as_node
        assert [set(each.values()) for each in tuning.taken().values()] == [{"triton" if as_node else "other"}]


@pytest.mark.parametrize("as_node", [True, False])
@pytest.mark.parametrize("film", [True, False])
def test_an_image(monkeypatch: pytest.MonkeyPatch, nodes: list[str], as_node: bool, film: bool) -> None:
    x, first = images(2, 4, 3, 2), norm(4)
    block = Block(UP, torch.randn(4, 5, 4, 4).double().requires_grad_(), norm(5))
    weight, bias = torch.randn(5, 3, 4, 4).double().requires_grad_(), torch.randn(3).double().requires_grad_()
    films = [torch.randn(2, 2 * c).double().requires_grad_() if film else None for c in (4, 5)]
    timer = Turns(0.5 if as_node else 1.5)
    with measuring(monkeypatch, timer):
        block_image(x, first, [block], weight, bias, UP, films)
        for each in (first, block.norm):
            for t, start in zip(each[2:4], (0.0, 1.0), strict=True):
                t.fill_(start)
        nodes.clear()
        found = block_image(x, first, [block], weight, bias, UP, films)
        assert timer.turns == 2
        assert len(nodes) == as_node
    running = [[torch.zeros(c).double(), torch.ones(c).double()] for c in (4, 5)]
    y = reference.norm_act(x, *first[:2], *running[0], groups=2, film=films[0])
    options: dict[str, Any] = {"transposed": True, "stride": 2, "padding": 1}
    y = reference.conv_norm_act(y, block.conv_weight, *block.norm[:2], *running[1], groups=2, film=films[1], **options)
    expected = torch.nn.functional.conv_transpose2d(y, weight, bias, 2, 1)
    assert error(found, expected) < 1e-10
    for each, (mean, var) in zip((first, block.norm), running, strict=True):
        assert error(each.running_mean, mean) < 1e-12
        assert error(each.running_var, var) < 1e-12
    leaves = [x, *first[:2], block.conv_weight, *block.norm[:2], weight, bias, *(t for t in films if t is not None)]
    gradients = (torch.autograd.grad(each.square().sum(), leaves) for each in (found, expected))
    assert all(error(a, b) < 1e-9 for a, b in zip(*gradients, strict=True))


def test_what_may_not_be_measured_now_is_computed_by_layers(monkeypatch: pytest.MonkeyPatch, nodes: list[str]) -> None:
    """While a CUDA graph is recorded, unless the choice is known."""
    x, blocks, timer = images(), down(), Turns(0.5)

    def computed_as_node(recording: bool, x: Tensor = x) -> bool:
        monkeypatch.setattr(tuning, "may_measure", lambda device: not recording)
        nodes.clear()
        block_features(x, blocks)
        return bool(nodes)

    with measuring(monkeypatch, timer):
        assert not computed_as_node(recording=True)
        assert timer.turns == 0
        assert computed_as_node(recording=False)
        assert computed_as_node(recording=True)
        assert not computed_as_node(recording=True, x=x.detach())
        assert timer.turns == 2


def test_where_blocks_may_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    x, pairs = images(), [(block.settings, block.conv_weight) for block in down()]
    with asking_for("measure"):
        assert not can_run_blocks(x, pairs)  # a CPU has no choice
    with measuring(monkeypatch, Turns(0.5)):
        assert can_run_blocks(x, pairs)
        assert not can_run_blocks(x[:, :1], pairs)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not can_run_blocks(x, pairs)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: False)
        with asking_for("triton"):
            assert not can_run_blocks(x, pairs)


def keys(x: Tensor, *others: Any) -> str:
    return measured._key("features", (x, *others), "cpu")


def test_networks_that_differ_in_speed_have_choices_of_their_own() -> None:
    x, blocks = images(), down()
    first, *rest = blocks
    raw = RawMap(torch.randn(4, 2, 6, 4), torch.randn(2, 3, 2))
    others: list[tuple[Any, ...]] = [
        (images(4, 2, 6, 6), blocks, None),
        (x.detach(), blocks, None),
        (x.float(), blocks, None),
        (x.contiguous(memory_format=torch.channels_last), blocks, None),
        (x, [first._replace(conv_weight=first.conv_weight.detach()), *rest], None),
        (x, [first._replace(settings=UP), *rest], None),
        (x, [first._replace(norm=first.norm._replace(groups=4)), *rest], None),
        (x, [first._replace(norm=first.norm._replace(running_mean=None, running_var=None)), *rest], None),
        (x, blocks[:1], None),
        (x, blocks, [raw]),
        (x, blocks, [RawMap(raw.y)]),
    ]
    found = {keys(x, blocks, None), *(keys(*each) for each in others)}
    assert len(found) == 1 + len(others)
    assert keys(images(), down(), None) in found  # only values differ
    assert len({keys(x, blocks, None), measured._key("image", (x, blocks, None), "cpu")}) == 2
    with torch.no_grad():
        assert keys(x, blocks, None) not in found
    with torch.autocast("cpu", torch.bfloat16):
        assert keys(x, blocks, None) not in found
    with torch.backends.cudnn.flags(benchmark=not torch.backends.cudnn.benchmark):
        assert keys(x, blocks, None) not in found
    assert all(json.loads(key)[0] == "features" for key in found)


def test_what_is_measured_is_like_what_is_computed_and_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, dtypes, strides and the need of gradients; and all of it is freed without the garbage collector."""
    x = images().detach()[:, :, ::2]
    given = x.requires_grad_(), [torch.randn(3).expand(2, 3), None, 7], norm(2), RawMap(torch.randn(2, 0, 3))
    seen: list[weakref.ref[Tensor]] = []

    def compute(*arguments: Any) -> Tensor:
        own, expected = list(measured._tensors(arguments)), list(measured._tensors(given))
        for mine, theirs in zip(own, expected, strict=True):
            for name in ("shape", "dtype", "requires_grad"):
                assert getattr(mine, name) == getattr(theirs, name)
            assert mine.stride() == theirs.stride()
            assert not mine.numel() or mine.data_ptr() != theirs.data_ptr()
        assert arguments[1][1:] == [None, 7]
        assert arguments[2][4:] == given[2][4:]
        result: Tensor = arguments[0].square().sum() * arguments[2].weight.sum()
        seen.extend(weakref.ref(t) for t in (*own, result))
        return result

    def timer(call: Callable[[], Any]) -> float:
        call()
        call()
        return 1.0

    gc.disable()
    try:
        with measuring(monkeypatch, timer):
            assert not measured.is_faster_as_node("features", compute, compute, *given)
        assert len(seen) == 4 * (1 + 1 + 4 + 1 + 1)
        assert all(each() is None for each in seen)
        assert given[0].grad is None
    finally:
        gc.enable()


def test_casts_of_what_is_measured_are_not_kept_by_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep them until the caller's pass ends. Otherwise its settings are those of the caller."""
    found: list[tuple[bool, torch.dtype]] = []

    def compute(x: Tensor, weight: Tensor) -> Tensor:
        y = torch.nn.functional.linear(x, weight)
        found.append((torch.is_autocast_cache_enabled(), y.dtype))
        return y

    x, weight = torch.randn(2, 3), torch.randn(4, 3).requires_grad_()
    with measuring(monkeypatch, Turns(0.5)):
        with torch.autocast("cpu", torch.bfloat16):
            assert measured.is_faster_as_node("linear", compute, compute, x, weight)
            assert torch.is_autocast_cache_enabled()
        assert measured.is_faster_as_node("linear", compute, compute, x, weight)
    assert found == [(False, torch.bfloat16)] * 2 + [(False, torch.float32)] * 2
