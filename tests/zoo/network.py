"""What the zoo says of a network, and how it is built: no pytest here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[Any, ...]
Call = Callable[[nn.Module, Inputs], Any]
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)

NETWORKS: dict[str, Network] = {}


@dataclass(frozen=True)
class Network:
    """A small network in somebody's usual spelling.

    Attributes:
        builder: makes (module, example inputs), from the global random state.
        style: where one meets this spelling.
        runs: what a right fuse may make one operator of, each a chain of module names in the order in which they are
            called; an activation that is no module stands as ``F.relu`` and the like. It may fuse a part of a chain, or
            nothing, and any batch or instance norm of torch's by itself.
        kept: by module name, why it must stay as it is, or must not be joined with its neighbour.
        calls: other uses of the module than ``module(*inputs)`` that have to give what they gave before.
    """

    builder: Callable[[], tuple[nn.Module, Inputs]]
    style: str
    runs: tuple[tuple[str, ...], ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    calls: Mapping[str, Call] = field(default_factory=dict)

    def make(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[nn.Module, Inputs]:
        """The module in training mode and its inputs, always the same for a seed; the global random state stays.

        Make it twice for a copy: some of these cannot be copied (weight norm of old), or not with their hooks.
        Parameters and running statistics of normalisations are far from 1 and 0, some scales negative.
        """
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lazy layers, and weight norm of old: others use them
            torch.manual_seed(seed)
            module, inputs = self.builder()
            for part in module.modules():
                if isinstance(part, NORMS):
                    _disturb(part)
        return module.to(dtype), tuple(_to(value, dtype) for value in inputs)


def _disturb(norm: nn.Module) -> None:
    with torch.no_grad():
        for name, tensor in [*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)]:
            if name == "running_var":
                tensor.uniform_(0.5, 2.0)
            elif name == "weight":
                tensor.uniform_(-0.5, 1.5)
            elif name in ("bias", "running_mean"):
                tensor.uniform_(-0.5, 0.5)


def _to(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def network(
    style: str,
    runs: Sequence[str] = (),
    kept: Mapping[str, str] | None = None,
    calls: Mapping[str, Call] | None = None,
) -> Callable[[Callable[[], tuple[nn.Module, Inputs]]], Callable[[], tuple[nn.Module, Inputs]]]:
    """Put a builder into ``NETWORKS`` under its own name. ``runs``: names with a space between them."""

    def register(builder: Callable[[], tuple[nn.Module, Inputs]]) -> Callable[[], tuple[nn.Module, Inputs]]:
        chains = tuple(tuple(run.split()) for run in runs)
        NETWORKS[builder.__name__] = Network(builder, style, chains, dict(kept or {}), dict(calls or {}))
        return builder

    return register


def images(size: int = 16, channels: int = 3, batch: int = 3) -> Tensor:
    """(batch, channels, size, size), normally distributed."""
    return torch.randn(batch, channels, size, size)
