"""The fast wing's losses against the reference's."""

from __future__ import annotations

import inspect

import pytest
import torch

from igan_fast import losses
from igan_fast.reference import losses as reference


def test_the_same_losses_with_the_same_arguments():
    assert losses.__all__ == reference.__all__
    for name in losses.__all__:
        assert inspect.signature(getattr(losses, name)) == inspect.signature(getattr(reference, name)), name


@pytest.mark.parametrize("weights", [None, [0.5, 2.0]])
def test_perceptual_loss(weights):
    fakes = [torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    reals = [torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = []
    for module in (losses, reference):
        loss = module.perceptual_loss(fakes, reals, weights)
        found.append([loss, *torch.autograd.grad(loss, fakes, retain_graph=True)])
        assert torch.autograd.grad(loss, reals, allow_unused=True) == (None, None)
    for a, e in zip(*found, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pixel_loss(dtype):
    fake = torch.randn(2, 3, 4, 4).to(dtype).requires_grad_()
    real = torch.randn(2, 3, 4, 4).to(dtype)
    (a, e) = (module.pixel_loss(fake, real) for module in (losses, reference))
    assert a.dtype == e.dtype
    torch.testing.assert_close(a, e)
    torch.testing.assert_close(*(torch.autograd.grad(loss, fake)[0] for loss in (a, e)))
