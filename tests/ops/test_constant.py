"""Frozen networks: what is computed from weights alone is kept, and never used after they have changed."""

from __future__ import annotations

import copy
import gc
import importlib
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from oracles import error
from torch import Tensor, nn

import igan_fast
from igan_fast import reference
from igan_fast.layers import ConvNormAct2d
from igan_fast.ops import backend, constant
from igan_fast.ops.constant import derived, freeze, is_constant
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.convolution import ConvSettings, convolve

NATIVE = backend.has_native_cpu()


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was computed from weights: "folded" weights, and filters ("winograd")."""
    names: list[str] = []

    def watched(name: tuple[Any, ...], sources: tuple[Tensor | None, ...], compute: Callable[[], Any]) -> Any:
        return derived(name, sources, lambda: names.append(name[0]) or compute())

    for module in ("conv_norm_act", "convolution.filters"):
        monkeypatch.setattr(importlib.import_module(f"igan_fast.ops.{module}"), "derived", watched)
    return names


def block(channels: int = 16) -> ConvNormAct2d:
    torch.manual_seed(0)
    made = ConvNormAct2d(channels, channels, 5, stride=2, padding=2)
    for parameter in made.parameters():
        parameter.normal_(std=0.3)
    norm = made.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return made.eval()


def expected(made: nn.Module, x: Tensor) -> Tensor:
    """The same block in float64, by PyTorch's functions, from the weights as they are now."""
    twin = reference.layers.ConvNormAct2d(x.shape[1], made.conv.weight.shape[0], 5, stride=2, padding=2)
    twin.load_state_dict(made.state_dict())
    result: Tensor = twin.double().eval()(x.double())
    return result


@pytest.mark.every_build
@pytest.mark.parametrize("batch", [1, 3])
def test_a_frozen_network_computes_the_same_and_from_its_weights_only_once(batch: int, computed: list[str]) -> None:
    made = freeze(block())
    x = torch.randn(batch, 16, 16, 16)
    for _ in range(3):
        assert error(made(x), expected(made, x)) < 1e-5
    assert computed.count("folded") == (1 if NATIVE else 0)  # PyTorch's functions fold nothing
    assert computed.count("winograd") <= 1
    assert not any(parameter.requires_grad for parameter in made.parameters())


@pytest.mark.every_build
def test_without_freeze_nothing_is_kept(computed: list[str]) -> None:
    made, x = block(), torch.randn(2, 16, 16, 16)
    made(x), made(x)
    assert computed.count("folded") == (2 if NATIVE else 0)
    assert not is_constant(made.conv.weight)


def by_fused_adam(made: nn.Module) -> None:
    """PyTorch does not count the changes that this optimiser makes."""
    made.requires_grad_(True)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.1, fused=True)
    for parameter in made.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    made.requires_grad_(False)


def statistics_of_a_batch(made: nn.Module) -> None:
    made.train()
    made(torch.randn(8, 16, 16, 16) * 3 + 1)
    made.eval()


def new_data(made: nn.Module) -> None:
    made.conv.weight.data = torch.randn_like(made.conv.weight)


def one_norm_weight(made: nn.Module) -> None:
    made.norm.weight.data[3] = 9.0


CHANGES: dict[str, Callable[[Any], object]] = {
    "load_state_dict": lambda made: made.load_state_dict({k: t * 2 for k, t in made.state_dict().items()}),
    "in place": lambda made: made.conv.weight.mul_(3),
    "through .data": lambda made: made.conv.weight.data.mul_(3),
    "new data": new_data,
    "one value of the norm's weight": one_norm_weight,
    "the norm's bias": lambda made: made.norm.bias.data.add_(1),
    "fused Adam": by_fused_adam,
    "running statistics": statistics_of_a_batch,
    "another buffer": lambda made: setattr(made.norm, "running_mean", torch.ones(16)),
    "no norm weight": lambda made: setattr(made.norm, "weight", None),
}


@pytest.mark.every_build
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_seen(change: str) -> None:
    made, x = freeze(block()), torch.randn(2, 16, 16, 16)
    before = made(x)
    CHANGES[change](made)
    if change == "no norm weight":
        made.norm.weight, expect = None, None
        twin = block()
        twin.load_state_dict({**made.state_dict(), "norm.weight": torch.ones(16)})
        expect = expected(twin, x)
    else:
        expect = expected(made, x)
    for _ in range(2):
        assert error(made(x), expect) < 1e-5
    assert error(before, expect) > 1e-2


