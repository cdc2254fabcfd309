"""The description of one network of the zoo, and how it is built. Does not import pytest."""

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
    """A small network, written as it is in public repositories.

    Attributes:
        builder: returns the module and example inputs, made from the global random state.
        style: the repository, or the way of writing a network, that it follows.
        chains: which modules may be computed in one operator: each a chain of module names in the order of their calls.
            An activation that is not a module is written as ``F.relu`` and the like. ``fuse`` may also fuse a part of a
            chain, or nothing, and any batch or instance norm of PyTorch by itself.
        not_fused: for each module that must be left alone, or must not be fused with its neighbour, the reason.
        calls: other uses of the module than ``module(*inputs)`` whose results must not change.
    """

    builder: Callable[[], tuple[nn.Module, Inputs]]
    style: str
    chains: tuple[tuple[str, ...], ...] = ()
    not_fused: Mapping[str, str] = field(default_factory=dict)
    calls: Mapping[str, Call] = field(default_factory=dict)

    def make(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[nn.Module, Inputs]:
        """The module in training mode and its inputs, the same for each seed. The global random state does not change.

        For a copy call it twice: some of these modules cannot be copied (the older weight norm), or lose their hooks.
        Parameters and running statistics of normalisations are not 1 and 0, and some scales are negative.
        """
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lazy layers and of the older weight norm
            torch.manual_seed(seed)
            module, inputs = self.builder()
            for part in module.modules():
                if isinstance(part, NORMS):
                    _randomise(part)
        return module.to(dtype), tuple(_to(value, dtype) for value in inputs)


def _randomise(norm: nn.Module) -> None:
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
    chains: Sequence[str] = (),
    not_fused: Mapping[str, str] | None = None,
    calls: Mapping[str, Call] | None = None,
) -> Callable[[Callable[[], tuple[nn.Module, Inputs]]], Callable[[], tuple[nn.Module, Inputs]]]:
    """A decorator that adds a builder to ``NETWORKS`` under its own name. ``chains``: names separated by spaces."""

    def register(builder: Callable[[], tuple[nn.Module, Inputs]]) -> Callable[[], tuple[nn.Module, Inputs]]:
        split = tuple(tuple(chain.split()) for chain in chains)
        NETWORKS[builder.__name__] = Network(builder, style, split, dict(not_fused or {}), dict(calls or {}))
        return builder

    return register


def images(size: int = 16, channels: int = 3, batch: int = 3) -> Tensor:
    """Normally distributed values of shape (batch, channels, size, size)."""
    return torch.randn(batch, channels, size, size)
