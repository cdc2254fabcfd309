"""Whether a convolution does what its weights and settings say, and nothing else."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

__all__ = ["untouched"]


def untouched(*modules: nn.Module) -> bool:
    """Whether nobody but a module's own class says what it does: it has no hook (the older ``spectral_norm`` and
    ``weight_norm`` are hooks) and no ``forward`` of its own, so that its weights may be used without calling it."""
    if _has_any_global_hook():  # type: ignore[no-untyped-call]
        return False
    for module in modules:
        if (
            module._forward_pre_hooks
            or module._forward_hooks
            or module._backward_pre_hooks
            or module._backward_hooks
            or "forward" in module.__dict__
        ):
            return False
    return True
