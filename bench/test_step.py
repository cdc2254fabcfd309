"""The training iteration against the reference and the fastest iteration in plain PyTorch."""

from __future__ import annotations

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
from igan_fast.train import TrainConfig

#: Image size, width, batch size on a CPU, batch size on a GPU. The first is the paper's size.
SIZES = [(128, 64, 16, 256), (128, 64, None, 64), (64, 32, 64, 256), (128, 64, None, 1024)]


def batch_of(size: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    images = (torch.rand(batch, 3, size, size, device=device) * 2 - 1).contiguous(memory_format=torch.channels_last)
    return images, (torch.rand(batch, 40, device=device) < 0.5).float(), torch.rand(batch, 100, device=device) * 2 - 1


#: What is trained: the name in the table, the preset, and whether the iterations compute the gradient penalty (every
#: 16th iteration of a run with the default preset does).
KINDS = {
    "paper": ("iteration", "paper", False),
    "default": ("iteration with the default additions", "default", False),
    "penalty": ("iteration with the default additions and the gradient penalty", "default", True),
}


def iteration_of(step: Any, batch: tuple[Tensor, ...], penalised: bool) -> core.Peer:
    """A peer that runs one whole iteration, as its forward pass."""

    def iterate() -> Any:
        step.iteration = 0 if penalised else 1
        return step(*batch)

    return iterate, None


def flops_of(step: reference.TrainStep, batch: tuple[Tensor, ...]) -> int:
    """The FLOPs of the convolutions and matrix products of the reference's iteration; a multiply-add counts as two."""
    step.iteration = 1  # the counter does not work inside a gradient penalty
    with FlopCounterMode(display=False) as counter:
        step(*batch)
    return counter.get_total_flops()


@pytest.mark.parametrize("precision", ["bf16", "fp32", "tf32"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", range(len(SIZES)))
def test_step(compare, request, device, index, kind, precision):
    torch._dynamo.reset()
    operator, preset, penalised = KINDS[kind]
    on_gpu = device.type == "cuda"
    size, width, *batches = SIZES[index]
    batch = batches[on_gpu]
    if batch is None:
        pytest.skip("this batch size is for GPUs")
    if kind == "penalty" and index != 2:
        pytest.skip("the penalty is measured at one size")
    if precision == "tf32" and (index or not on_gpu):
        pytest.skip("TF32 is measured on a GPU, at one size")
    if precision == "bf16" and not on_gpu and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16 instructions")
    if request.config.getoption("--quick"):
        size, width, batch = 32, 8, 4
    if precision == "tf32":  # for the ceiling, and for torch.compile, which reads this older setting too
        torch.set_float32_matmul_precision("high")  # the fixture ``tf32_is_off`` resets it
    trained = TrainConfig(preset=preset, precision=precision)
    config = trained.step_config()
    given = batch_of(size, batch, device)

    def model(module: Any) -> Any:
        torch.manual_seed(0)
        return module.IterativeGAN(image_size=size, width=width, film=trained.film).to(device)

    def peer(step: Any, batch: tuple[Tensor, ...] = given) -> core.Peer:
        return iteration_of(step, batch, penalised)

    ours = igan_fast.TrainStep(model(igan_fast), config)
    plain = PlainStep(model(reference), config)
    compiled = PlainStep(model(reference), config, compile=True)
    peers = {
        "ours": peer(GraphedStep(ours) if on_gpu else ours),
        "eager, reference": peer(reference.TrainStep(model(reference), config), (given[0].contiguous(), *given[1:])),
        "plain": peer(plain),
        "plain, compile": peer(compiled),
    }
    recorded = {}
    if on_gpu:
        # A graph shares the weights of the step that it recorded, so both train the same model.
        peers["ours, without graphs"] = peer(ours)
        peers["plain, graphs"] = peer(GraphedStep(plain))
        peers["plain, compile, graphs"] = peer(GraphedStep(compiled))
        recorded = {"ours": "ours, without graphs"}
        recorded |= {f"{name}, graphs": name for name in ("plain", "plain, compile")}
    else:
        peers["plain, contiguous"] = peer(PlainStep(model(reference), config, channels_last=False))
    if penalised:  # torch.compile cannot differentiate twice
        peers = {name: each for name, each in peers.items() if "compile" not in name}
        recorded = {name: each for name, each in recorded.items() if name in peers}
    compare(
        {
            "kind": "step",
            "operator": f"{operator}, {size}² width {width}",
            "layout": "",
            "dtype": precision,
            "batch": batch,
        },
        peers,
        {},
        flops=0 if penalised else flops_of(reference.TrainStep(model(reference), config), given),
        precision=precision,
        memory_of=recorded,
    )
