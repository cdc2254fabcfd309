"""The training iteration against the reference and the fastest iteration in plain PyTorch."""

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
from igan_fast.devices import has_bfloat16
from igan_fast.graphs import GraphedStep

#: Image size, width, batch size on a CPU, batch size on a GPU. The first is the paper's size.
SIZES = [(128, 64, 16, 256), (128, 64, None, 64), (64, 32, 64, 256)]


def batch_of(size: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    images = (torch.rand(batch, 3, size, size, device=device) * 2 - 1).contiguous(memory_format=torch.channels_last)
    return images, (torch.rand(batch, 40, device=device) < 0.5).float(), torch.rand(batch, 100, device=device) * 2 - 1


def iteration_of(step: Callable[..., Any], batch: tuple[Tensor, ...]) -> core.Peer:
    """A peer that runs one whole iteration, as its forward pass."""
    return (lambda: step(*batch)), None


def flops_of(size: int, width: int, batch: int, device: torch.device) -> int:
    """The FLOPs of the convolutions and matrix products of the reference's iteration; a multiply-add counts as two."""
    step = reference.TrainStep(reference.IterativeGAN(image_size=size, width=width).to(device))
    with FlopCounterMode(display=False) as counter:
        step(*batch_of(size, batch, device))
    return counter.get_total_flops()


@pytest.mark.parametrize("precision", ["bf16", "fp32", "tf32"])
@pytest.mark.parametrize("index", range(len(SIZES)))
def test_step(compare, request, device, index, precision):
    torch._dynamo.reset()
    on_gpu = device.type == "cuda"
    size, width, *batches = SIZES[index]
    batch = batches[on_gpu]
    if batch is None:
        pytest.skip("this batch size is for GPUs")
    if precision == "tf32" and (index or not on_gpu):
        pytest.skip("TF32 is measured on a GPU, at one size")
    if precision == "bf16" and not on_gpu and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16 instructions")
    if request.config.getoption("--quick"):
        size, width, batch = 32, 8, 4
    if precision == "tf32":  # for the ceiling, and for torch.compile, which reads this older setting too
        torch.set_float32_matmul_precision("high")  # the fixture ``tf32_is_off`` resets it
    config = igan_fast.StepConfig(precision=precision)
    given = batch_of(size, batch, device)

    def model(module: Any) -> Any:
        torch.manual_seed(0)
        return module.IterativeGAN(image_size=size, width=width).to(device)

    ours = igan_fast.TrainStep(model(igan_fast), config)
    plain = PlainStep(model(reference), config)
    compiled = PlainStep(model(reference), config, compile=True)
    peers = {
        "ours": iteration_of(GraphedStep(ours) if on_gpu else ours, given),
        "eager, reference": iteration_of(
            reference.TrainStep(model(reference), config), (given[0].contiguous(), *given[1:])
        ),
        "plain": iteration_of(plain, given),
        "plain, compile": iteration_of(compiled, given),
    }
    recorded = {}
    if on_gpu:
        # A graph shares the weights of the step that it recorded, so both train the same model.
        peers["ours, without graphs"] = iteration_of(ours, given)
        peers["plain, graphs"] = iteration_of(GraphedStep(plain), given)
        peers["plain, compile, graphs"] = iteration_of(GraphedStep(compiled), given)
        recorded = {"ours": "ours, without graphs"}
        recorded |= {f"{name}, graphs": name for name in ("plain", "plain, compile")}
    else:
        peers["plain, contiguous"] = iteration_of(PlainStep(model(reference), config, channels_last=False), given)
    compare(
        {
            "kind": "step",
            "operator": f"iteration, {size}² width {width}",
            "layout": "",
            "dtype": precision,
            "batch": batch,
        },
        peers,
        {},
        flops=flops_of(size, width, batch, device),
        precision=precision,
        memory_of=recorded,
    )
