"""conv_norm_act as two layers of D and one of G: training mode with gradients, and evaluation mode without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import core, subjects
from igan_fast.devices import has_bfloat16


@pytest.mark.parametrize("dtype", subjects.DTYPES)
@pytest.mark.parametrize("layout", subjects.LAYOUTS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_conv_norm_act(compare, batches, device, layout, dtype, training):
    torch._dynamo.reset()
    if dtype == "bfloat16" and device.type == "cpu" and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16 instructions: PyTorch would emulate the convolutions")
    batch = batches(0)
    kind = subjects.DTYPES[dtype]

    def make(module: Any, peer_layout: str, options: dict[str, Any]) -> core.Peer:
        layers = []
        for (c_in, c_out, size), transposed in (
            ((64, 128, 64), False),
            ((128, 256, 32), False),
            ((256, 128, 16), True),
        ):
            shape = (c_in, c_out, 5, 5) if transposed else (c_out, c_in, 5, 5)
            x = torch.randn(batch, c_in, size, size, device=device).to(
                kind, memory_format=subjects.LAYOUTS[peer_layout]
            )
            conv_weight = (torch.randn(shape, device=device) * 0.02).to(kind)
            leaves = [x, conv_weight, torch.ones(c_out, device=device), torch.zeros(c_out, device=device)]
            running = torch.zeros(c_out, device=device), torch.ones(c_out, device=device)
            settings = {"transposed": transposed, "output_padding": int(transposed), "training": training, **options}
            layers.append((module.conv_norm_act, [t.requires_grad_(training) for t in leaves], running, settings))

        def forward() -> list[torch.Tensor]:
            with torch.set_grad_enabled(training):
                return [function(*leaves, *running, **settings) for function, leaves, running, settings in layers]

        if not training:
            return forward, None
        upstream = [torch.randn_like(y) for y in forward()]
        return subjects.with_gradients(forward, [t for _, leaves, _, _ in layers for t in leaves], upstream)

    mode = "training" if training else "eval"
    compare(
        {"operator": f"conv_norm_act, {mode}", "layout": layout, "dtype": dtype, "batch": batch},
        subjects.peers(make, layout, device),
        {},
    )
