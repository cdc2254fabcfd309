"""The training iteration against the reference and the fastest iteration in plain PyTorch."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import igan_fast
from bench import core
from bench.iterations import KINDS
from bench.plain_step import PlainStep
from igan_fast import reference
from igan_fast.devices import has_bfloat16
from igan_fast.graphs import GraphedStep
from igan_fast.ops import backend
from igan_fast.ops.convolution import triton
from igan_fast.train import TrainConfig


class Case(NamedTuple):
    """An iteration to be measured.

    Attributes:
        kind: a key of ``KINDS``.
        image_size, width: of the networks.
        on_cpu, on_gpu: the batch size; None where the iteration is not measured.
        precision: as ``StepConfig.precision``.
    """

    kind: str
    image_size: int
    width: int
    on_cpu: int | None
    on_gpu: int | None
    precision: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.image_size}-{self.on_gpu or self.on_cpu}-{self.precision}"


#: In the order in which they are measured, the most important first: a run may be cut when its time is over.
CASES = [
    *(Case("paper", 128, 64, 16 if batch == 256 else None, batch, "bf16") for batch in (256, 64, 1024)),
    Case("default", 128, 64, 16, 256, "bf16"),
    Case("paper", 128, 64, None, 256, "tf32"),
    Case("paper", 128, 64, 16, 256, "fp32"),
    *(Case(kind, 64, 32, 64, 256, "bf16") for kind in ("paper", "default", "penalty")),
    Case("default", 128, 64, 16, None, "fp32"),
    *(Case(kind, 64, 32, 64, None, "fp32") for kind in ("paper", "default", "penalty")),
    *(
        Case(kind, 128, 64, None, batch, "bf16")
        for batch in (256, 64)
        for kind in ("blocks", "blocks_film", "measure", "measure_film", "blocks_no_film")
    ),
]


def batch_of(size: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    images = (torch.rand(batch, 3, size, size, device=device) * 2 - 1).contiguous(memory_format=torch.channels_last)
    return images, (torch.rand(batch, 40, device=device) < 0.5).float(), torch.rand(batch, 100, device=device) * 2 - 1


def iteration_of(step: Any, batch: tuple[Tensor, ...], penalised: bool) -> core.Peer:
    """A peer that runs one whole iteration, as its forward pass."""

    def iterate() -> Any:
        step.iteration = 0 if penalised else 1
        return step(*batch)

    return iterate, None


def with_choice(convolution: str, peer: core.Peer) -> core.Peer:
    """The peer, with this value of IGAN_FAST_CONVOLUTION while it runs."""
    forward, _ = peer

    def iterate() -> Any:
        with mock.patch.object(triton, "_CHOICE", convolution):
            return forward()

    return iterate, None


def _triton_runs_on(device: torch.device) -> bool:
    try:
        return backend.namespace("triton", device, (torch.float32,)) == backend.TRITON
    except RuntimeError:
        return False


def flops_of(step: reference.TrainStep, batch: tuple[Tensor, ...]) -> int:
    """The FLOPs of the convolutions and matrix products of the reference's iteration; a multiply-add counts as two."""
    step.iteration = 1  # the counter does not work inside a gradient penalty
    with FlopCounterMode(display=False) as counter:
        step(*batch)
    return counter.get_total_flops()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_step(compare, request, device, case):
    torch._dynamo.reset()
    kind, size, width, on_cpu, on_gpu, precision = case
    asked = KINDS[kind]
    is_gpu = device.type == "cuda"
    batch = on_gpu if is_gpu else on_cpu
    quick = request.config.getoption("--quick")
    if quick:
        before = CASES[: CASES.index(case)]
        if kind in {each.kind for each in before} and precision in {each.precision for each in before}:
            pytest.skip("each kind and each precision is run once")
        if asked.film is False:
            pytest.skip("without FiLM the paper's preset runs")
        size, width, batch = (32, 1, 2) if asked.convolution == "blocks" else (32, 8, 4)  # Triton's interpreter is slow
    if batch is None:
        pytest.skip(f"it is measured on a {'CPU' if is_gpu else 'GPU'}")
    if precision == "tf32" and not is_gpu:
        pytest.skip("TF32 needs a GPU")
    if precision == "bf16" and not is_gpu and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16 instructions")
    if precision == "tf32":  # for the ceiling, and for torch.compile, which reads this older setting too
        torch.set_float32_matmul_precision("high")  # the fixture ``tf32_is_off`` resets it
    if asked.convolution != "auto" and not _triton_runs_on(device):
        pytest.skip("Triton's kernels do not run here")
    trained = TrainConfig(preset=asked.preset, precision=precision)
    film = trained.film if asked.film is None else asked.film
    config = trained.step_config()
    given = batch_of(size, batch, device)
    subject = {
        **{"kind": "step", "operator": asked.named(size, width), "layout": ""},
        **{"dtype": precision, "batch": batch},
    }

    def model(module: Any) -> Any:
        torch.manual_seed(0)
        return module.IterativeGAN(image_size=size, width=width, film=film).to(device)

    def peer(step: Any, batch: tuple[Tensor, ...] = given) -> core.Peer:
        return iteration_of(step, batch, asked.penalised)

    ours = igan_fast.TrainStep(model(igan_fast), config)
    if asked.convolution != "auto":
        # Beside the default iteration in the same rounds; plain PyTorch is measured with that one.
        default = igan_fast.TrainStep(model(igan_fast), config)
        peers = {
            "ours": with_choice(asked.convolution, peer(GraphedStep(ours) if is_gpu else ours)),
            "default": with_choice("auto", peer(GraphedStep(default) if is_gpu else default)),
            "eager, reference": peer(
                reference.TrainStep(model(reference), config), (given[0].contiguous(), *given[1:])
            ),
        }
        recorded = {}
        if is_gpu:
            peers["ours, without graphs"] = with_choice(asked.convolution, peer(ours))
            recorded = {"ours": "ours, without graphs"}
        compare(subject, peers, {}, precision=precision, memory_of=recorded)
        return
    plain = PlainStep(model(reference), config)
    compiled = PlainStep(model(reference), config, compile=True)
    peers = {
        "ours": peer(GraphedStep(ours) if is_gpu else ours),
        "eager, reference": peer(reference.TrainStep(model(reference), config), (given[0].contiguous(), *given[1:])),
        "plain": peer(plain),
        "plain, compile": peer(compiled),
    }
    recorded = {}
    if is_gpu:
        # A graph shares the weights of the step that it recorded, so both train the same model.
        peers["ours, without graphs"] = peer(ours)
        peers["plain, graphs"] = peer(GraphedStep(plain))
        peers["plain, compile, graphs"] = peer(GraphedStep(compiled))
        recorded = {"ours": "ours, without graphs"}
        recorded |= {f"{name}, graphs": name for name in ("plain", "plain, compile")}
    else:
        peers["plain, contiguous"] = peer(PlainStep(model(reference), config, channels_last=False))
    # torch.compile cannot differentiate twice, and to compile takes far longer than all else that is quick.
    if asked.penalised or (quick and case != CASES[0]):
        peers = {name: each for name, each in peers.items() if "compile" not in name}
        recorded = {name: each for name, each in recorded.items() if name in peers}
    compare(
        subject,
        peers,
        {},
        flops=0 if asked.penalised else flops_of(reference.TrainStep(model(reference), config), given),
        precision=precision,
        memory_of=recorded,
    )