@pytest.mark.every_build
def test_weights_that_are_trained_again_are_no_longer_constant(computed: list[str]) -> None:
    made, x = freeze(block()), torch.randn(2, 16, 16, 16)
    made(x)
    made.requires_grad_(True)
    assert not is_constant(made.conv.weight)
    made.requires_grad_(False)  # only ``freeze`` brings it back
    computed.clear()
    assert error(made(x), expected(made, x)) < 1e-5
    made(x)
    assert computed.count("folded") == (2 if NATIVE else 0)
    freeze(made)
    assert is_constant(made.conv.weight)


@pytest.mark.every_build
def test_a_norm_that_is_trained_alone_is_seen(computed: list[str]) -> None:
    made, x = freeze(block()), torch.randn(2, 16, 16, 16)
    made(x)
    made.norm.weight.requires_grad_(True)
    with torch.enable_grad():
        made(x).square().sum().backward()
    grad = made.norm.weight.grad
    assert grad is not None
    assert grad.abs().max() > 0
    torch.optim.Adam([made.norm.weight], lr=0.1, fused=True).step()
    made.norm.weight.requires_grad_(False)
    assert error(made(x), expected(made, x)) < 1e-5


@pytest.mark.every_build
@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad])
def test_gradients_of_the_input_pass_through_a_frozen_generator(first: Callable[[], Any]) -> None:
    """As where a latent code is optimised. The kept results may come from inference mode."""
    torch.manual_seed(0)
    model = freeze(igan_fast.IterativeGAN(image_size=32, width=16, attributes=3, latent=5))
    plain = reference.IterativeGAN(image_size=32, width=16, attributes=3, latent=5)
    plain.load_state_dict(model.state_dict())
    plain.double().eval()
    z, c = torch.rand(2, 5), torch.rand(2, 3)
    with first():
        model.generate(z, c)
    with torch.enable_grad():
        found, right = (t.clone().requires_grad_() for t in (z, z.double()))
        model.generate(found, c).sum().backward()
        plain.generate(right, c.double()).sum().backward()
    assert found.grad is not None
    assert right.grad is not None
    assert error(found.grad, right.grad) < 1e-4


@pytest.mark.every_build
@pytest.mark.parametrize("size", [32, 48])
def test_all_that_a_frozen_model_does_equals_the_reference(size: int) -> None:
    torch.manual_seed(0)
    model = freeze(igan_fast.IterativeGAN(image_size=size, width=16, attributes=3, latent=5))
    plain = reference.IterativeGAN(image_size=size, width=16, attributes=3, latent=5)
    plain.load_state_dict(model.state_dict())
    plain.double().eval()
    x, z, c = torch.rand(1, 3, size, size) * 2 - 1, torch.rand(1, 5), torch.rand(1, 3)
    for _ in range(2):
        assert error(model.generate(z, c), plain.generate(z.double(), c.double())) < 1e-5
        assert error(model.rebuild(x), plain.rebuild(x.double())) < 1e-5


@pytest.mark.every_build
def test_a_moved_or_cast_network_is_right() -> None:
    made, x = freeze(block()), torch.randn(2, 16, 16, 16)
    made(x)
    assert error(made.double()(x.double()), expected(made, x)) < 1e-12
    made.float().to(memory_format=torch.channels_last)
    assert error(made(x), expected(made, x)) < 1e-5
    assert made.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.every_build
def test_a_copy_and_a_file_hold_nothing_that_was_kept() -> None:
    def size(network: nn.Module) -> int:
        file = io.BytesIO()
        torch.save(network, file)
        return len(file.getvalue())

    made, x = block(), torch.randn(2, 16, 16, 16)
    before = size(made)
    freeze(made)(x)
    assert abs(size(made) - before) < 100
    other = copy.deepcopy(made)
    assert not is_constant(other.conv.weight)
    other.conv.weight.mul_(2)
    assert error(other(x), expected(other, x)) < 1e-5


@pytest.mark.every_build
def test_only_a_network_can_be_frozen() -> None:
    with pytest.raises(TypeError, match=r"module: found a list, expected an nn\.Module"):
        freeze([block()])  # type: ignore[type-var]


@pytest.mark.every_build
def test_what_was_kept_goes_with_the_network() -> None:
    gc.collect()
    before = len(constant._constants)
    made = freeze(block())
    made(torch.randn(2, 16, 16, 16))
    assert len(constant._constants) > before
    del made
    gc.collect()
    assert len(constant._constants) == before


