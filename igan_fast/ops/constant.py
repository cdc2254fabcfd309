"""Weights that no longer change, and what evaluation computes from them alone.

Some results depend on weights only: the filters of a normalised convolution, into which the normalisation is folded,
and the filters that minimal filtering transforms. For a single image they cost more than the convolution. ``freeze``
marks the weights of a network, and ``derived`` then keeps such results from call to call.

A result is kept as long as its weights are what they were. PyTorch counts changes of a tensor, but not all: fused
optimisers and writes to ``.data`` are not counted. A kept result therefore also holds values of its weights, and
``derived`` compares them: all values of short tensors, and 64 values, evenly spread, of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["State", "cast", "derived", "freeze", "is_constant", "own", "sample", "source_of"]

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")

#: The attribute of what ``cast`` returns that holds its weight.
_SOURCE = "_igan_fast_source"

#: Tensors with at most so many values are compared as a whole. Of longer ones ``SAMPLES`` values are compared.
SHORT, SAMPLES = 1024, 64


def freeze(module: M) -> M:
    """Put a network into eval mode for good, so that what evaluation computes from its weights alone is computed once.

    All its parameters lose ``requires_grad``. On the CPU a frozen network is faster with small batches, in float32 and
    under autocast, whose casts of the weights are kept too. Of the time for one image it took 0.6 at 128² (width 64)
    and 0.3 at 64² (width 32), on two threads of an AMD EPYC with nothing between the calls; where other programs had
    used the caches in between, it gained nothing at 128². Results are those of eval mode, with other rounding errors.
    The kept results take up to five times the memory of the convolutions' weights.

    If weights change later, as by ``load_state_dict``, the next call computes with the new ones. Where parameters get
    ``requires_grad`` again, nothing is kept that depends on them, until ``freeze`` is called again.

    Args:
        module: any network with layers of this package, ``fuse`` included; it is changed in place.

    Returns:
        ``module``.

    Raises:
        TypeError: ``module`` is no ``nn.Module``.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: found a {type(module).__name__}, expected an nn.Module")
    module.eval().requires_grad_(False)
    for parameter in module.parameters():
        _constants[parameter] = _Derived(owned=False)
    return module


def is_constant(weight: Tensor) -> bool:
    """Whether results that depend on this weight are kept: it was frozen, or is such a result itself."""
    return _derived_from(weight) is not None


def derived(name: Hashable, sources: tuple[Tensor | None, ...], compute: Callable[[], T]) -> T:
    """``compute()``, or what it returned earlier, if the first source is a frozen weight and no source has changed.

    Args:
        name: of the result, with all that it depends on besides the sources.
        sources: the tensors that ``compute`` reads.
        compute: returns a tensor, or a tuple of tensors, that nobody changes. It runs without gradients where its
            result is kept.
    """
    first = sources[0]
    assert first is not None
    found = _derived_from(first)
    if found is None or not all(source is None or _is_watched(source) for source in sources):
        return compute()
    if found.owned:
        sources = sources[1:]  # nobody else has the first one, so it cannot have changed
    kept = found.values.get(name)
    if kept is not None:
        value, states = kept
        if all(
            state is None if source is None else state is not None and state.is_of(source)
            for source, state in zip(sources, states, strict=True)
        ):
            return value  # type: ignore[no-any-return]
    # In inference mode it could not be used later where gradients of the input are recorded.
    with torch.inference_mode(False), torch.no_grad():
        states = tuple(None if source is None else State(source) for source in sources)
        value = compute()
    for tensor in value if isinstance(value, tuple) else (value,):
        if isinstance(tensor, Tensor):
            own(tensor)
    found.values[name] = value, states
    return value


def own(tensor: Tensor) -> None:
    """Keep results that depend on this tensor. Nobody but the caller has it, and the caller never changes it."""
    _constants[tensor] = _Derived(owned=True)


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight.to(dtype)``. Of a frozen weight it is computed once, where autocast would compute it at each call.
    ``source_of`` returns the weight of any other result."""
    if weight.dtype == dtype:
        return weight
    if not is_constant(weight):
        result = weight.to(dtype)
        if not torch.compiler.is_compiling():
            setattr(result, _SOURCE, weight)
        return result
    # Feature maps are channels_last here, and PyTorch's convolution would turn a contiguous filter at each call.
    layout = torch.channels_last if weight.dim() == 4 else torch.preserve_format
    return derived(("cast", dtype), (weight,), lambda: weight.to(dtype, memory_format=layout))


def source_of(weight: Tensor) -> Tensor:
    """The tensor that ``cast`` made this one of, or the tensor itself."""
    source: Tensor = getattr(weight, _SOURCE, weight)
    return source


class State:
    """A tensor as it was when something was computed from it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # as long as this exists, no other tensor gets the same memory
        self.version = tensor._version
        self.values = sample(tensor).clone()

    def is_of(self, tensor: Tensor) -> bool:
        """Whether a tensor is this one, and has not changed."""
        before = self.tensor
        return (
            tensor._version == self.version
            and tensor.data_ptr() == before.data_ptr()
            and (tensor.shape, tensor.stride(), tensor.dtype) == (before.shape, before.stride(), before.dtype)
            and torch.equal(sample(tensor), self.values)
        )


def sample(tensor: Tensor) -> Tensor:
    """All values of a short tensor, or ``SAMPLES`` values of a longer one, evenly spread over its memory."""
    tensor = tensor.detach()
    count = tensor.numel()
    return tensor if count <= SHORT else tensor.as_strided((SAMPLES,), (count // SAMPLES,))


class _Derived:
    """What was computed from a constant tensor.

    Attributes:
        owned: whether the tensor is a kept result itself, and nobody else has it.
        values: by name, the result and the states of its sources.
    """

    def __init__(self, owned: bool) -> None:
        self.owned = owned
        self.values: dict[Hashable, tuple[Any, tuple[State | None, ...]]] = {}


#: The frozen weights and the kept results. A tensor's entry goes with it.
_constants: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _derived_from(weight: Tensor) -> _Derived | None:
    """What was computed from a constant weight; None if it is not constant, or does not count here."""
    if torch.compiler.is_compiling() or not _constants:
        return None
    found: _Derived | None = _constants.get(weight)  # type: ignore[no-untyped-call]
    if found is None or not _is_watched(weight):
        return None
    if weight.requires_grad:  # it is trained again
        del _constants[weight]
        return None
    return found


def _is_watched(tensor: Tensor) -> bool:
    """Whether changes of a tensor are seen: it is on the CPU, where comparing values costs next to nothing, contiguous
    or channels_last, and not made in inference mode, where PyTorch does not count changes."""
    return (
        tensor.device.type == "cpu"
        and not tensor.is_inference()
        and (tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)))
    )
