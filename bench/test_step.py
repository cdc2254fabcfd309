"""The whole training iteration against the reference and the best that plain PyTorch can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import igan_fast
from bench import core
from bench.plain_step import PlainStep
from igan_fast import reference
from igan_fast.graphs import GraphedStep

#: image size, width, batch on a CPU, batches on a GPU: the paper's size, and for a CPU also a quarter of it.
SIZES = {"128² width 64": (128, 64, 16, (256, 64)), "64² width 32": (64, 32, 64, ())}


def batch_of(size: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    images = (torch.rand(batch, 3, size, size, device=device) * 2 - 1).contiguous(memory_format=torch.channels_last)
    return images, (torch.rand(batch, 40, device=device) < 0.5).float(), torch.rand(batch, 100, device=device) * 2 - 1


def iteration_of(step: Callable[..., Any], batch: tuple[Tensor, ...]) -> core.Peer:
    """One iteration a run; an iteration has no forward and backward of its own."""
    return (lambda: step(*batch)), None


def flops_of(size: int, width: int, batch: int, device: torch.device) -> int:
    """Of the convolutions and matrix products of one iteration, as the reference computes it, two a multiply-add."""
    step = reference.TrainStep(reference.IterativeGAN(image_size=size, width=width).to(device))
    with FlopCounterMode(display=False) as counter:
        step(*batch_of(size, batch, device))
    return counter.get_total_flops()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "index"), [("128² width 64", 0), ("128² width 64", 1), ("64² width 32", 0)])
def test_step(compare, request, device, name, index, precision):
    torch._dynamo.reset()
    size, width, batch, on_gpu = SIZES[name]
    if device.type == "cuda":
        if index >= len(on_gpu):
            pytest.skip("this size is for a CPU")
        batch = on_gpu[index]
    elif index:
        pytest.skip("this batch is for a GPU")
    elif precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 instructions")
    if request.config.getoption("--quick"):
        size, width, batch = 32, 4, 4
    config = igan_fast.StepConfig(precision=precision)
    images, labels, noise = batch_of(size, batch, device)
    contiguous = (images.contiguous(), labels, noise)

    def model(wing: Any) -> Any:
        torch.manual_seed(0)
        return wing.IterativeGAN(image_size=size, width=width).to(device)

    ours = igan_fast.TrainStep(model(igan_fast), config)
    peers = {
        "ours": iteration_of(GraphedStep(ours) if device.type == "cuda" else ours, (images, labels, noise)),
        "eager, reference": iteration_of(reference.TrainStep(model(reference), config), contiguous),
        "plain": iteration_of(PlainStep(model(reference), config), (images, labels, noise)),
        "plain, compile": iteration_of(PlainStep(model(reference), config, compile=True), (images, labels, noise)),
    }
    if device.type == "cuda":
        peers["ours, without graphs"] = iteration_of(igan_fast.TrainStep(model(igan_fast), config), contiguous)
        tf32 = igan_fast.StepConfig(precision="tf32") if precision == "fp32" else config
        peers["eager, tf32"] = iteration_of(reference.TrainStep(model(reference), tf32), contiguous)
    compare(
        {"kind": "step", "operator": f"iteration, {name}", "layout": "", "dtype": precision, "batch": batch},
        peers,
        {},
        flops=flops_of(size, width, batch, device),
        precision=precision,
    )
