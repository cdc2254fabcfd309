"""``--init``: a new run starts from the networks of another one, whose attributes it matches by name.

Most weights do not depend on the attributes and are copied. Some tensors have an axis with one entry per attribute: the
rows of C's last layer, and the columns with which G reads the labels. There the entries of the attributes that both
runs have are copied, and the others stay as the new run has drawn them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.checkpoint.description import check_statistics
from igan_fast.checkpoint.find import find_checkpoint
from igan_fast.checkpoint.folder import Fits
from igan_fast.checkpoint.tensor_specs import Specs, check_specs, specs_of
from igan_fast.errors import InputError, option, printable
from igan_fast.files import FileDamaged
from igan_fast.train.method import Described

if TYPE_CHECKING:
    from igan_fast.train.run_config import RunConfig

__all__ = ["Initial", "attribute_axes", "initial_options", "load_initial", "matched"]

#: The most names that the line about a warm start lists.
_LISTED = 8

#: The groups of tensors that hold weights of the networks.
_WEIGHTS = ("model", "ema")


class Initial(NamedTuple):
    """The networks that a new run starts from."""

    networks: Described
    tensors: dict[str, dict[str, Tensor]]
    """Their weights: the group ``"model"``, and ``"ema"`` where the run kept an average."""
    folder: Path
    """The checkpoint."""

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        """For each tensor with entries of attributes, their axes. See ``attribute_axes``."""
        return {name: axes for name, axes in attribute_axes(self.networks).items() if axes}

    def fitted(self, fresh: Mapping[str, Tensor], attributes: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Return the weights for a run of other attributes.

        Args:
            fresh: the initial weights of that run.
            attributes: the names of its attributes.

        Returns:
            The groups of ``tensors``, on the CPU, with the shapes of ``fresh``.
        """
        known = self.networks.attributes
        if known == tuple(attributes):
            return {group: dict(tensors) for group, tensors in self.tensors.items()}
        axes = self.axes
        return {
            group: tensors | {name: matched(tensors[name], fresh[name], axes[name], known, attributes) for name in axes}
            for group, tensors in self.tensors.items()
        }

    def told(self, attributes: Sequence[str]) -> str:
        """Return one line that says what a run of these attributes starts from."""
        known = self.networks.attributes
        arguments = self.networks.arguments.items()
        options = [f"{option(name)} {value}" for name, value in arguments if name != "attributes"]
        line = f"starts from {self.folder} ({' '.join(options)})"
        if known != tuple(attributes) and not self.axes:
            return line  # its networks know no attributes
        new = [name for name in attributes if name not in known]
        line += f": {len(attributes) - len(new)} of {len(attributes)} attributes known"
        if new:
            line += f"; drawn anew: {_listed(new)}"
        if dropped := [name for name in known if name not in attributes]:
            line += f"; left out: {_listed(dropped)}"
        return line


def initial_options(config: RunConfig) -> dict[str, Any]:
    """Return the options that the networks in ``config.init`` were made with, by name. No weights are read.

    Raises:
        InputError: as ``load_initial``.
    """
    path = _named(config)
    try:
        found = find_checkpoint(path, _silent, only=())
        described = config.method_class().described(found.folder, found.state)
    except InputError as error:
        raise InputError(f"--init {error}") from error
    return {name: value for name, value in described.arguments.items() if name != "attributes"}


def load_initial(config: RunConfig) -> Initial:
    """Load the networks in ``config.init``: a run, of which the best checkpoint is taken, or a checkpoint folder.

    Raises:
        InputError: there is no checkpoint, it is damaged, it is of another kind of run, or its networks have other
            sizes than ``config``.
    """
    path = _named(config)
    method = config.method_class()
    try:
        found = find_checkpoint(path, lambda line: print(printable(line)), only=_WEIGHTS, fits=_fits(config))
        for group, tensors in found.tensors.items():
            check_statistics(tensors, found.folder / f"{group}.safetensors")
    except InputError as error:
        raise InputError(f"--init {error}") from error
    return Initial(method.described(found.folder, found.state), found.tensors, found.folder)


def attribute_axes(networks: Described) -> dict[str, tuple[int, ...]]:
    """Return the axes of each tensor of the networks whose size grows with the number of attributes.

    They are found by making the networks, without memory, with one attribute more.

    Raises:
        TypeError: a size grows by another number than 1, or a tensor exists only with one of the two numbers. Then
            the networks cannot be matched.
    """
    count = len(networks.attributes)
    small, large = (specs_of(networks.on_meta(each).state_dict()) for each in (count, count + 1))
    axes: dict[str, tuple[int, ...]] = {}
    for name in small.keys() | large.keys():
        if name not in small or name not in large or len(small[name].shape) != len(large[name].shape):
            raise TypeError(f"{name} exists only with some numbers of attributes")
        grown = [more - less for less, more in zip(small[name].shape, large[name].shape, strict=True)]
        if set(grown) - {0, 1}:
            raise TypeError(f"{name} grows by {grown} with one attribute; expected 0 or 1 in each axis")
        axes[name] = tuple(axis for axis, more in enumerate(grown) if more)
    return axes


def matched(old: Tensor, fresh: Tensor, axes: Sequence[int], known: Sequence[str], attributes: Sequence[str]) -> Tensor:
    """Return the tensor of a new run: what both runs have from ``old``, the rest from ``fresh``.

    The entries of the attributes are the last ones of an axis: all networks of this package join the labels behind
    other inputs.

    Args:
        old: the tensor of the other run, with the attributes ``known``.
        fresh: the initial tensor of the new run, with ``attributes``.
        axes: those with entries of attributes; in all others both have the same size.
    """
    shared = [name for name in attributes if name in known]
    take, put = [], []
    for axis in range(old.dim()):
        taken = list(range(old.shape[axis] - (len(known) if axis in axes else 0)))
        placed = list(taken)
        if axis in axes:
            taken += [old.shape[axis] - len(known) + known.index(name) for name in shared]
            placed += [fresh.shape[axis] - len(attributes) + attributes.index(name) for name in shared]
        shape = [-1 if each == axis else 1 for each in range(old.dim())]
        take.append(torch.tensor(taken, dtype=torch.long).view(shape))
        put.append(torch.tensor(placed, dtype=torch.long).view(shape))
    result = fresh.detach().to("cpu", copy=True)
    result[tuple(put)] = old[tuple(take)]
    return result


def _named(config: RunConfig) -> Path:
    assert config.init is not None, "only called for a config with init"
    return config.init


def _fits(config: RunConfig) -> Fits:
    """Return a ``Fits`` that accepts the checkpoints from which a new run under ``config`` may start."""
    method = config.method_class()

    def fits(folder: Path, state: dict[str, Any], groups: Mapping[str, Specs]) -> None:
        described = method.described(folder, state)
        method.check_initial(config, described, folder)
        for name, expected in described.arguments.items():
            if name != "attributes" and (found := getattr(config, name)) != expected:
                raise InputError(
                    f"{folder}: its networks have {option(name)} {expected}, but the new run is given {found}; leave "
                    f"{option(name)} out"
                )
        if "model" not in groups:
            raise FileDamaged(f"{folder}: holds no networks")
        weights = specs_of(described.on_meta().state_dict())
        for group, specs in groups.items():
            check_specs(specs, weights, folder / f"{group}.safetensors")

    return fits


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _silent(line: str) -> None:
    """``load_initial`` reports the same line again."""
