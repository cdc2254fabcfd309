"""Whether a module may be computed from its parameters, without being called."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

__all__ = ["untouched"]


def untouched(*modules: nn.Module) -> bool:
    """Whether the modules have no hooks and no ``forward`` that was set on the instance. Then the result of a call
    depends only on the class and the parameters. The older ``spectral_norm`` and ``weight_norm`` are hooks."""
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
