"""``fuse`` and ``unfuse``: change the classes of a model's modules, and change them back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from igan_fast.fusion.fused_module import FusedModule, derived_class, is_parametrised
from igan_fast.fusion.modules import FUSED_CLASSES
from igan_fast.fusion.report import FusionReport
from igan_fast.ops.convolution.direct import MAX_CHANNELS
from igan_fast.ops.convolution.winograd_1d import MIN_CHANNELS, filtered_dimension
from igan_fast.reference.ops import per_dimension

__all__ = ["fuse", "unfuse"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def fuse(model: nn.Module) -> FusionReport:
    """Run a model's convolutions, normalisations and the (Leaky)ReLUs after them on the fused operators.

    The model is changed in place, and its results stay the same up to rounding. ``fuse`` sets the class of every
    convolution and transposed convolution (1-D to 3-D), ``nn.BatchNorm1d/2d/3d``, ``nn.SyncBatchNorm``,
    ``nn.InstanceNorm1d/2d/3d`` and large ``nn.Linear`` to a fused class, which is derived from the module's class.
    Parameters and buffers stay the same tensors under the same names: existing optimisers and checkpoints stay valid.
    Activations are not changed, and neither are convolutions that can gain nothing: those without kernels of ours (of
    one pixel; with groups or 3-D, unless they have more than one tap in one dimension only; 1-D of few channels) where
    no batch normalisation of as many channels is in the model. ``fuse`` does not run the model.

    A fused module learns which operations to combine while the model runs. In its first call it records which operation
    uses its result. From the second call on:

    * a normalisation computes the (Leaky)ReLU that follows it, called as a module, a function or a method;
    * in evaluation without gradients, a convolution computes the batch normalisation that follows it, and the
      (Leaky)ReLU after that;
    * a convolution runs on our own CPU kernels where these are faster, together with the (Leaky)ReLU that follows it.

    On a CPU, large linear layers run on the fastest of MKL, oneDNN and, for few rows without gradients, our own kernel.

    If another operation than expected uses a result, that operation gets PyTorch's result, which costs a second
    computation. After three such calls, a module no longer combines operations.

    Convolutions and linear layers may be under spectral or weight normalisation, or any other parametrisation, from
    before ``fuse`` or later. Modules of derived classes are left as they are: your own subclasses, parametrised
    normalisations, and lazy modules that are not initialised yet. Hooks, ``copy.deepcopy``, pickling, checkpointing,
    ``DataParallel``, ``DistributedDataParallel`` and autocast work as before. Under ``torch.compile``,
    ``torch.func``'s transforms, forward-mode derivatives, ``torch.jit``, ``torch.fx`` and export, the model runs
    PyTorch's functions. It also does so for small tensors, for which fusion gains nothing.

    A fused ``SyncBatchNorm`` normalises by the statistics of all processes, as PyTorch's does. With the native
    extension it also runs on CPUs (gloo), where PyTorch's raises an error. The processes may have batches of different
    sizes, also empty ones. Call ``nn.SyncBatchNorm.convert_sync_batchnorm`` before ``fuse``, because it replaces
    modules.

    Call ``unfuse`` before ``torch.ao.quantization.fuse_modules``, which looks for PyTorch's own classes.

    Between a module's call and the first use of its result, the result may be of a subclass of ``torch.Tensor``: then
    ``isinstance(result, torch.Tensor)`` is True, but ``type(result) is torch.Tensor`` is not.

    On a CPU in float32, our own convolution kernels use minimal filtering (Winograd). Their error is at most about 2e-6
    of the largest value (4e-6 for the gradient of a weight); PyTorch's is about 3e-7. Of 1-D convolutions it is up to
    4e-6 (8e-6). A NaN or Inf spreads over the tile that contains it. The environment variable
    ``IGAN_FAST_IMPL=reference`` switches all fused operators off.

    Args:
        model: any module, in any mode, on any device. If it is fused already, its modules start to learn again.

    Returns:
        A report of the modules that are fused, of those that are left alone, and why. It prints as a table. After the
        model has run, the table shows what is computed together.

    Raises:
        TypeError: ``model`` is not an ``nn.Module``.
    """
    _check(model)
    left_alone: dict[str, str] = {}
    widths = {module.num_features for module in model.modules() if isinstance(module, _BATCH_NORMS)}
    for name, module in model.named_modules():
        changed: Any = module
        if isinstance(module, _CONVOLUTIONS) and not isinstance(module, FusedModule) and _gains_nothing(module, widths):
            left_alone[name] = "PyTorch's is as fast, and no batch normalisation can follow"
            continue
        _set_fused_class(changed)
        if isinstance(module, FusedModule) and module.has_fused_class():
            module.start_fusion()
        elif isinstance(module, tuple(FUSED_CLASSES)) and not isinstance(module, nn.Linear):
            left_alone[name] = _reason(changed)
    return FusionReport(model, left_alone)


def unfuse(model: nn.Module) -> int:
    """Undo ``fuse``: every module gets back the class that it had before. Parameters and buffers keep their values.

    Returns:
        The number of modules that were fused.

    Raises:
        TypeError: ``model`` is not an ``nn.Module``.
    """
    _check(model)
    fused = [module for module in model.modules() if isinstance(module, FusedModule)]
    for module in fused:
        module.end_fusion()
    return len(fused)


def _gains_nothing(conv: Any, widths: set[int]) -> bool:
    """Whether our kernels compute no such convolution, and no batch normalisation can be folded into it.

    Args:
        widths: the numbers of features of the network's batch normalisations.
    """
    if conv.out_channels in widths or isinstance(conv, nn.modules.lazy.LazyModuleMixin):
        return False
    one_pixel = math.prod(conv.kernel_size) == 1 and min(conv.in_channels, conv.out_channels) > MAX_CHANNELS
    fewest = min(conv.in_channels, conv.out_channels) // conv.groups
    stride = per_dimension("stride", conv.stride, len(conv.kernel_size))
    if fewest >= MIN_CHANNELS and filtered_dimension(conv.kernel_size, stride) is not None:
        return False
    return len(conv.kernel_size) != 2 or conv.groups != 1 or one_pixel


def _set_fused_class(module: Any) -> None:
    """Set the class of one of PyTorch's modules to its fused class. A parametrised module gets a class derived from it,
    as if it had been parametrised after ``fuse``."""
    kind: Any = type(module)
    plain_class: Any = kind if kind in FUSED_CLASSES else kind.__base__
    fused_class = FUSED_CLASSES.get(plain_class)
    if fused_class is None or not fused_class.gains_for(module):
        return
    if kind is plain_class:
        module.__class__ = fused_class
    elif fused_class.may_be_parametrised and is_parametrised(module, plain_class):
        module.__class__ = derived_class(kind, fused_class)


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected an nn.Module")


def _reason(module: nn.Module) -> str:
    """The reason why a module is left alone."""
    if nn.utils.parametrize.is_parametrized(module):
        return f"parametrised: {', '.join(module.parametrizations)}"  # type: ignore[arg-type]
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "not initialised yet: call the model once, then fuse"
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript"
    return f"{type(module).__name__} is a derived class"
