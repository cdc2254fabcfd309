"""What several rooms' tests need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: its kernels run on the CPU then


@pytest.fixture(autouse=True)
def float32_is_float32() -> Iterator[None]:
    """On a GPU PyTorch's convolutions take tf32 unasked, and a step that is asked for it leaves it switched on.

    These settings set the newer ``fp32_precision`` too; set by the newer ones alone, these could no longer be read.
    """
    if not torch.cuda.is_available():
        yield
        return
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@pytest.fixture(scope="session")
def celeba_folder() -> Path:
    """Real CelebA: ``$IGAN_FAST_CELEBA``, else ``shared/celeba`` beside the checkout. Skips where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "celeba"
    folder = Path(os.environ.get("IGAN_FAST_CELEBA") or default)
    if not folder.is_dir():
        pytest.skip(f"no CelebA: {folder} does not exist (set IGAN_FAST_CELEBA)")
    return folder
