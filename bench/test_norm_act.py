"""norm_act over D's four activations, in training mode with running statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import core, subjects


@pytest.mark.parametrize("dtype", subjects.DTYPES)
@pytest.mark.parametrize("layout", subjects.LAYOUTS)
@pytest.mark.parametrize("size", [0, 1])
def test_norm_act(compare, batches, device, size, layout, dtype):
    if device.type == "cuda" and size == 0:
        pytest.skip("a GPU measures the larger batch only: compiling the baselines takes long")
    torch._dynamo.reset()
    batch = batches(size)

    def make(module: Any, peer_layout: str, options: dict[str, Any]) -> core.Peer:
        inputs = [x.requires_grad_() for x in subjects.activations(batch, peer_layout, dtype, device)]
        upstream = subjects.activations(batch, peer_layout, dtype, device)
        weights = [torch.ones(x.shape[1], device=device, requires_grad=True) for x in inputs]
        biases = [torch.zeros(x.shape[1], device=device, requires_grad=True) for x in inputs]
        running = [(torch.zeros(x.shape[1], device=device), torch.ones(x.shape[1], device=device)) for x in inputs]
        functions = [module.norm_act for _ in inputs]  # torch.compile gets a function of its own for each shape

        def forward() -> list[torch.Tensor]:
            return [
                function(x, w, b, *kept, **options)
                for function, x, w, b, kept in zip(functions, inputs, weights, biases, running, strict=True)
            ]

        return subjects.with_gradients(forward, [*inputs, *weights, *biases], upstream)

    one_side = core.nbytes(subjects.activations(batch, layout, dtype, torch.device("meta")))
    compare(
        {"operator": "norm_act", "layout": layout, "dtype": dtype, "batch": batch},
        subjects.peers(make, layout, device),
        {"forward": 2 * one_side, "backward": 3 * one_side, "both": 5 * one_side},
    )