@pytest.mark.every_build
def test_threads_share_what_is_kept() -> None:
    made, x = freeze(block()), torch.randn(2, 16, 16, 16)
    right, found = expected(made, x), []

    def use() -> None:
        with torch.no_grad():
            found.extend(made(x) for _ in range(5))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(error(y, right) < 1e-5 for y in found)


@pytest.mark.every_build
def test_a_fused_network_of_others_can_be_frozen(computed: list[str]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    plain(torch.randn(4, 32, 16, 16))
    fused = copy.deepcopy(plain)
    igan_fast.fuse(fused)
    freeze(fused)
    plain.double().eval()
    x = torch.randn(1, 32, 16, 16)
    for _ in range(2):
        assert error(fused(x), plain(x.double())) < 1e-5
    folds = computed.count("folded")
    fused(x)
    assert computed.count("folded") == folds


def test_a_convolution_without_normalisation_keeps_its_filter(computed: list[str]) -> None:
    layer = freeze(nn.Conv2d(32, 32, 3, padding=1))
    settings = ConvSettings.cached(2, stride=1, padding=1)
    x = torch.randn(1, 32, 16, 16)
    right = layer.double()(x.double())
    layer.float()
    for _ in range(3):
        assert error(convolve(x, layer.weight, layer.bias, settings), right) < 1e-5
    assert computed.count("winograd") <= 1


def test_a_result_of_another_name_or_of_other_sources_is_computed() -> None:
    layer = freeze(nn.Linear(3, 2))
    calls: list[str] = []

    def compute(name: str) -> Callable[[], Tensor]:
        return lambda: calls.append(name) or torch.ones(1)

    for name in ("a", "b", "a", "b"):
        derived(name, (layer.weight,), compute(name))
    assert calls == ["a", "b"]
    derived("c", (layer.weight, layer.bias), compute("c"))
    derived("c", (layer.weight, None), compute("c"))
    derived("c", (layer.weight, layer.bias), compute("c"))
    assert calls == ["a", "b", "c", "c", "c"]
    with torch.inference_mode():
        made_here = torch.ones(2)
    for _ in range(2):  # PyTorch does not count the changes of such a tensor
        derived("d", (layer.weight, made_here), compute("d"))
    assert calls[-2:] == ["d", "d"]


def test_weights_with_nan_are_computed_from_each_time() -> None:
    made = freeze(block())
    made.norm.running_mean[0] = float("nan")
    x = torch.randn(1, 16, 16, 16)
    for _ in range(2):
        y = made(x)
        assert y[:, 0].isnan().all()
        assert not y[:, 1:].isnan().any()


def test_nothing_is_kept_where_a_compiler_records(computed: list[str]) -> None:
    made, x = freeze(block()), torch.randn(2, 16, 16, 16)
    torch._dynamo.reset()
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    assert error(compiled(x), expected(made, x)) < 1e-5
    made.conv.weight.data.mul_(2)
    assert error(compiled(x), expected(made, x)) < 1e-5


class Head(nn.Module):
    """What G and D consist of: a linear layer, a convolution with its activation, a block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(3, 16, 5, 2, 2)
        self.block = block()
        self.last = igan_fast.layers.Linear(16 * 4 * 4, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = conv_act(x, self.first.weight, self.first.bias)
        return self.last(self.block(h).flatten(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_under_autocast_the_casts_of_frozen_weights_are_kept(
    dtype: torch.dtype, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    casts: list[torch.dtype] = []

    def watched(name: Any, sources: tuple[Tensor | None, ...], compute: Callable[[], Any]) -> Any:
        return derived(name, sources, lambda: casts.append(name[1]) or compute())

    monkeypatch.setattr(constant, "derived", watched)
    plain, frozen = Head().eval(), freeze(Head().eval().to(memory_format=layout))
    x = torch.randn(2, 3, 16, 16).contiguous(memory_format=layout)
    exact = copy.deepcopy(plain).double()(x.double())
    with torch.autocast("cpu", dtype):
        allowed = max(2 * error(plain(x), exact), torch.finfo(dtype).eps)
        for _ in range(3):
            assert error(frozen(x), exact) <= allowed
            assert frozen(x).dtype == dtype
        weights = 3 if NATIVE else 1  # PyTorch's functions cast for themselves
        assert len(casts) >= weights
        before = len(casts)
        frozen(x)
        assert len(casts) == before
        for parameter in frozen.parameters():
            parameter.mul_(2)  # a change is seen
        twice = copy.deepcopy(plain).double()
        for parameter in twice.parameters():
            parameter.mul_(2)
        assert error(frozen(x), twice(x.double())) <= 4 * allowed
    assert error(frozen(x), twice(x.double())) < 1e-5  # in float32 again
