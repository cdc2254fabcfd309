"""Helpers to compare a fused network with a plain one on given inputs."""

from __future__ import annotations

import copy

import torch
from oracles import error
from torch import Tensor, nn

import igan_fast

__all__ = ["X", "assert_alike", "block", "outputs_of", "pair", "tensors_of"]


def tensors_of(result) -> list[Tensor]:
    """All tensors in the outputs of a network."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        result = list(result.values())
    return [tensor for part in result for tensor in tensors_of(part)] if isinstance(result, list | tuple) else []


def outputs_of(module: nn.Module, inputs) -> list[Tensor]:
    """The outputs, with the same random numbers each time, for dropout."""
    torch.manual_seed(3)
    return tensors_of(module(*inputs))


def assert_alike(actual: nn.Module, expected: nn.Module, inputs, calls=(), tolerance: float = 1e-9) -> None:
    """Assert that two networks have the same outputs, gradients of inputs and parameters, and buffers."""
    results = []
    for module in (actual, expected):
        given = [v.clone().requires_grad_() if torch.is_tensor(v) and v.is_floating_point() else v for v in inputs]
        outputs = outputs_of(module, given)
        for call in calls:
            outputs += tensors_of(call(module, tuple(v.detach() if torch.is_tensor(v) else v for v in given)))
        leaves = [t for t in [*given, *module.parameters()] if torch.is_tensor(t) and t.requires_grad]
        weight = torch.Generator().manual_seed(4)
        loss = sum(
            (t * torch.randn(t.shape, generator=weight, dtype=torch.float64).to(t)).sum()
            for t in outputs
            if t.requires_grad
        )
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        results.append((outputs, grads, list(module.buffers())))
    (outputs, grads, buffers), (expected_outputs, expected_grads, expected_buffers) = results
    for a, e in zip(outputs, expected_outputs, strict=True):
        assert error(a, e) < tolerance
        assert a.stride() == e.stride()
    scale = max([1.0, *(g.abs().max().item() for g in expected_grads if g is not None and g.numel())])
    for a, e in zip(grads, expected_grads, strict=True):
        assert (a is None) == (e is None)
        if a is not None and a.numel():
            assert (a - e).abs().max().item() < tolerance * scale
    for a, e in zip(buffers, expected_buffers, strict=True):
        assert error(a, e) < tolerance


def block(*, act: nn.Module | None = None, norm: type[nn.Module] = nn.BatchNorm2d, **options) -> nn.Sequential:
    """A convolution, a normalisation and an activation."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, **options), norm(4), act or nn.LeakyReLU(0.2, inplace=True))


def pair(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A fused copy, and the plain network."""
    fused = copy.deepcopy(model)
    assert len(igan_fast.fuse(fused).fused) > 0
    return fused, model


X = torch.randn(4, 3, 6, 5, dtype=torch.float64)
