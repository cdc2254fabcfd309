"""A small model for the tests of evaluations, and what holds for all tests of the application."""

from __future__ import annotations

import pytest
import torch
from vivid_models import vivid

from igan_fast.reference import IterativeGAN


@pytest.fixture(autouse=True, scope="module")
def without_extras(no_optional_networks: None) -> None:
    """Evaluations here need no optional package (tests/conftest.py)."""


@pytest.fixture(scope="module")
def model() -> IterativeGAN:
    torch.manual_seed(0)
    model = vivid(IterativeGAN(image_size=32, attributes=3, latent=4, width=2))
    with torch.no_grad():
        model.classifier.labels.weight.mul_(100)  # verdicts that do not hang on the last bit
    return model
