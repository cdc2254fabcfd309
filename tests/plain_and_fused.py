"""Plain PyTorch as the oracle for ``fuse(model)``: one way of calling, on the network as it was and on a fused copy."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import igan_fast

Way = Callable[[Any, Tensor], Any]

CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "grad": nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}

#: 64 K elements behind the convolution: enough that a fused operator has something to gain.
SHAPE = (4, 3, 6, 6)
TOLERANCE = 1e-9


class Net(nn.Module):
    """What everybody writes: three attributes."""

    def __init__(self, conv: nn.Module | None = None, norm: nn.Module | None = None, act: nn.Module | None = None):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1) if conv is None else conv
        self.norm = nn.BatchNorm2d(16) if norm is None else norm
        self.act = nn.ReLU() if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


def varied(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In dtype, with parameters and running statistics that are nobody's default."""
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


def facts(tensor: Tensor) -> dict[str, Any]:
    """All that can be seen of a tensor beside its values."""
    if tensor.layout != torch.strided:
        return {"layout": tensor.layout, "shape": tensor.shape}
    return {
        "type": "Parameter" if isinstance(tensor, nn.Parameter) else "Tensor",  # a subclass of our own may stand in
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
    """What a way returns, flat."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        return [leaf for part in result for leaf in leaves_of(part)]
    return [result]


def loss_of(leaves: Iterable[Any]) -> Tensor | None:
    """Every element that has a gradient, with a weight of its own."""
    terms = []
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            weight = torch.arange(leaf.numel(), dtype=torch.float64).cos().to(leaf.dtype).view(leaf.shape)
            terms.append((leaf * weight).sum())
    return torch.stack([term.double() for term in terms]).sum() if terms else None


def kept(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def record(
    way: Way,
    net: Any,
    base: Tensor,
    *,
    layout: Callable[[Tensor], Tensor] = lambda x: x,
    context: str = "grad",
    turns: str = "first taught again",
) -> dict[str, Any]:
    """What can be seen of ``way(net, x)``, called several times, backward each time.

    A place of a fused network may learn from the calls before. Taught: by the network's own forward, which is called
    just before with the same input and in the same context.
    """
    seen: dict[str, Any] = {}
    for turn in turns.split():
        torch.default_generator.manual_seed(7)  # alone: each absent device would note who asked
        if isinstance(net, nn.Module):
            net.zero_grad(set_to_none=True)
        if turn == "taught":
            with contextlib.suppress(Exception), CONTEXTS[context]():
                net(layout(base.detach().clone().requires_grad_(base.is_floating_point())))
        leaf = base.detach().clone().requires_grad_(base.is_floating_point())
        raised: BaseException | None = None
        leaves: list[Any] = []
        try:
            with CONTEXTS[context]():
                leaves = leaves_of(way(net, layout(leaf)))
            for index, value in enumerate(leaves):
                seen[f"{turn}, result {index}, facts"] = facts(value) if isinstance(value, Tensor) else type(value)
            loss = loss_of(leaves)
            if loss is not None:
                loss.backward()
        except Exception as error:
            raised = error
        seen[f"{turn}, raised"] = raised
        for index, value in enumerate(leaves):
            seen[f"{turn}, result {index}"] = kept(value)
        seen[f"{turn}, gradient of the input"] = kept(leaf.grad)
        if isinstance(net, nn.Module):
            for name, parameter in net.named_parameters():
                seen[f"{turn}, gradient of {name}"] = kept(parameter.grad)
                seen[f"{turn}, {name}"] = kept(parameter)
            for name, buffer in net.named_buffers():
                seen[f"{turn}, {name}"] = kept(buffer)
    return seen


def differences(actual: dict[str, Any], expected: dict[str, Any], tolerance: float = TOLERANCE) -> list[str]:
    """One line for each that is not plain PyTorch's."""
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
    """A fused copy, and a plain one."""
    fused = copy.deepcopy(plain)
    igan_fast.fuse(fused)
    return fused, copy.deepcopy(plain)


def refused(seen: dict[str, Any]) -> list[str]:
    """The turns whose backward pass would have needed what was changed in place."""
    raised = {k.split(",")[0]: v for k, v in seen.items() if isinstance(v, Exception)}
    return [turn for turn, error in raised.items() if "modified by an inplace operation" in str(error)]


def assert_alike(
    plain: nn.Module,
    way: Way,
    base: Tensor,
    *,
    fused: nn.Module | None = None,
    tolerance: float = TOLERANCE,
    **options: Any,
) -> None:
    """``way`` on a fused copy and on the plain network: results, errors, gradients, buffers.

    Keyword Args:
        fused: fused already, where the plain one cannot be copied.
        layout: what the input becomes before the call; gradients are those of what it was made from.
        context: one of ``CONTEXTS``.
        turns: how often it is called, and how, as in ``record``.
    """
    other = None
    if fused is None:
        other = plain  # as it was: both are copies
        fused, plain = pair(plain)
    expected = record(way, plain, base, **options)
    actual = record(way, fused, base, **options)
    freer = [turn for turn in refused(expected) if actual[f"{turn}, raised"] is None]
    if freer and other is not None:
        # PyTorch refuses for what it keeps itself. Who keeps something else may go on, and must be right then.
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            allowed = record(way, other, base, **options)
        for turn in freer:
            expected = {k: v for k, v in expected.items() if not k.startswith(turn)}
            expected |= {k: v for k, v in allowed.items() if k.startswith((f"{turn}, result", f"{turn}, gradient"))}
            actual = {k: v for k, v in actual.items() if not k.startswith(turn) or k in expected}
    found = differences(actual, expected, tolerance)
    assert not found, "\n".join(found)
