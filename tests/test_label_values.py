"""Labels outside [0, 1], such as the −1 and 1 of CelebA's own files, are refused by the steps and by the label loss."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import igan_fast
from igan_fast import losses, reference
from igan_fast.graphs import GraphedStep
from igan_fast.reference import PaperStep, StepConfig
from igan_fast.reference import losses as reference_losses
from igan_fast.reference.losses.labels import check_labels

STEPS = {
    "paper": lambda: PaperStep(make_model(reference)),
    "reference": lambda: reference.TrainStep(make_model(reference), StepConfig(edited_share=0.5)),
    "fused": lambda: igan_fast.TrainStep(make_model(igan_fast), StepConfig(edited_share=0.5)),
}
ACTS: dict[str, Callable[[Any, Tensor, Tensor, Tensor], object]] = {
    "iteration": lambda step, images, labels, noise: step(images, labels, noise),
    "extra D": lambda step, images, labels, noise: step.extra_discriminator(images, labels, noise),
    "extra G": lambda step, images, labels, noise: step.extra_generator(labels, noise),
}
LABELS = torch.tensor([[0.0, 1, 1], [1, 0, 0]])
#: Wrong labels, and what the message says was found.
WRONG = {
    "CelebA's": (LABELS * 2 - 1, r"found -1, .*; \(labels > 0\)\.float\(\) converts CelebA's −1 and 1$"),
    "CelebA's, int8": ((LABELS * 2 - 1).to(torch.int8), "found -1"),
    "above 1": (LABELS * 1.25, r"found 1\.25, expected 0 for absent, 1 for present, or probabilities between$"),
    "bytes of 255": ((LABELS * 255).to(torch.uint8), "found 255"),
    "NaN": (LABELS / LABELS, "found nan"),
    "below 0, in half precision": (LABELS.to(torch.bfloat16) - 0.5, r"found -0\.5"),
}
RIGHT = {
    "float32": LABELS,
    "bool": LABELS.bool(),
    "uint8": LABELS.to(torch.uint8),
    "int64": LABELS.long(),
    "float64": LABELS.double(),
    "bfloat16": LABELS.to(torch.bfloat16),
    "soft": LABELS * 0.75 + 0.125,
    "not contiguous": LABELS.t().contiguous().t(),
}


def make_model(module: Any) -> Any:
    torch.manual_seed(0)
    return module.IterativeGAN(image_size=32, attributes=3, latent=4, width=4)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1, torch.rand(2, 4, generator=generator) * 2 - 1


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("impl", STEPS)
def test_a_step_refuses_wrong_labels_before_it_changes_anything(impl, act):
    step = STEPS[impl]()
    images, noise = batch()
    before = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
    for wrong, message in WRONG.values():
        with pytest.raises(ValueError, match=f"^labels: {message}"):
            ACTS[act](step, images, wrong, noise)
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.model.state_dict().items())
    assert not step.optimizer_d.state
    assert not step.optimizer_g.state
    assert getattr(step, "iteration", 0) == 0


@pytest.mark.parametrize("impl", STEPS)
@pytest.mark.parametrize("labels", ["float32", "soft"])
def test_a_step_takes_labels_from_0_to_1(impl, labels):
    step = STEPS[impl]()
    images, noise = batch()
    for act in ACTS.values():
        act(step, images, RIGHT[labels], noise)


@pytest.mark.parametrize("act", ACTS)
def test_a_graphed_step_checks_before_a_graph_runs(act):
    step = GraphedStep.__new__(GraphedStep)  # to make one a GPU is needed; the check needs nothing of it
    if act != "iteration":
        step.edited = reference.edited_rebuilds.EditedRebuilds(0.0)
    images, noise = batch()
    with pytest.raises(ValueError, match="labels: found -1"):
        ACTS[act](step, images, WRONG["CelebA's"][0], noise)


@pytest.mark.parametrize("module", [losses, reference_losses], ids=["fused", "reference"])
def test_the_label_loss_refuses_wrong_labels(module):
    logits = torch.randn(2, 3)
    for wrong, message in WRONG.values():
        with pytest.raises(ValueError, match=f"^labels: {message}"):
            module.label_loss(logits, wrong)
    for right in RIGHT.values():
        expected = torch.nn.functional.binary_cross_entropy(logits.sigmoid(), right.float())
        torch.testing.assert_close(module.label_loss(logits, right), expected)
    assert module.label_loss(torch.empty(0, 3), torch.empty(0, 3)).isnan()  # as the cross-entropy


def test_the_check_is_left_out_where_values_cannot_be_read():
    """Compiled, traced and transformed calls have no Python values to look at."""
    logits, labels = torch.randn(2, 3), LABELS
    expected = losses.label_loss(logits, labels)
    torch._dynamo.reset()
    compiled = torch.compile(losses.label_loss, fullgraph=True, backend="aot_eager")
    traced = torch.jit.trace(losses.label_loss, (logits, labels))
    made = torch.fx.experimental.proxy_tensor.make_fx(losses.label_loss)(logits, labels)
    for function in (compiled, traced, made):
        torch.testing.assert_close(function(logits, labels), expected)
    torch.testing.assert_close(torch.vmap(losses.label_loss)(logits, labels).mean(), expected)
    with torch._subclasses.FakeTensorMode() as fake:
        assert losses.label_loss(fake.from_tensor(logits), fake.from_tensor(labels)).shape == ()


def test_nothing_waits_for_a_device_without_values():
    """A tensor on the device meta has no values: reading one raises an error."""
    check_labels(torch.full((2, 3), -1.0, device="meta"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("labels", ["wrong", "right"])
@pytest.mark.parametrize("kind", ["plain", "graphed"])
def test_on_a_gpu_wrong_labels_stop_the_device(kind, labels):
    """In a process of its own: CUDA cannot be used any more in a process in which a kernel has stopped it."""
    code = f"""
import torch
from igan_fast import IterativeGAN, TrainStep
from igan_fast.graphs import GraphedStep
step = TrainStep(IterativeGAN(image_size=32, attributes=3, latent=4, width=4).to("cuda"))
step = GraphedStep(step) if {kind == "graphed"} else step
images, labels, noise = torch.zeros(2, 3, 32, 32), torch.tensor([[0., 1, 1], [1, 0, 0]]), torch.zeros(2, 4)
images, labels, noise = images.to("cuda"), labels.to("cuda"), noise.to("cuda")
step(images, labels, noise)
torch.cuda.synchronize()
torch.cuda.set_sync_debug_mode("error")
step(images, labels * 2 - 1 if {labels == "wrong"} else labels, noise)
torch.cuda.set_sync_debug_mode("default")
torch.cuda.synchronize()
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if labels == "right":
        assert finished.returncode == 0, finished.stderr[-3000:]
    else:
        assert finished.returncode != 0
        assert "labels: found values outside [0, 1]" in finished.stderr
