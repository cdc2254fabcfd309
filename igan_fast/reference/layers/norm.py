"""Normalisation and LeakyReLU as one module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igan_fast.reference import ops
from igan_fast.reference.processes import check_process_group
from igan_fast.reference.recorded import FxLeaf, is_proxy, is_tracing

if TYPE_CHECKING:
    from typing_extensions import Self

    from igan_fast.reference.processes import ProcessGroup

__all__ = ["NormAct2d", "TakeStatistics", "check_input", "normalised_apart", "set_process_group"]

#: Called by a layer in training, with the layer and its number of groups, before each batch. It returns a mean and a
#: variance (C,), which the batch updates in place of the running statistics.
TakeStatistics: TypeAlias = "Callable[[NormAct2d, int], tuple[Tensor, Tensor]]"


class NormAct2d(FxLeaf):
    """Batch normalisation and LeakyReLU: ``nn.BatchNorm2d`` followed by ``nn.LeakyReLU``.

    The positional arguments and the ``state_dict`` keys are those of ``nn.BatchNorm2d``. Each class can load the
    other's ``state_dict``, even an old one without ``num_batches_tracked``.

    Args:
        num_features: channels C of the input (N, C, H, W).
        eps: added to the variance.
        momentum: weight of a new batch in the running statistics. None: they are the mean over all batches so far. Then
            each call in training synchronises the host with the device, as in ``nn.BatchNorm2d``.
        affine: whether to have a weight and a bias.
        track_running_stats: whether to have running statistics, for eval mode. Without them each batch is normalised by
            its own statistics. None: PyTorch's default, which is False for ``groups="instance"`` and else True.
        negative_slope: 0 is a ReLU, 1 is no activation.
        groups: number of parts of the batch that are normalised separately, see ``ops.norm_act``. "instance": each
            image by itself, as in ``nn.InstanceNorm2d`` (``num_batches_tracked`` then stays 0, as there).
        process_group: a group of ``torch.distributed``, whose processes normalise their batches together in training,
            see ``ops.norm_act``. It is an attribute, which ``set_process_group`` changes; it is not part of the
            ``state_dict``, and a pickled module has none. None: this process alone.

    Attributes:
        take_statistics: where set, the batches update what it returns, and the running statistics and their count stay
            as they are. So statistics can be collected from many parts of a batch before they are applied in order.

    Raises:
        ValueError: ``groups`` is neither a positive number nor "instance"; ``momentum`` is None with running statistics
            of instances; or there is a ``process_group`` for instances.
        TypeError: ``process_group`` is something else.
    """

    #: The module whose operators it calls. The fused layers replace it by ``igan_fast.ops``.
    operators: ClassVar[Any] = ops

    _version = 2  # as in nn.BatchNorm2d: a state_dict has num_batches_tracked since version 2

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    take_statistics: TakeStatistics | None = None
    process_group: ProcessGroup | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        negative_slope: float = 0.2,
        groups: int | Literal["instance"] = 1,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if groups != "instance" and (not isinstance(groups, int) or groups < 1):
            raise ValueError(f"groups is {groups!r}; expected a positive number, or 'instance'")
        if track_running_stats is None:
            track_running_stats = groups != "instance"
        if momentum is None and track_running_stats and groups == "instance":
            raise ValueError("momentum is None; expected a number for the running statistics of groups='instance'")
        check_process_group(process_group)
        if process_group is not None and groups == "instance":
            raise ValueError(
                "groups is 'instance' with a process_group; expected a number of groups, or no process_group"
            )
        self.process_group = process_group
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.negative_slope, self.groups = negative_slope, groups
        for name in ("weight", "bias"):
            values = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if affine else None
            self.register_parameter(name, values)
        for name in ("running_mean", "running_var"):
            kept = torch.empty(num_features, device=device, dtype=dtype) if track_running_stats else None
            self.register_buffer(name, kept)
        count = torch.empty((), dtype=torch.long, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    @classmethod
    def from_torch(
        cls, norm: nn.BatchNorm2d | nn.InstanceNorm2d, act: nn.ReLU | nn.LeakyReLU | nn.Identity | None = None
    ) -> Self:
        """One layer from two modules. It shares the mode, parameters and buffers of ``norm``; nothing is copied.

        Args:
            norm: the normalisation.
            act: the activation after it; None or ``nn.Identity`` for none.

        Raises:
            TypeError: a module is of another class, or of a derived one.
        """
        if type(norm) not in (nn.BatchNorm2d, nn.InstanceNorm2d):
            raise TypeError(f"norm is a {type(norm).__name__}; expected an nn.BatchNorm2d or nn.InstanceNorm2d")
        module = cls(
            norm.num_features,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.track_running_stats,
            "meta",
            negative_slope=_slope_of(act),
            groups="instance" if type(norm) is nn.InstanceNorm2d else 1,
        )
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(module, name, getattr(norm, name))
        return module.train(norm.training)

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and the count of batches to 0."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0, and call ``reset_running_stats``."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        """(N, C, H, W) → the same shape; ``film`` is that of ``ops.norm_act``.

        Raises:
            ValueError: x has another number of dimensions or channels; ``film`` has another shape; ``groups`` does not
                divide N; or there is one value per channel while the batch's own statistics are needed.
        """
        if is_proxy(x) or is_proxy(film):
            node: Tensor = self.fx_node(x) if film is None else self.fx_node(x, film)
            return node
        check_input(x, self.num_features)
        if self.groups == "instance" and is_tracing():
            return self.of_any_batch(x, film)
        y: Tensor = self.operators.norm_act(x, self.weight, self.bias, film=film, **self.begin_pass(x))
        return y

    def of_any_batch(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        """Instance normalisation and LeakyReLU of x (N, C, H, W), and ``film``, for a traced graph, which may run on
        batches of any size: N is not an argument of its operators."""
        use = self.track_running_stats or not self.training
        mean, var = (self.running_mean, self.running_var) if use else (None, None)
        own = self.training or mean is None
        y = F.instance_norm(x, mean, var, self.weight, self.bias, own, self.momentum or 0.0, self.eps)
        y = ops.activate(y, self.negative_slope)
        return y if film is None else ops.modulate(y, film)

    def begin_pass(self, x: Tensor) -> dict[str, Any]:
        """Return the operator's keyword arguments for a batch x. In training, also add the number of groups to
        ``num_batches_tracked``: ``nn.BatchNorm2d``, called once per group, would do the same."""
        tracking = self.training and self.track_running_stats
        momentum, average = self.momentum, self.groups == "instance"
        groups = max(len(x), 1) if self.groups == "instance" else self.groups
        use = self.track_running_stats or not self.training
        mean, var = (self.running_mean, self.running_var) if use else (None, None)
        if tracking and self.take_statistics is not None:
            mean, var = self.take_statistics(self, groups)
        elif tracking and not average and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(groups)
            if momentum is None:  # the weight of the groups' mean statistics is the groups' share of all batches so far
                momentum, average = groups / float(self.num_batches_tracked), True
        return {
            "running_mean": mean,
            "running_var": var,
            "training": self.training,
            "momentum": 0.0 if momentum is None else momentum,
            "eps": self.eps,
            "negative_slope": self.negative_slope,
            "groups": groups,
            "average_groups": average,
            # Not in evaluation, where the processes need not make the same calls.
            "process_group": self.process_group if self.training and self.groups != "instance" else None,
        }

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}, negative_slope={self.negative_slope}, "
            f"groups={self.groups!r}" + (f", processes={self.process_group.size()}" if self.process_group else "")
        )

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle: without the process group, which exists in this process only."""
        return {**vars(self), "process_group": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy in the same process group, which itself cannot be copied."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update(copy.deepcopy(self.__getstate__(), memo), process_group=self.process_group)
        return copied

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Mapping[str, Any], *rest: Any
    ) -> None:
        version = local_metadata.get("version")
        key = f"{prefix}num_batches_tracked"
        if (version is None or version < 2) and self.num_batches_tracked is not None and key not in state_dict:
            on_meta = self.num_batches_tracked.is_meta
            state_dict[key] = torch.tensor(0) if on_meta else self.num_batches_tracked
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@contextmanager
def normalised_apart(module: nn.Module, groups: int) -> Iterator[None]:
    """Inside the block, every batch normalisation (``NormAct2d``) of ``module`` splits its batch into ``groups`` equal
    parts, and normalises each part by its mean and variance. Several batches can then pass through the network in one
    call, with the same results as in separate calls.

    Instance normalisations do not change: they always normalise each image separately.
    """
    norms = [p for p in module.modules() if isinstance(p, NormAct2d) and p.groups != "instance"]
    before = [norm.groups for norm in norms]
    for norm in norms:
        norm.groups = groups
    try:
        yield
    finally:
        for norm, count in zip(norms, before, strict=True):
            norm.groups = count


