"""Compares a fused copy of a network with the plain one: a function calls each, and everything observable must agree.

A *way* is a function ``way(net, x)`` that calls a network, or its modules, and returns the results.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import igan_fast

Way = Callable[[Any, Tensor], Any]

CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "grad": nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}

#: Shape of the input. ``tests/fusion/conftest.py`` lets ``fuse`` take tensors of any size.
SHAPE = (4, 3, 6, 6)
TOLERANCE = 1e-9


class Net(nn.Module):
    """The usual network: convolution, normalisation and activation as three attributes."""

    def __init__(self, conv: nn.Module | None = None, norm: nn.Module | None = None, act: nn.Module | None = None):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1) if conv is None else conv
        self.norm = nn.BatchNorm2d(16) if norm is None else norm
        self.act = nn.ReLU() if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


def randomised(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The module in ``dtype``, with random parameters and running statistics, some parameters negative."""
    generator = torch.Generator().manual_seed(5)
    module.to(dtype)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.8 + 0.3)
        for parameter in module.parameters():
            parameter[..., ::2].neg_() if parameter.dim() else parameter
    return module


def images(shape: Iterable[int] = SHAPE, dtype: torch.dtype = torch.float64, seed: int = 6) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def metadata(tensor: Tensor) -> dict[str, Any]:
    """Everything observable of a tensor except its values."""
    if tensor.layout != torch.strided:
        return {"layout": tensor.layout, "shape": tensor.shape}
    return {
        "type": "Parameter" if isinstance(tensor, nn.Parameter) else "Tensor",  # or a subclass of ours
        "shape": tuple(tensor.shape),
        "stride": tensor.stride(),
        "offset": tensor.storage_offset(),
        "contiguous": tensor.is_contiguous(),
        "channels_last": tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last),
        "dtype": tensor.dtype,
        "device": tensor.device,
        "requires_grad": tensor.requires_grad,
        "is_leaf": tensor.is_leaf,
        "grad_fn": tensor.grad_fn is not None,
        "inference": tensor.is_inference(),
    }


def leaves_of(result: Any) -> list[Any]:
    """The results of a way as a flat list."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        return [leaf for part in result for leaf in leaves_of(part)]
    return [result]


def loss_of(leaves: Iterable[Any]) -> Tensor | None:
    """The sum of all elements that require gradients, each with its own weight; None where there are none."""
    terms = []
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            weight = torch.arange(leaf.numel(), dtype=torch.float64).cos().to(leaf.dtype).view(leaf.shape)
            terms.append((leaf * weight).sum())
    return torch.stack([term.double() for term in terms]).sum() if terms else None


def snapshot(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def record(
    way: Way,
    net: Any,
    base: Tensor,
    *,
    layout: Callable[[Tensor], Tensor] = lambda x: x,
    context: str = "grad",
    calls: str = "first taught again",
) -> dict[str, Any]:
    """Everything observable of ``way(net, x)`` and its backward pass, for several calls.

    Args:
        base: the input, a leaf tensor.
        layout: makes x from the input.
        context: one of ``CONTEXTS``.
        calls: the names of the calls, separated by spaces. Before the call named "taught" the network's own forward is
            called, so that the fused modules expect the normalisation and the activation.
    """
    seen: dict[str, Any] = {}
    for call in calls.split():
        torch.default_generator.manual_seed(7)  # not torch.manual_seed: it would also ask for each GPU
        if isinstance(net, nn.Module):
            net.zero_grad(set_to_none=True)
        if call == "taught":
            with contextlib.suppress(Exception), CONTEXTS[context]():
                net(layout(base.detach().clone().requires_grad_(base.is_floating_point())))
        leaf = base.detach().clone().requires_grad_(base.is_floating_point())
        raised: BaseException | None = None
        leaves: list[Any] = []
        try:
            with CONTEXTS[context]():
                leaves = leaves_of(way(net, layout(leaf)))
            for index, value in enumerate(leaves):
                seen[f"{call}, result {index}, metadata"] = (
                    metadata(value) if isinstance(value, Tensor) else type(value)
                )
            loss = loss_of(leaves)
            if loss is not None:
                loss.backward()
        except Exception as error:
            raised = error
        seen[f"{call}, raised"] = raised
        for index, value in enumerate(leaves):
            seen[f"{call}, result {index}"] = snapshot(value)
        seen[f"{call}, gradient of the input"] = snapshot(leaf.grad)
        if isinstance(net, nn.Module):
            for name, parameter in net.named_parameters():
                seen[f"{call}, gradient of {name}"] = snapshot(parameter.grad)
                seen[f"{call}, {name}"] = snapshot(parameter)
            for name, buffer in net.named_buffers():
                seen[f"{call}, {name}"] = snapshot(buffer)
    return seen


def differences(actual: dict[str, Any], expected: dict[str, Any], tolerance: float = TOLERANCE) -> list[str]:
    """One line for each observation that differs from plain PyTorch's."""
    found = []
    gradients = [v for k, v in expected.items() if "gradient" in k and v is not None and v.numel()]
    scale = max([1.0, *(v.abs().max().item() for v in gradients)])
    for key, e in expected.items():
        a = actual.get(key, "missing")
        if isinstance(a, BaseException) or isinstance(e, BaseException):
            if type(a) is not type(e):
                found.append(f"{key}: {a!r}; plain PyTorch {e!r}")
        elif isinstance(e, Tensor) and isinstance(a, Tensor):
            found += difference(key, a, e, tolerance, scale if "gradient" in key else 1.0)
        elif isinstance(e, float) and isinstance(a, float):
            if not math.isclose(a, e, rel_tol=tolerance, abs_tol=tolerance):
                found.append(f"{key}: {a}; plain PyTorch {e}")
        elif isinstance(e, dict) and isinstance(a, dict):
            found += [f"{key}: {n} is {a.get(n)}; plain PyTorch {v}" for n, v in e.items() if a.get(n) != v]
        elif type(a) is not type(e) or a != e:
            found.append(f"{key}: {short(a)}; plain PyTorch {short(e)}")
    found += [f"{key}: is there; plain PyTorch has none" for key in actual if key not in expected]
    return found


