"""feature_l1 over D's four activations, with gradients for the generated images only, as in the perceptual loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import core, subjects


@pytest.mark.parametrize("dtype", subjects.DTYPES)
@pytest.mark.parametrize("layout", subjects.LAYOUTS)
@pytest.mark.parametrize("size", [0, 1])
def test_feature_l1(compare, batches, device, size, layout, dtype):
    if device.type == "cuda" and size == 0:
        pytest.skip("a GPU measures the larger batch only: compiling the baselines takes long")
    torch._dynamo.reset()
    batch = batches(size)

    def make(module: Any, peer_layout: str, options: dict[str, Any]) -> core.Peer:
        fakes = [x.requires_grad_() for x in subjects.activations(batch, peer_layout, dtype, device)]
        reals = subjects.activations(batch, peer_layout, dtype, device)
        function = module.feature_l1
        return subjects.with_gradients(lambda: function(fakes, reals, **options), fakes)

    one_side = core.nbytes(subjects.activations(batch, layout, dtype, torch.device("meta")))
    signs = one_side // torch.empty(0, dtype=subjects.DTYPES[dtype]).element_size() // 4  # the mask has 2 bits a number
    moved = {"forward": 2 * one_side + signs, "backward": one_side + signs, "both": 3 * one_side + 2 * signs}
    compare(
        {"operator": "feature_l1", "layout": layout, "dtype": dtype, "batch": batch},
        subjects.peers(make, layout, device),
        moved,
    )
