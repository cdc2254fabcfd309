"""IGAN_FAST_IMPL=reference: every operator is PyTorch's own, bit for bit: results, gradients, statistics."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operator_samples import CALLS
from preloaded import run_preloaded
from torch import Tensor

from igan_fast import ops
from igan_fast.ops import backend, conv_act, gather_images, layout
from igan_fast.ops.convolution import ConvSettings, convolve, plan_of
from igan_fast.reference import ops as reference


@pytest.fixture(autouse=True)
def switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_DEFAULT", "reference")


def norm(module: Any, x: Tensor, w: Tensor, b: Tensor, **options: Any) -> list[Tensor]:
    kept = torch.zeros(16), torch.ones(16)
    return [module.norm_act(x, b, b, *kept, **options), *kept]


def block(module: Any, x: Tensor, w: Tensor, b: Tensor, **options: Any) -> list[Tensor]:
    kept = torch.zeros(16), torch.ones(16)
    return [module.conv_norm_act(x, w, b, b, *kept, conv_bias=b, **options), *kept]


def plain_conv_act(x: Tensor, w: Tensor, b: Tensor, **options: Any) -> Tensor:
    slope = options.pop("negative_slope", 0.2)
    convolve = F.conv_transpose2d if options.pop("transposed", False) else F.conv2d
    options.pop("writable", None)
    return F.leaky_relu(convolve(x, w, b, **{"stride": 2, "padding": 2} | options), slope)


TO_FEW_CHANNELS = ConvSettings(2, transposed=True, stride=2, padding=2, output_padding=1)


def both(function: Callable[..., Any], **options: Any) -> list[Callable[..., Any]]:
    return [lambda *t, m=m: function(m, *t, **options) for m in (ops, reference)]


PAIRS: dict[str, list[Callable[..., Any]]] = {name: both(call) for name, call in CALLS.items()} | {
    "feature_l1": both(lambda m, x, w, b: m.feature_l1([x, [w]], [x.flip(0), [w * b[0]]], [1, 2])),
    "norm_act": both(norm, groups=2),
    "norm_act, eval": both(norm, training=False, negative_slope=0.0),
    "conv_norm_act": both(block, groups=2, average_groups=True),
    "conv_norm_act, eval": both(block, training=False),
    "conv_norm_act, transposed": both(block, transposed=True, output_padding=1),
    "conv_norm_act, transposed, eval": both(block, transposed=True, output_padding=1, training=False),
    "conv_act": [conv_act.conv_act, plain_conv_act],
    "conv_act, relu": [
        lambda *t, f=f: f(*t, negative_slope=0.0, writable=True) for f in (conv_act.conv_act, plain_conv_act)
    ],
    "conv_act, transposed": [
        lambda *t, f=f: f(*t, transposed=True, output_padding=1) for f in (conv_act.conv_act, plain_conv_act)
    ],
    "convolve to few channels": [
        lambda x, w, b: convolve(x, w[:, :3], b[:3], TO_FEW_CHANNELS, differentiable=True),
        lambda x, w, b: F.conv_transpose2d(x, w[:, :3], b[:3], 2, 2, 1),
    ],
    "channels_last": [
        lambda x, w, b: layout.channels_last(x),
        lambda x, w, b: x.contiguous(memory_format=torch.channels_last),
    ],
    "channels_first": [lambda x, w, b: layout.channels_first(x), lambda x, w, b: x.contiguous()],
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_bit_for_bit(name: str, requires_grad: bool, form: torch.memory_format, autocast: bool) -> None:
    given = [torch.randn(4, 16, 8, 8).contiguous(memory_format=form), torch.randn(16, 16, 5, 5), torch.rand(16)]
    found = []
    for function in PAIRS[name]:
        tensors = [t.clone().requires_grad_(requires_grad) for t in given]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            results = function(*tensors)
        results = list(results) if isinstance(results, list) else [results]
        if requires_grad:
            y = results[0]
            results += torch.autograd.grad((y * y.detach().cos()).sum(), tensors, allow_unused=True)
        found.append(results)
    for a, e in zip(*found, strict=True):
        assert (a is None) == (e is None)
        if e is not None:
            assert torch.equal(a, e)
            assert a.dtype == e.dtype
            assert a.stride() == e.stride()


def test_none_of_our_kernels_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(16, 32, 32, 32), torch.randn(64, 32, 5, 5)
    settings = ConvSettings(2, stride=2, padding=2)

    def answers() -> list[bool]:
        return [
            plan_of(x, w, None, settings).implementation.own_kernels,
            layout._can_transpose(x, torch.contiguous_format),
        ]

    assert not any(answers())
    monkeypatch.setattr(backend, "_DEFAULT", "auto")
    if backend.has_native_cpu():
        assert all(answers())


def test_gather_images() -> None:
    images, index = torch.randint(0, 256, (5, 4, 6, 3), dtype=torch.uint8), torch.tensor([4, 0, 0])
    mirrored = torch.tensor([True, False, True])
    batch = gather_images.gather_images(images, index, mirrored)
    picked = torch.stack([images[4].flip(1), images[0], images[0].flip(1)]).permute(0, 3, 1, 2)
    assert torch.equal(batch, picked.float() / 127.5 - 1)


def test_the_variable_itself() -> None:
    code = """
import torch, torch.nn.functional as F, igan_fast
from igan_fast.ops.conv_act import conv_act
torch.manual_seed(0)
ours = igan_fast.IterativeGAN(image_size=32, attributes=4, latent=5, width=16)
theirs = igan_fast.reference.IterativeGAN(image_size=32, attributes=4, latent=5, width=16)
theirs.load_state_dict(ours.state_dict())
batch = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randint(2, (4, 4)).float(), torch.rand(4, 5)
steps = igan_fast.TrainStep(ours), igan_fast.reference.TrainStep(theirs)
for _ in range(2):
    for a, e in zip(steps[0](*batch), steps[1](*batch)):
        assert torch.equal(a, e)
for step in steps:
    step.extra_discriminator(*batch), step.extra_generator(*batch[1:])
for a, e in zip((*ours.parameters(), *ours.buffers()), (*theirs.parameters(), *theirs.buffers())):
    assert torch.equal(a, e)
x, w = torch.randn(4, 16, 8, 8), torch.randn(16, 16, 5, 5)
assert torch.equal(conv_act(x, w, None), F.leaky_relu(F.conv2d(x, w, None, 2, 2), 0.2))
"""
    environment = os.environ | {"IGAN_FAST_IMPL": "reference"}
    finished = run_preloaded(code, environment=dict(environment))
    assert finished.returncode == 0, finished.stderr
