"""The iteration with its additions to the paper: the fused one against the reference's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import igan_fast
from igan_fast import reference
from igan_fast.reference import StepConfig, draw_flips

IMPLS = {"reference": reference, "fused": igan_fast}

EDITED = {"edited_share": 0.5, "flip_weight": 4.0}
ADDITIONS = {
    "edited rebuilds": EDITED,
    "no label loss on fakes": {"label_weight_fake": 0.0},
    "gradient penalty": {"r1": 0.3, "r1_every": 2},
    "z learns from the rebuild": {"latent_lr_scale": 3.0},
    "all": {**EDITED, "label_weight_fake": 0.5, "r1": 0.3, "r1_every": 2, "latent_lr_scale": 3.0},
}
CONFIG = StepConfig(lr=1e-4, lambdas=(2.0, 0.5, 1.5), label_weight_d=3.0, label_weight_g=7.0)
ALL = dataclasses.replace(CONFIG, **ADDITIONS["all"])


def make_step(impl: str, config: StepConfig, dtype: torch.dtype = torch.float32, **sizes):
    """A step of either implementation. The initial weights are the same for both, and for every dtype."""
    torch.manual_seed(3)
    arguments = {"image_size": 32, "attributes": 5, "latent": 6, "width": 16, "film": True} | sizes
    return IMPLS[impl].TrainStep(IMPLS[impl].IterativeGAN(**arguments).to(dtype), config)


def batches(count: int, dtype: torch.dtype = torch.float32, n: int = 6, size: int = 32):
    """The same images, labels, noise and flips for every dtype."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        images = torch.rand(n, 3, size, size, generator=generator) * 2 - 1
        labels = (torch.rand(n, 5, generator=generator) < 0.5).float()
        noise = torch.rand(n, 6, generator=generator) * 2 - 1
        yield images.to(dtype), labels.to(dtype), noise.to(dtype), draw_flips(n, 5, 0.5, generator=generator)


def run(step, count: int, dtype: torch.dtype = torch.float32, *, extra: bool = False, **options) -> Tensor:
    """The losses of some iterations. ``extra``: each is followed by an extra update of D and one of G."""
    losses = []
    for images, labels, noise, flips in batches(count, dtype, **options):
        losses.append(torch.stack([loss.double() for loss in step(images, labels, noise, flips)]))
        if extra:
            step.extra_discriminator(images, labels, noise.flip(0), flips)
            step.extra_generator(labels, noise.roll(1, 0), flips)
    return torch.stack(losses)


@pytest.mark.parametrize("addition", ADDITIONS)
def test_twelve_iterations_end_in_the_same_weights_in_float64(addition):
    config = dataclasses.replace(CONFIG, **ADDITIONS[addition])
    ends = []
    for impl in IMPLS:
        step = make_step(impl, config, torch.float64)
        ends.append((run(step, 12, torch.float64, extra=addition == "all"), step))
    (their_losses, theirs), (our_losses, ours) = ends
    torch.testing.assert_close(our_losses, their_losses, rtol=1e-8, atol=1e-10)
    for (name, p), q in zip(ours.model.state_dict().items(), theirs.model.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8 * q.abs().max().item(), msg=lambda m, n=name: f"{n}: {m}")
