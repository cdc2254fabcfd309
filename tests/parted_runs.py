"""Iterations of a tiny model, by one process or in parts by several, for tests that compare their ends."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rerun_graphs import Reruns
from torch import Tensor

import igan_fast
from igan_fast import reference
from igan_fast.distributed.plan import BatchPlan
from igan_fast.distributed.process import Process
from igan_fast.distributed.step import PartedStep
from igan_fast.graphs import GraphedStep
from igan_fast.reference.edited_rebuilds import draw_flips
from igan_fast.reference.step import StepConfig
from igan_fast.train.ema import EMA

SIZES = {"image_size": 32, "attributes": 3, "latent": 4, "width": 2, "film": True, "signed_labels": True}

#: The additions of the default preset, with the gradient penalty in every fifth iteration.
CONFIG = {
    "lambdas": (10.0, 4.0, 20.0), "label_weight_d": 40.0, "label_weight_g": 40.0, "edited_share": 0.75,
    "label_weight_fake": 0.0, "flip_weight": 4.0, "r1": 0.1, "r1_every": 5, "latent_lr_scale": 3.0,
}  # fmt: skip


class Case(NamedTuple):
    """What is trained: the number of rows, the groups, and how the batch is cut."""

    batch_size: int = 8
    norm_groups: int = 4
    accumulate: int = 1
    exact: bool = False
    beyond: bool = True
    iterations: int = 10
    dtype: torch.dtype = torch.float64
    graphed: bool = False

    @property
    def step_config(self) -> StepConfig:
        more: dict[str, Any] = CONFIG if self.beyond else {}
        return StepConfig(**more, norm_groups=self.norm_groups)


def whole(case: Case) -> dict[str, Tensor]:
    """Train with the reference's step on the whole batch."""
    return _train(case, reference, None)


def in_parts(process: Process, folder: Path, cases: dict[str, Case]) -> None:
    """Train each case in parts, and write what each process ends with to NAME-W-RANK.pt."""
    for name, case in cases.items():
        with Reruns() if case.graphed else nullcontext():
            ended = parted(case, process)
        torch.save(ended, folder / f"{name}-{process.world_size}-{process.rank}.pt")


def parted(case: Case, process: Process) -> dict[str, Tensor]:
    """Train with the step on parts."""
    plan = BatchPlan(case.batch_size, case.norm_groups, process, case.accumulate, case.exact)
    return _train(case, igan_fast, plan)


def _train(case: Case, wing: Any, plan: BatchPlan | None) -> dict[str, Tensor]:
    torch.manual_seed(3)
    model = wing.IterativeGAN(**SIZES).to(case.dtype)
    step = wing.TrainStep(model, case.step_config) if plan is None else PartedStep(model, case.step_config, plan)
    if case.graphed:
        step.recordable = True
        step = GraphedStep(step)
    average = EMA(model, 0.9)
    rows = slice(None) if plan is None else plan.rows
    n, losses = case.batch_size, []
    generator = torch.Generator().manual_seed(7)

    def noise() -> Tensor:
        return torch.rand(n, SIZES["latent"], generator=generator, dtype=torch.float64).to(case.dtype) * 2 - 1

    for number in range(case.iterations):
        images = torch.rand(n, 3, 32, 32, generator=generator, dtype=torch.float64).to(case.dtype) * 2 - 1
        labels = (torch.rand(n, SIZES["attributes"], generator=generator) < 0.5).to(case.dtype)
        flips = [draw_flips(n, SIZES["attributes"], 0.75, generator=generator) for _ in range(3)]
        losses.append(torch.stack(step(images[rows], labels, noise(), flips[0])))
        if number % 3 == 0:
            step.extra_discriminator(images[rows], labels, noise(), flips[1])
        if number % 2 == 0:
            step.extra_generator(labels, noise(), flips[2])
        average.update()
    ended = {f"model/{name}": value for name, value in model.state_dict().items()}
    ended |= {f"average/{name}": value for name, value in average.model.state_dict().items()}
    if step.edited.z is not None:
        ended |= {"edited/z": step.edited.z, "edited/labels": step.edited.labels}
    return ended | {"losses": torch.stack(losses)}
