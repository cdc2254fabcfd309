"""norm_act over D's four activations, in training mode with running statistics; alone, and with film."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench import core, subjects
from igan_fast import ops
from igan_fast.reference import ops as reference


@pytest.mark.parametrize("dtype", subjects.DTYPES)
@pytest.mark.parametrize("layout", subjects.LAYOUTS)
@pytest.mark.parametrize("size", [0, 1])
def test_norm_act(compare, batches, device, size, layout, dtype):
    if device.type == "cuda" and size == 0:
        pytest.skip("a GPU measures the larger batch only: compiling the baselines takes long")
    torch._dynamo.reset()
    batch = batches(size)

    def make(module: Any, peer_layout: str, options: dict[str, Any]) -> core.Peer:
        return peer_of(module, batch, peer_layout, dtype, device, options, film=False)

    compare(
        {"operator": "norm_act", "layout": layout, "dtype": dtype, "batch": batch},
        subjects.peers(make, layout, device),
        bytes_moved(batch, layout, dtype),
    )


@pytest.mark.parametrize("dtype", subjects.DTYPES)
@pytest.mark.parametrize("layout", subjects.LAYOUTS)
def test_norm_act_with_film(compare, batches, device, layout, dtype):
    """One further baseline, "composed", is the fused operator without film, and PyTorch's scale and shift after it."""
    torch._dynamo.reset()
    batch = batches(1)

    def make(module: Any, peer_layout: str, options: dict[str, Any]) -> core.Peer:
        return peer_of(module, batch, peer_layout, dtype, device, options, film=True)

    peers = subjects.peers(make, layout, device)
    peers["composed"] = make(Composed(), layout, {})
    compare(
        {"operator": "norm_act, film", "layout": layout, "dtype": dtype, "batch": batch},
        peers,
        bytes_moved(batch, layout, dtype),
    )


class Composed:
    """The fused operator without film, then the reference's scale and shift."""

    def norm_act(self, *tensors: Tensor | None, film: Tensor, **options: Any) -> Tensor:
        return reference.modulate(ops.norm_act(*tensors, **options), film)


def peer_of(
    module: Any, batch: int, layout: str, dtype: str, device: torch.device, options: dict[str, Any], *, film: bool
) -> core.Peer:
    """A peer that calls ``module.norm_act`` for each of D's activations. Film has columns of one matrix for each, as a
    linear layer returns it."""
    inputs = [x.requires_grad_() for x in subjects.activations(batch, layout, dtype, device)]
    upstream = subjects.activations(batch, layout, dtype, device)
    weights = [torch.ones(x.shape[1], device=device, requires_grad=True) for x in inputs]
    biases = [torch.zeros(x.shape[1], device=device, requires_grad=True) for x in inputs]
    running = [(torch.zeros(x.shape[1], device=device), torch.ones(x.shape[1], device=device)) for x in inputs]
    columns = [2 * x.shape[1] for x in inputs]
    films = [t.requires_grad_() for t in torch.randn(batch, sum(columns), device=device).split(columns, 1)]
    functions = [module.norm_act for _ in inputs]  # torch.compile gets a function of its own for each shape

    def forward() -> list[Tensor]:
        return [
            function(x, w, b, *kept, **options, **({"film": scales} if film else {}))
            for function, x, w, b, kept, scales in zip(functions, inputs, weights, biases, running, films, strict=True)
        ]

    return subjects.with_gradients(forward, [*inputs, *weights, *biases, *(films if film else [])], upstream)


def bytes_moved(batch: int, layout: str, dtype: str) -> dict[str, int]:
    """The fewest bytes that each pass has to move. Film has few values, and is not counted."""
    one_side = core.nbytes(subjects.activations(batch, layout, dtype, torch.device("meta")))
    return {"forward": 2 * one_side, "backward": 3 * one_side, "both": 5 * one_side}
