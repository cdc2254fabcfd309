"""Choices by measurement where the iteration is a CUDA graph: before its recording, and never in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from measuring import FirstIs, give_choices
from rerun_graphs import Rerun, Reruns
from torch import Tensor

from igan_fast import IterativeGAN, StepConfig, TrainStep
from igan_fast.graphs import GraphedStep
from igan_fast.ops import tuning
from igan_fast.ops.convolution import asking_for, choice

SIZES = {"image_size": 32, "attributes": 3, "latent": 4}


def step_of(width: int, device: str = "cpu") -> TrainStep:
    torch.manual_seed(3)
    model = IterativeGAN(**SIZES, width=width, film=True).to(device)
    return TrainStep(model, StepConfig(r1=0.1, r1_every=2))


def batch(device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    images, labels, noise = (torch.rand(shape, generator=generator) for shape in ((4, 3, 32, 32), (4, 3), (4, 4)))
    return (2 * images - 1).to(device), labels.round().to(device), (2 * noise - 1).to(device)


@pytest.mark.every_build
def test_a_recorded_iteration_takes_what_the_ones_before_have_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: the recording is one more call, in which nothing may be measured. The results are those of an
    iteration in which nothing is measured at all, because the layers are faster here."""
    common = pytest.importorskip("igan_fast.ops.triton.common", reason="Triton is not installed")
    if not common.INTERPRETED:
        pytest.skip("Triton's kernels are compiled here")
    timer, recording, replay = FirstIs(faster=False), [False], Rerun.replay
    give_choices(monkeypatch, timer)
    monkeypatch.setattr(tuning, "may_measure", lambda device: not recording[0])
    monkeypatch.setattr(choice, "_ON_DEMAND", [])  # networks of blocks alone

    def recorded(self: Rerun) -> None:
        recording[0] = True
        replay(self)
        recording[0] = False

    monkeypatch.setattr(Rerun, "replay", recorded)
    plain, ours = step_of(1), step_of(1)
    ours.recordable = True
    turns, measured = [], []
    with asking_for("measure"), Reruns() as graphs:
        graphed = GraphedStep(ours)
        for _ in range(3):
            graphed(*batch())
            turns.append(timer.turns)
            measured.append(sum(map(len, tuning.taken().values())))
    assert len(graphs) == 2  # with the penalty and without
    assert turns[0] == 2 * measured[0] > 0
    assert turns[1] == 2 * measured[1] > turns[0]  # without the penalty, both halves of the batch pass D at once
    assert turns[2] == turns[1]
    assert all(name == "other" for choices in tuning.taken().values() for name in choices.values())
    for _ in range(3):
        plain(*batch())
    pairs = zip(ours.model.state_dict().items(), plain.model.state_dict().values(), strict=True)
    assert [name for (name, a), b in pairs if not torch.equal(a, b)] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With real times: the choices are made before the recording, and where they are given nothing is measured.
    Whatever is chosen, the losses are those of the fixed choice but for rounding."""

    def losses(mode: str, known: Any = None) -> tuple[Tensor, Any]:
        with asking_for(mode):
            choice.start_measuring(known)
            graphed = GraphedStep(step_of(8, "cuda"))
            found = [torch.stack(graphed(*batch("cuda"))) for _ in range(3)]
            graphed.close()
            return found[0], tuning.taken()

    fixed, _ = losses("auto")
    measured, taken = losses("measure")
    assert list(taken) == [torch.cuda.get_device_name()]
    assert set(taken[torch.cuda.get_device_name()].values()) <= {"triton", "other"}
    assert torch.allclose(measured, fixed, rtol=1e-3, atol=1e-5)

    def refused(call: Callable[[], Any]) -> float:
        raise AssertionError("it is measured again")

    monkeypatch.setattr(tuning, "_seconds", refused)
    monkeypatch.setattr(tuning.Choices, "_stored", lambda *_: None)  # nothing is on disk
    again, taken_again = losses("measure", taken)
    assert taken_again == taken
    assert torch.allclose(again, fixed, rtol=1e-3, atol=1e-5)
