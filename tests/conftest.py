"""What several rooms' tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: its kernels run on the CPU then


@pytest.fixture(scope="session")
def celeba_folder() -> Path:
    """Real CelebA: ``$IGAN_FAST_CELEBA``, else ``shared/celeba`` beside the checkout. Skips where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "celeba"
    folder = Path(os.environ.get("IGAN_FAST_CELEBA") or default)
    if not folder.is_dir():
        pytest.skip(f"no CelebA: {folder} does not exist (set IGAN_FAST_CELEBA)")
    return folder