def set_process_group(module: nn.Module, process_group: ProcessGroup | None) -> None:
    """From now on, in training, every batch normalisation (``NormAct2d``) of ``module`` normalises its batch together
    with those of the other processes of the group (``ops.norm_act``); None: this process alone.

    Instance normalisations do not change: they always normalise each image separately.

    Raises:
        TypeError: ``process_group`` is not a group of ``torch.distributed`` that this process belongs to.
    """
    check_process_group(process_group)
    for part in module.modules():
        if isinstance(part, NormAct2d) and part.groups != "instance":
            part.process_group = process_group


def check_input(x: Tensor, channels: int) -> None:
    """Raise a ValueError if x is not of shape (N, channels, H, W)."""
    # The channels are not checked while tracing. In a traced graph the operator itself raises the error.
    if x.dim() != 4 or (not is_tracing() and x.shape[1] != channels):
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (N, {channels}, H, W)")


def _slope_of(act: nn.Module | None) -> float:
    if act is None or type(act) is nn.Identity:
        return 1.0
    if type(act) is nn.ReLU:
        return 0.0
    if type(act) is nn.LeakyReLU:
        return act.negative_slope
    raise TypeError(f"act is a {type(act).__name__}; expected an nn.ReLU, nn.LeakyReLU, nn.Identity or None")
