"""Context managers in which a step runs its networks: TF32 mode, autocast, parameters without gradients.

The paper does not specify these."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

__all__ = ["autocast", "check_precision", "frozen", "tf32_mode"]


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a ``StepConfig.precision`` that ``device`` does not have.

    Raises:
        ValueError: ``precision`` is tf32 and ``device`` is not a CUDA device.
    """
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision: found tf32, which {device.type} does not have; expected fp32 or bf16")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context manager for a forward pass: bfloat16 autocast for bf16, else one that does nothing.

    Run the backward pass outside of it.

    Args:
        precision: as ``StepConfig.precision``.
        device: where the networks are.
    """
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def tf32_mode(precision: str, device: torch.device) -> Iterator[None]:
    """On a CUDA device, switch TF32 mode on for tf32 and off for fp32, for the forward and the backward pass.

    In TF32 mode, float32 matrix products and convolutions round their inputs to TF32. PyTorch's flags for it belong to
    the process, not to a thread. At the end of the block they get back their earlier values.

    The block sets ``fp32_precision`` (PyTorch 2.9 and later), which every matrix product and convolution reads. It does
    not set the older ``allow_tf32``: setting that flag may warn, and reading it raises an error while the two flags
    disagree. Parts of ``torch.compile`` read ``allow_tf32``. For tf32 in compiled networks therefore also call
    ``torch.set_float32_matmul_precision("high")``, which sets both flags.

    Args:
        precision: as ``StepConfig.precision``; bf16 changes nothing.
        device: where the networks are; any other than a CUDA device changes nothing.
    """
    if device.type != "cuda" or precision == "bf16":
        yield
        return
    cudnn: Any = torch.backends.cudnn  # its type annotations lack the newer flags
    backends = (torch.backends.cuda.matmul, cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend, value in zip(backends, before, strict=True):
            # Set only a flag that is wrong: a flag that was set no longer follows torch.backends.fp32_precision.
            if (value == "tf32") != (precision == "tf32"):
                backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            if backend.fp32_precision != value:
                backend.fp32_precision = value


_lock = threading.Lock()

#: For each frozen parameter, the number of active ``frozen`` blocks that contain it.
_blocks: dict[nn.Parameter, int] = {}


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Set ``requires_grad`` to False for all parameters of ``module`` while the block runs.

    Blocks may overlap, in one thread or in several. When the last block with a parameter has ended, the parameter
    requires a gradient again if it did before.
    """
    with _lock:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad or parameter in _blocks]
        for parameter in parameters:
            _blocks[parameter] = _blocks.get(parameter, 0) + 1
            parameter.requires_grad_(False)
    try:
        yield
    finally:
        with _lock:
            for parameter in parameters:
                _blocks[parameter] -= 1
                if not _blocks[parameter]:
                    del _blocks[parameter]
                    parameter.requires_grad_(True)
