"""Normalisation, LeakyReLU, and a scale and a shift for each image and channel, in one operator.

The forward saves the input, the parameters and the statistics. The backward recomputes the normalised values from them;
their signs decide the LeakyReLU's derivative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from igan_fast.ops import backend, norm_act_gradient, norm_act_processes
from igan_fast.ops.layout import dense
from igan_fast.ops.transforms import overridable
from igan_fast.reference import ops as reference
from igan_fast.reference.processes import is_shared

if TYPE_CHECKING:
    from igan_fast.reference.processes import ProcessGroup

__all__ = ["norm_act"]

#: Limits of the kernels on a GPU. MOST_VALUES: values of one channel in a group, whose index has 32 bits (a loop may go
#: one block past the last value). MOST_PARTS: programs of a launch; each has at least 64 values. MOST_NATIVE, for the
#: native kernels: channels, and groups (with film: images); each is a dimension of the grid.
MOST_VALUES, MOST_PARTS, MOST_NATIVE = 2**30, 2**31 - 2**12, 2**16 - 1

#: With an input of these dtypes, parameters and running statistics may be float32.
HALF_DTYPES = (torch.float16, torch.bfloat16)


@overridable
def norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    negative_slope: float = 0.2,
    groups: int = 1,
    average_groups: bool = False,
    film: Tensor | None = None,
    process_group: ProcessGroup | None = None,
    impl: str = "auto",
) -> Tensor:
    """Normalise each channel, apply the LeakyReLU, then scale and shift each channel of each image (``film``):
    ``F.leaky_relu(F.batch_norm(x, ...), negative_slope) * (1 + γ) + β``.

    The batch is split into ``groups`` contiguous parts of equal size. Each part is normalised by its mean and variance:
    1 is batch normalisation, N is instance normalisation, 2 normalises real and fake images separately in one call. The
    running statistics are updated once per part, in order, as by separate calls.

    Args:
        x: (N, C, *spatial), float16, bfloat16, float32 or float64, in any memory layout.
        weight, bias: (C,), or None for 1 and 0; of the dtype of ``x``, or float32 where ``x`` is a half type.
        running_mean, running_var: (C,). With ``training`` they are updated in place; without it they replace the
            batch's statistics. None: the batch's statistics are used with and without ``training``.
        momentum: weight of the new batch in the running statistics, which take its unbiased variance, as in PyTorch.
        eps: added to the variance.
        negative_slope: of the LeakyReLU; 0 is ReLU, 1 is no activation.
        average_groups: update the running statistics once, with the mean of the groups' statistics, as
            ``nn.InstanceNorm2d`` does.
        film: (N, 2·C), γ and β of each image: the result is multiplied by 1 + γ and β is added (feature-wise linear
            modulation; Perez et al., AAAI 2018). Of the dtype of ``x``, or float32 where ``x`` is a half type; under
            autocast also a half type where ``x`` is float32. It may be a view with any strides. None for 0 and 0.
        process_group: a group of ``torch.distributed``, whose processes normalise their batches together: where the
            batch's statistics are used, those of each part are the statistics of the same part of all processes. Every
            process of the group makes the same calls, forward and backward. Their batches may differ in size, and may
            be empty. The gradients are those of the sum of all processes' losses; the gradients of ``weight``,
            ``bias`` and ``film`` are each process's share of them, as ``DistributedDataParallel`` expects. None: this
            process alone.
        impl: "auto", "native", "triton" or "reference".

    Returns:
        A tensor of the shape and dtype of ``x``. It has the memory format of ``x`` if that is contiguous or
        channels_last; else it is contiguous. Statistics are computed in float32 or float64, without cancellation for
        data far from zero. The order of the sums is fixed: the same input gives the same bits.

    Raises:
        ValueError: an argument does not fit ``x`` in shape, dtype or device; ``groups`` does not divide N; the
            statistics of the batch are needed, but a part has only one value per channel (in all processes of
            ``process_group``; not checked on a GPU, where the result is NaN); ``impl`` is unknown.
        TypeError: ``process_group`` is something else.
        RuntimeError: ``impl`` names an implementation that cannot run these tensors; the message says why. Or the
            tensors are too large for the kernels, with a ``process_group``.
    """
    settings: dict[str, Any] = {
        "training": training,
        "momentum": momentum,
        "eps": eps,
        "negative_slope": negative_slope,
        "groups": groups,
        "average_groups": average_groups,
        "film": film,
        "process_group": process_group,
    }
    shared = is_shared(process_group) and (training or running_mean is None)
    namespace = backend.namespace(impl, x.device, (x.dtype,), (x, weight, bias, running_mean, running_var, film))
    # With other processes, an empty batch must not run other code than theirs: they would wait for each other.
    if namespace is None or x.dim() < 2 or (x.numel() == 0 and not shared):
        return reference.norm_act(x, weight, bias, running_mean, running_var, **settings)
    check_arguments(x, x.shape[1], weight, bias, running_mean, running_var, groups, film)
    if impl == "auto" and not launchable(namespace, x.device, x.shape, groups, film=film is not None):
        if shared:
            raise RuntimeError(f"x {tuple(x.shape)} is too large; use impl='reference' in every process")
        return reference.norm_act(x, weight, bias, running_mean, running_var, **settings)
    operators = getattr(torch.ops, namespace)
    x = dense(x)
    if not training and running_mean is not None:
        y: Tensor = norm_act_gradient.call(
            namespace, "norm_act_inference", x, weight, bias, running_mean, running_var, eps, negative_slope, film
        )
        return y
    if shared and process_group is not None:
        moments = norm_act_processes.statistics(operators, x.detach(), groups, process_group)
        if training and running_mean is not None:
            mean, var = (of_groups(t, average_groups) for t in (moments.mean, moments.unbiased))
            operators.norm_act_update(running_mean, running_var, mean, var, None, momentum)
        return norm_act_processes.normalise(
            x, weight, bias, film, operators, moments, eps, negative_slope, process_group
        )
    count = check_count(x, groups)
    y, mean, var = norm_act_gradient.call(namespace, "norm_act", x, weight, bias, eps, negative_slope, groups, film)
    if training and running_mean is not None:
        mean, var = (of_groups(t.detach(), average_groups) for t in (mean, var))
        operators.norm_act_update(running_mean, running_var, mean, var, count, momentum)
    return y


def launchable(namespace: str, device: torch.device, shape: Sequence[int], groups: int, *, film: bool) -> bool:
    """Whether the kernels of a device can index the values of a tensor: see the limits above.

    CPU kernels can index any tensor, because they use 64-bit indices.

    Args:
        namespace: the dispatcher's namespace that the kernels are in.
        shape: (N, C, *spatial).
        film: whether the call has one. The kernels then treat each image as a group, except for the statistics.
    """
    if device.type == "cpu":
        return True
    values = shape[0] // groups * math.prod(shape[2:])
    if film:
        groups = shape[0]
    if namespace == backend.NATIVE and max(groups, shape[1]) > MOST_NATIVE:
        return False
    smallest = shape[0] // groups * math.prod(shape[2:])
    return values <= MOST_VALUES and groups * shape[1] * (smallest // 64 + 1) <= MOST_PARTS


def check_arguments(
    x: Tensor,
    channels: int,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    groups: int,
    film: Tensor | None,
) -> None:
    """Raise a ValueError that names the argument which does not fit x (N, …) or the number of normalised channels."""
    if groups < 1 or x.shape[0] % groups:
        raise ValueError(f"groups is {groups}; expected a positive divisor of the batch size {x.shape[0]}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var: one is None; expected both or neither")
    half = x.dtype in HALF_DTYPES
    for name, tensor in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        if tensor is None:
            continue
        if tensor.dim() != 1 or tensor.shape[0] != channels:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected ({channels},), one per channel")
        if tensor.dtype != x.dtype and not (half and tensor.dtype == torch.float32):
            raise ValueError(f"{name} is {tensor.dtype} for an x of {x.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}; expected {x.device}, as x")
    if film is not None:
        check_film(film, x, channels)


def check_film(film: Tensor, x: Tensor, channels: int) -> None:
    """Raise a ValueError if film does not fit x (N, …) or the number of normalised channels."""
    if film.shape != (x.shape[0], 2 * channels):
        raise ValueError(
            f"film has shape {tuple(film.shape)}; expected {(x.shape[0], 2 * channels)}, γ and β of each image"
        )
    # Under autocast, a linear layer returns a half type, and x may be float32.
    dtypes = (*HALF_DTYPES, torch.float32) if torch.is_autocast_enabled(x.device.type) else (torch.float32,)
    if film.dtype != x.dtype and (x.dtype == torch.float64 or film.dtype not in dtypes):
        raise ValueError(f"film is {film.dtype} for an x of {x.dtype}")
    if film.device != x.device:
        raise ValueError(f"film is on {film.device}; expected {x.device}, as x")


def check_count(x: Tensor, groups: int) -> int:
    """The number of values in each channel of a group. One value raises the ValueError that PyTorch raises."""
    count = x.numel() // (x.shape[1] * groups)
    if count == 1:
        size = torch.Size((x.shape[0] // groups, *x.shape[1:]))
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")
    return count


def of_groups(statistics: Tensor, average: bool) -> Tensor:
    """Means or variances (groups, C) as ``norm_act_update`` takes them: one row where they are averaged."""
    return statistics.mean(0, keepdim=True) if average else statistics


backend.on_load(norm_act_gradient.register)
backend.on_load(norm_act_processes.register)
