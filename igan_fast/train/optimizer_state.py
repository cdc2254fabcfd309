"""Converts an optimiser's state to named tensors, so that a checkpoint needs no pickle and no fixed parameter order.

``torch.distributed.checkpoint.state_dict`` has functions that name states too, but with them a run cannot be resumed
exactly (PyTorch 2.13). If the optimiser has no state yet, ``get_optimizer_state_dict`` takes a step with zero
gradients, so Adam counts one step too many. ``set_optimizer_state_dict`` accepts NaN and moments of any shape. It also
keeps the strides of the file instead of those of the parameter, so moments of channels_last weights become contiguous.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from igan_fast.errors import InputError

__all__ = ["load_optimizer_tensors", "optimizer_to_tensors"]


def optimizer_to_tensors(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the state of ``optimizer`` (Adam's step count and moments …) as ``{"PARAMETER/KEY": tensor}``, not copied.

    Args:
        optimizer: any optimiser whose state consists of tensors. Settings such as the learning rate are left out,
            because they belong to the configuration.
        named_parameters: at least the parameters of ``optimizer``, as ``module.named_parameters()`` returns them.

    Raises:
        ValueError: a parameter of ``optimizer`` has no name.
        TypeError: the optimiser's state holds something other than tensors.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in _own(optimizer, named_parameters).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{type(optimizer).__name__}: the state {key!r} of {name} is not a tensor: {value!r}")
            tensors[f"{name}/{key}"] = value
    return tensors


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, Tensor]],
    tensors: Mapping[str, Tensor],
    *,
    where: str = "optimiser state",
) -> None:
    """Restore the state that :func:`optimizer_to_tensors` returned, bit for bit, on the devices of the parameters.

    Moments get the strides of their parameter, so that a resumed step takes the same kernels. Settings such as the
    learning rate are not changed.

    Args:
        optimizer, named_parameters: as for :func:`optimizer_to_tensors`.
        tensors: what it returned.
        where: the beginning of error messages, such as the file's name.

    Raises:
        InputError: ``tensors`` names an unknown parameter or lacks one of the optimiser's, a moment has another shape
            or type than its parameter, or a value is impossible. The optimiser is then unchanged.
    """
    own = _own(optimizer, named_parameters)
    states: dict[str, dict[str, Tensor]] = {name: {} for name in own}
    for full, tensor in tensors.items():
        name, _, key = full.rpartition("/")
        if name not in own:
            raise InputError(f"{where}: {full!r} belongs to no parameter of this optimiser")
        parameter = own[name]
        if reason := _wrong(key, tensor, parameter):
            raise InputError(f"{where}: {full!r} {reason}")
        if key == "step":
            states[name][key] = tensor.clone()
        else:
            states[name][key] = torch.empty_like(parameter.detach(), device="cpu").copy_(tensor)
    kept = {key for state in states.values() for key in state}
    for name, state in states.items():
        if missing := sorted(kept - state.keys()) or ([] if kept else ["step"]):
            raise InputError(f"{where}: {f'{name}/{missing[0]}'!r} is missing")
    # The optimiser numbers its parameters in the order of its groups, which is also the order of `own`.
    numbered = {number: states[name] for number, name in enumerate(own)}
    optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})


def _wrong(key: str, tensor: Tensor, parameter: Tensor) -> str:
    """Return why a parameter cannot have this state; an empty string if it can."""
    if key == "step":
        if tensor.dim() > 0 or not tensor.is_floating_point():
            return f"is {tensor.dtype} of shape {tuple(tensor.shape)}, expected one floating-point number"
        count = float(tensor)
        return "" if count.is_integer() and count >= 0 else f"is {count}, expected a whole number from 0 up"
    if tensor.shape != parameter.shape:
        return f"has shape {tuple(tensor.shape)}, its parameter {tuple(parameter.shape)}"
    if tensor.dtype != parameter.dtype:
        return f"is {tensor.dtype}, its parameter {parameter.dtype}"
    if not bool((finite := tensor.isfinite()).all()):
        return f"holds {tensor[~finite][0].item()}, expected finite numbers"
    if key.endswith("sq") and bool((tensor < 0).any()):
        return f"holds {float(tensor.min())}, expected no mean of squares below 0"
    return ""


def _own(optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return the parameters of ``optimizer`` by name, in the optimiser's order."""
    names = {id(parameter): name for name, parameter in named_parameters}
    own: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise ValueError(f"a parameter of shape {tuple(parameter.shape)} in the optimiser has no name")
            own[names[id(parameter)]] = parameter
    return own
