"""fuse and unfuse: which modules get a class of ours, and which are left alone, and why."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from igan_fast.fusion.modules import TWINS
from igan_fast.fusion.report import FusionReport
from igan_fast.fusion.fused_module import Twin

__all__ = ["fuse", "unfuse"]


def fuse(model: nn.Module) -> FusionReport:
    """Put a network's convolutions, normalisations and the (Leaky)ReLUs behind them on the fused operators: in place,
    and with the same results.

    Every convolution and transposed convolution (1-D to 3-D), ``nn.BatchNorm1d/2d/3d`` and ``nn.InstanceNorm1d/2d/3d``
    gets a class of ours. What belongs together is found while the model runs, from what happens: a (Leaky)ReLU
    that takes a normalisation's result, as a module, a function or a method, is computed with it from the second call
    on. In evaluation without gradients a batch normalisation is computed by the convolution before it. Convolutions for
    which there are faster kernels of ours on a CPU are computed by them, with a (Leaky)ReLU behind them. Where
    anything else takes a result it gets PyTorch's, and from then on nothing is fused there that would have to be
    computed twice.

    Every parameter and buffer stays the same tensor under the same name: optimisers made before go on, ``state_dict``
    is as it was. Modules keep their identity and stay instances of their classes; activations are not touched. Left
    alone are modules of derived classes: your own, parametrised ones (``parametrizations``), lazy ones that are not
    initialised yet, ``SyncBatchNorm``. ``fuse`` runs none of the model's code. Hooks, ``copy.deepcopy``, pickling,
    checkpointing, ``DataParallel``, ``DistributedDataParallel`` and autocast work as ever. Under ``torch.compile``,
    ``torch.func``'s transforms, forward-mode derivatives, ``torch.jit``, ``torch.fx`` and export the model is plain
    PyTorch, as it is where tensors are so small that nothing can be gained.

    ``torch.ao.quantization.fuse_modules`` looks for PyTorch's own classes: ``unfuse`` before it.

    Between a module's call and the first use of its result, that result may be a tensor of a class of ours: it
    answers ``isinstance(result, torch.Tensor)``, not ``type(result) is torch.Tensor``.

    On a CPU in float32, convolutions that our kernels take are computed by minimal filtering (Winograd): an error of
    about 2e-6 of the largest value at most, where PyTorch's is about 3e-7, and a NaN or Inf spreads as far as its tile.
    The environment variable ``IGAN_FAST_IMPL=reference`` turns all of this off.

    Args:
        model: any module, in any mode, on any device. Called again for the same model, what was learnt is forgotten.

    Returns:
        What has a class of ours, what was left alone, and why. It prints as a table, which tells after the model has
        run what is computed together.

    Raises:
        TypeError: ``model`` is not an ``nn.Module``.
    """
    _check(model)
    left_alone: dict[str, str] = {}
    for name, module in model.named_modules():
        changed: Any = module
        if type(module) in TWINS:
            changed.__class__ = TWINS[type(module)]
        if type(module) in TWINS.values():
            changed.begin()
        elif isinstance(module, (*TWINS, nn.SyncBatchNorm)):
            left_alone[name] = _reason(changed)
    return FusionReport(model, left_alone)


def unfuse(model: nn.Module) -> int:
    """Undo ``fuse``: every module is again what it was, with its parameters and buffers as they are now.

    Returns:
        How many modules were fused.

    Raises:
        TypeError: ``model`` is not an ``nn.Module``.
    """
    _check(model)
    twins = [module for module in model.modules() if isinstance(module, Twin)]
    for twin in twins:
        twin.end()
    return len(twins)


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected an nn.Module")


def _reason(module: nn.Module) -> str:
    if nn.utils.parametrize.is_parametrized(module):
        return f"parametrised: {', '.join(module.parametrizations)}"  # type: ignore[arg-type]
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "not initialised yet: call the model once, then fuse"
    if isinstance(module, nn.SyncBatchNorm):
        return "its statistics are of all processes"
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript"
    return f"{type(module).__name__} is a class of its own"
