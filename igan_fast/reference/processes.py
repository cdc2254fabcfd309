"""Sums and normalisation over the processes of a group of ``torch.distributed``, in plain PyTorch.

Every process of the group has to make the same calls in the same order, forward and backward, as for all collective
operations. The results have the same bits on every process.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    #: One group of processes: ``torch.distributed.group.WORLD``, or one of ``torch.distributed.new_group``.
    ProcessGroup: TypeAlias = dist.ProcessGroup

__all__ = ["batch_norm", "check_count", "check_process_group", "gather", "is_shared", "total"]


def is_shared(process_group: ProcessGroup | None) -> bool:
    """Whether the group has more than one process.

    Raises:
        TypeError: ``process_group`` is neither a group that this process belongs to nor None.
    """
    check_process_group(process_group)
    return process_group is not None and process_group.size() > 1


def check_process_group(process_group: ProcessGroup | None) -> None:
    """Raise a TypeError unless ``process_group`` is None or a group that this process belongs to."""
    if process_group is None or (dist.is_available() and isinstance(process_group, dist.ProcessGroup)):
        return
    raise TypeError(
        f"process_group is {process_group!r}; expected a group of torch.distributed that this process belongs to, or "
        "None"
    )


def gather(x: Tensor, process_group: ProcessGroup) -> Tensor:
    """x of every process of the group, in the order of their ranks: (processes, *x.shape). Not differentiable."""
    gathered = x.new_empty((process_group.size(), x.numel()))
    if x.numel():
        # PyTorch 2.13 gave the function another name.
        all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        all_gather(gathered.view(-1), x.detach().reshape(-1), group=process_group)
    return gathered.view(-1, *x.shape)


def total(x: Tensor, process_group: ProcessGroup) -> Tensor:
    """The sum of x over the processes of the group, added in a fixed order.

    The result of every process depends on x. So the gradient of x is the sum of the gradients of all results, as if the
    processes' losses were added.
    """
    result: Tensor = _Total.apply(x, process_group)  # type: ignore[no-untyped-call]
    return result


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, process_group: ProcessGroup) -> Tensor:
        ctx.process_group = process_group
        return gather(x, process_group).sum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return total(grad, ctx.process_group), None


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    process_group: ProcessGroup,
) -> Tensor:
    """``F.batch_norm`` in training, by the mean and variance over the batches of all processes of the group. The
    processes may have batches of different sizes, also empty ones.

    Args:
        x: (N, C, *spatial), float32 or float64.
        running_mean, running_var: (C,), updated in place; or None.

    Raises:
        ValueError: all processes together have fewer than two values per channel. (On a GPU this is not checked,
            because the host would have to wait for the number; then the result is NaN.)
    """
    over = [d for d in range(x.dim()) if d != 1]
    per_channel = (-1, *[1] * (x.dim() - 2))
    own = x.shape[0] * math.prod(x.shape[2:])
    count = total(torch.tensor(own, dtype=torch.float64, device=x.device), process_group)
    check_count(count, process_group)
    mean = total(x.sum(over), process_group) / count
    centred = x - mean.view(per_channel)
    var = total(centred.square().sum(over), process_group) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.mul_(1 - momentum).add_(momentum * mean)
            running_var.mul_(1 - momentum).add_(momentum * var * count / (count - 1))
    y = centred * (var + eps).rsqrt().view(per_channel)
    if weight is not None:
        y = y * weight.to(x.dtype).view(per_channel)
    return y if bias is None else y + bias.to(x.dtype).view(per_channel)


def check_count(count: Tensor, process_group: ProcessGroup) -> None:
    """Raise a ValueError if all processes together have fewer than two values per channel. On a GPU, where the host
    would have to wait for the number, do nothing.

    Args:
        count: the number of values, in one element.
    """
    if count.device.type == "cpu" and count.item() < 2:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got {int(count)} in all {process_group.size()} "
            "processes of process_group"
        )
