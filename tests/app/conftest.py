"""A small model for the tests of evaluations."""

from __future__ import annotations

import pytest
import torch

from igan_fast.reference import IterativeGAN


@pytest.fixture(scope="module")
def model() -> IterativeGAN:
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, attributes=3, latent=4, width=2)
    with torch.no_grad():
        for _ in range(60):  # until the running statistics are those of the activations
            model.rebuild(torch.rand(16, 3, 32, 32) * 2 - 1)
        model.generator.to_rgb.weight.mul_(10)
        model.classifier.labels.weight.mul_(100)  # verdicts that do not hang on the last bit
    return model
