"""Which device a ``--device`` option means."""

from __future__ import annotations

from typing import Literal

import torch

from igan_fast.errors import InputError

__all__ = ["resolve_device"]


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device itself; ``"auto"`` takes the GPU if there is one.

    Raises:
        InputError: ``"cuda"`` where PyTorch sees no CUDA device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    return torch.device(device)