def short(value: Any) -> str:
    return f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:200]


def difference(key: str, a: Tensor, e: Tensor, tolerance: float, scale: float) -> list[str]:
    if a.shape != e.shape or a.dtype != e.dtype:
        return [f"{key}: {a.dtype} {tuple(a.shape)}; plain PyTorch {e.dtype} {tuple(e.shape)}"]
    if a.is_sparse or a.is_quantized or not e.numel():
        return []
    a, e = a.double(), e.double()
    scale = max(scale, e[e.isfinite()].abs().max().item() if e.isfinite().any() else 1.0)
    if torch.allclose(a, e, rtol=0, atol=tolerance * scale, equal_nan=True):
        return []
    apart, largest = (a - e).abs().max().item(), e.abs().max().item()
    return [f"{key}: differs by {apart:.1e}; plain PyTorch's largest is {largest:.1e}"]


def pair(plain: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A fused copy of the network, and a plain copy."""
    fused = copy.deepcopy(plain)
    igan_fast.fuse(fused)
    return fused, copy.deepcopy(plain)


def calls_refused_by_autograd(seen: dict[str, Any]) -> list[str]:
    """The calls that raised autograd's error "modified by an inplace operation"."""
    raised = {k.split(",")[0]: v for k, v in seen.items() if isinstance(v, Exception)}
    return [call for call, error in raised.items() if "modified by an inplace operation" in str(error)]


class ResultsKept(TorchFunctionMode):
    """Keeps the results of PyTorch's functions alive. ``allow_mutation_on_saved_tensors`` identifies a tensor by its
    ``id``, address and version, so it takes a new tensor in the place of a freed one for the old one."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.results.append(func(*args, **(kwargs or {})))
        return self.results[-1]


def assert_alike(
    plain: nn.Module,
    way: Way,
    base: Tensor,
    *,
    fused: nn.Module | None = None,
    tolerance: float = TOLERANCE,
    **options: Any,
) -> None:
    """Assert that ``way`` has the same results, errors, gradients and buffers on a fused copy and on the plain network.

    Args:
        fused: a fused network equal to ``plain``, where that cannot be copied.
        options: as of ``record``.
    """
    other = None
    if fused is None:
        other = plain  # unchanged: the two are copies
        fused, plain = pair(plain)
    expected = record(way, plain, base, **options)
    actual = record(way, fused, base, **options)
    allowed_when_fused = [call for call in calls_refused_by_autograd(expected) if actual[f"{call}, raised"] is None]
    if allowed_when_fused and other is not None:
        # PyTorch raises that error for a tensor that it has saved. A fused operator may have saved others; then it has
        # to compute the right gradients.
        with torch.autograd.graph.allow_mutation_on_saved_tensors(), ResultsKept():
            allowed = record(way, other, base, **options)
        for call in allowed_when_fused:
            expected = {k: v for k, v in expected.items() if not k.startswith(call)}
            expected |= {k: v for k, v in allowed.items() if k.startswith((f"{call}, result", f"{call}, gradient"))}
            actual = {k: v for k, v in actual.items() if not k.startswith(call) or k in expected}
    found = differences(actual, expected, tolerance)
    assert not found, "\n".join(found)
