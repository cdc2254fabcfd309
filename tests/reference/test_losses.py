"""Each loss against a case computed by hand."""

import math

import pytest
import torch

from igan_fast.reference import losses


def test_adversarial_loss_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3.0)])  # probabilities 1/2 and 3/4
    assert losses.adversarial_loss(logits, real=True).item() == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)
    assert losses.adversarial_loss(logits, real=False).item() == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)


def test_adversarial_loss_of_a_certain_discriminator_is_finite_and_has_a_gradient_for_g() -> None:
    logits = torch.tensor([-200.0], requires_grad=True)
    loss = losses.adversarial_loss(logits, real=True)
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(-1.0)  # the non-saturating form


def test_label_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(3.0), 0.0]])
    labels = torch.tensor([[1, 1], [0, 0]])
    expected = -(math.log(0.5) + math.log(0.75) + math.log(0.25) + math.log(0.5)) / 4
    assert losses.label_loss(logits, labels).item() == pytest.approx(expected)


def test_perceptual_loss_by_hand_and_real_is_detached() -> None:
    fake = [torch.tensor([[1.0, 3.0]], requires_grad=True), torch.tensor([[2.0]], requires_grad=True)]
    real = [torch.tensor([[0.0, 0.0]], requires_grad=True), torch.tensor([[5.0]], requires_grad=True)]
    loss = losses.perceptual_loss(fake, real)
    assert loss.item() == pytest.approx(2.0 + 3.0)
    loss.backward()
    assert fake[0].grad is not None
    assert real[0].grad is None
    assert real[1].grad is None
    assert losses.perceptual_loss(fake, real, [0.5, 2.0]).item() == pytest.approx(1.0 + 6.0)


def test_pixel_and_latent_loss_by_hand() -> None:
    assert losses.pixel_loss(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0])).item() == pytest.approx(1.5)
    assert losses.latent_loss(torch.tensor([[0.5, 0.0]]), torch.tensor([[-0.5, 0.0]])).item() == pytest.approx(0.5)


def test_integrated_loss_by_hand() -> None:
    one, two, three = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)
    assert losses.integrated_loss(one, two, three, (2.0, 0.5, 1.0)).item() == pytest.approx(2.0 + 1.0 + 3.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_types_are_float32(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, dtype=dtype)
    found = [
        losses.adversarial_loss(x, real=True),
        losses.label_loss(x, x),
        losses.perceptual_loss([x], [x]),
        losses.pixel_loss(x, x),
        losses.latent_loss(x, x),
    ]
    assert {loss.dtype for loss in found} == {torch.float32}


def test_losses_of_float64_stay_float64() -> None:
    x = torch.ones(2, 3, dtype=torch.float64)
    assert losses.label_loss(x, torch.ones(2, 3)).dtype == torch.float64
    assert losses.adversarial_loss(x, real=False).dtype == torch.float64
