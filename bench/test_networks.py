"""Networks of others (``bench/networks.py``) after ``fuse``, against the same networks as written.

A training step here is a forward and a backward pass, with the mean of the squared outputs as loss.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import igan_fast
from bench import core
from bench.networks import NETWORKS
from bench.subjects import LAYOUTS

BATCHES = (1, 8)


def peer(network: nn.Module, x: torch.Tensor, training: bool) -> core.Peer:
    network.train(training)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        network(x).square().mean().backward()

    def evaluate() -> torch.Tensor:
        with torch.no_grad():
            result: torch.Tensor = network(x)
            return result

    return (step if training else evaluate), None


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", NETWORKS)
def test_network(compare, request, device, name, batch, training):
    build, shape = NETWORKS[name]
    if request.config.getoption("--quick"):
        batch, shape = 2, (shape[0], *(32 for _ in shape[1:])) if len(shape) == 3 else (shape[0], 4)
    x = torch.randn(batch, *shape, device=device)
    torch.manual_seed(0)
    plain = build().to(device)
    peers = {}
    for layout, memory_format in LAYOUTS.items():
        if x.dim() != 4 and layout != "contiguous":
            continue  # channels_last needs images
        given, suffix = x, "" if layout == "contiguous" else f", {layout}"
        written = copy.deepcopy(plain)
        if x.dim() == 4:
            given, written = x.contiguous(memory_format=memory_format), written.to(memory_format=memory_format)
        fused = copy.deepcopy(written)
        igan_fast.fuse(fused)
        peers |= {
            f"ours{suffix}": peer(fused, given, training),
            f"eager{suffix}": peer(written, given, training),
        }
    what = "training step" if training else "evaluation"
    scale = f"{shape[-1]}²" if x.dim() == 4 else f"{shape[-1]} frames"
    subject = {"kind": "example", "operator": f"{name}, {what}, {scale}", "layout": "", "dtype": "fp32", "batch": batch}
    compare(subject, peers, {})
