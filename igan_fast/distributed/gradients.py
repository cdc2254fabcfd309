"""Sums of the parts' gradients over all processes.

``OverlappedSum`` is the fast one: gradients lie in flat buckets, and a bucket is summed as soon as the backward pass
has written all of it. ``OrderedSum`` adds the gradients of the parts in the order of the parts, so that its bits do not
depend on the number of processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from igan_fast.distributed.process import Process
from igan_fast.reference.processes import gather

__all__ = ["GradientSum", "OrderedSum", "OverlappedSum", "gathered"]

#: Bytes of a bucket. A smaller one is summed earlier, a larger one in fewer calls.
BUCKET_BYTES = 25 * 2**20


class GradientSum(ABC):
    """The sum of the gradients of some parameters over all parts of a batch.

    Use: ``begin``; the backward passes of each part, ``end_part``; ``finish``. All processes must call them alike.

    Args:
        parameters: they require gradients, and are the same in all processes.
        process: this process. The process group was made before if there are others.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], process: Process) -> None:
        self.parameters = list(parameters)
        self.process = process

    @abstractmethod
    def begin(self, passes: int) -> None:
        """Set the gradients to zero.

        Args:
            passes: in how many backward passes of this process, in all its parts, each parameter gets a gradient.
        """

    def end_part(self) -> None:  # noqa: B027  # only some do something here
        """The backward passes of a part are done."""

    @abstractmethod
    def finish(self) -> None:
        """Set ``grad`` of each parameter to the sum."""


class _Bucket:
    """Gradients that lie one after the other in one tensor."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.flat = torch.zeros(sum(each.numel() for each in parameters), dtype=parameters[0].dtype).to(
            parameters[0].device
        )
        pieces = torch.split(self.flat, [each.numel() for each in parameters])
        # With the strides of the parameters, as autograd makes gradients, so that an optimiser takes the same kernel.
        self.views = [
            piece.as_strided(each.size(), each.stride(), piece.storage_offset())
            for piece, each in zip(pieces, parameters, strict=True)
        ]
        self.missing = 0  # backward passes of its parameters that are still to come
        self.work: dist.Work | None = None


class OverlappedSum(GradientSum):
    """Sums each bucket while the backward pass goes on. In one process, it only adds the parts' gradients."""

    def __init__(self, parameters: Iterable[nn.Parameter], process: Process, bucket_bytes: int = BUCKET_BYTES) -> None:
        super().__init__(parameters, process)
        # The backward pass reaches the last layers first.
        self._buckets = [_Bucket(each) for each in _in_buckets(self.parameters[::-1], bucket_bytes)]
        self._next = len(self._buckets)  # the first bucket that is not being summed yet
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook(bucket))  # type: ignore[no-untyped-call]

    def _hook(self, bucket: _Bucket) -> Callable[[Tensor], None]:
        def written(_: Tensor) -> None:
            if self._next == len(self._buckets):  # no sum has begun, or it has ended
                return
            bucket.missing -= 1
            self._sum_ready()

        return written

    def begin(self, passes: int) -> None:
        for bucket in self._buckets:
            bucket.flat.zero_()
            bucket.missing = passes * len(bucket.parameters)
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                parameter.grad = view
        self._next = 0

    def _sum_ready(self) -> None:
        # In the order of the buckets, because all processes must sum them in one order.
        while self._next < len(self._buckets) and self._buckets[self._next].missing <= 0:
            self._sum(self._buckets[self._next])
            self._next += 1

    def _sum(self, bucket: _Bucket) -> None:
        if not self.process.is_alone:
            bucket.work = dist.all_reduce(bucket.flat, async_op=True)

    def finish(self) -> None:
        for bucket in self._buckets[self._next :]:  # a parameter had no gradient: its sum is 0
            self._sum(bucket)
        self._next = len(self._buckets)
        for bucket in self._buckets:
            if bucket.work is not None:
                bucket.work.wait()
                bucket.work = None


class OrderedSum(GradientSum):
    """Keeps the gradients of each part, and adds them in the order of the parts: ((g₀ + g₁) + g₂) + …"""

    def __init__(self, parameters: Iterable[nn.Parameter], process: Process, bucket_bytes: int = BUCKET_BYTES) -> None:
        super().__init__(parameters, process)
        self._bytes = bucket_bytes
        self._parts: list[list[Tensor | None]] = []

    def begin(self, passes: int) -> None:
        self._parts = []
        self._clear()

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def end_part(self) -> None:
        self._parts.append([parameter.grad for parameter in self.parameters])
        self._clear()

    def finish(self) -> None:
        begin = 0
        for bucket in _in_buckets(self.parameters, self._bytes):
            end = begin + len(bucket)
            parts = [
                torch.cat([_flat(grad, each) for grad, each in zip(part[begin:end], bucket, strict=True)])
                for part in self._parts
            ]
            total: Tensor | None = None
            for part in gathered(torch.stack(parts), self.process):
                total = part.clone() if total is None else total.add_(part)
            assert total is not None, "finish is called after end_part"
            for parameter, piece in zip(bucket, torch.split(total, [each.numel() for each in bucket]), strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(piece.view(parameter.shape))
            begin = end
        self._parts = []


def _flat(grad: Tensor | None, parameter: nn.Parameter) -> Tensor:
    return parameter.new_zeros(parameter.numel()) if grad is None else grad.reshape(-1)


def gathered(own: Tensor, process: Process) -> Tensor:
    """Return the vectors (M, n) of all processes, in the order of their ranks: (W · M, n)."""
    if process.is_alone:
        return own
    world = dist.group.WORLD
    assert world is not None, "the process group is made before"
    return gather(own, world).flatten(0, 1)


def _in_buckets(parameters: Sequence[nn.Parameter], most: int) -> list[list[nn.Parameter]]:
    """Cut the list where a bucket is full, or where the dtype or the device changes."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        size += parameter.nbytes
        last = buckets[-1][-1] if buckets else None
        if last is None or size > most or (last.dtype, last.device) != (parameter.dtype, parameter.device):
            buckets.append([])
            size = parameter.nbytes
        buckets[-1].append(parameter)
    return buckets
