"""The check of the labels that a user passes to a training step or to the label loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._C import _functorch

__all__ = ["check_labels"]

_EXPECTED = "expected 0 for absent, 1 for present, or probabilities between"


def check_labels(labels: Tensor) -> None:
    """Refuse labels of any shape that are not in [0, 1]. The cross-entropy would accept them and train wrong weights.

    On the CPU the check takes about 10 μs. On a CUDA device it must not wait for the device. There, wrong labels stop
    the device: a later CUDA call raises an error, and the message below is printed on stderr, without the value.
    Nothing is checked on other devices, and while the call is traced, compiled or transformed (``torch.func``).

    Raises:
        ValueError: a label on the CPU is below 0, above 1 or NaN, such as the −1 in CelebA's own files.
    """
    if not _readable(labels) or labels.dtype == torch.bool or not labels.numel():
        return
    if labels.device.type == "cuda":
        torch._assert_async(labels.clamp(0, 1).eq(labels).all(), f"labels: found values outside [0, 1], {_EXPECTED}")
    elif labels.device.type == "cpu":
        least, most = (bound.item() for bound in torch.aminmax(labels.detach()))
        if not (least >= 0 and most <= 1):  # NaN is neither
            found = most if least >= 0 else least
            advice = "; (labels > 0).float() converts CelebA's −1 and 1" if found == -1 else ""
            raise ValueError(f"labels: found {found:g}, {_EXPECTED}{advice}")


def _readable(tensor: Tensor) -> bool:
    """Whether the call runs as usual on an ordinary tensor, so that its values may decide what happens."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0
        and _functorch.maybe_current_level() is None
        and not _functorch.is_legacy_batchedtensor(tensor)
    )
