"""The base class of all fused modules, and functions that tell fused modules about tensors."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from igan_fast.fusion.expectation import Expectation
from igan_fast.ops.layout import CHANNELS_LAST

__all__ = [
    "ONE_PASS",
    "FusedModule",
    "derived_class",
    "fused_class_of",
    "is_few",
    "is_left_again",
    "is_parametrised",
    "is_small",
    "kind_of_call",
    "may_change_unseen",
    "memory_format_of",
]

#: Tensors with fewer elements are left to PyTorch, which is as fast there (measured).
MIN_ELEMENTS = 1 << 17

#: In evaluation without gradients, a batch normalisation is one pass over its input, and so is an activation. Where the
#: gain is one pass only, it pays from so many times ``MIN_ELEMENTS`` on (measured): in a network the Python of a fused
#: call takes about a tenth of a millisecond, because the layers before it have used the caches.
ONE_PASS = 8

#: As ``MIN_ELEMENTS``, but for the number of elements in one mean of instance normalisation.
MIN_ELEMENTS_PER_INSTANCE = 1 << 8

#: The attributes of a class that ``derived_class`` does not copy.
_OF_ONE_CLASS = {"__dict__", "__weakref__", "_made_from"}


class FusedModule(nn.Module):
    """A convolution, normalisation or linear layer of a fused model: PyTorch's module with another ``forward``.

    ``fuse`` sets the ``__class__`` of a module to a subclass of ``FusedModule`` and of the module's class. ``unfuse``
    sets it back.
    """

    #: PyTorch's class, which the module had before ``fuse`` and has after ``unfuse``.
    plain_class: ClassVar[type[nn.Module]]
    #: The class that ``fuse`` sets. A parametrisation sets a class derived from it (``is_parametrised``).
    fused_class: ClassVar[type[FusedModule]]
    #: Whether fused operators may run on parametrised tensors. ``forward`` then has to read each of them exactly once.
    may_be_parametrised: ClassVar[bool] = False

    _expectation: Expectation

    @classmethod
    def gains_for(cls, module: nn.Module) -> bool:
        """Whether ``fuse`` sets this class for ``module``, which is of PyTorch's class."""
        return True

    def start_fusion(self) -> None:
        """Begin with an empty expectation."""
        vars(self)["_expectation"] = Expectation()
        # A fused module has to be a leaf for torch.fx: a module is one if its __module__ begins with torch.nn.
        vars(self)["__module__"] = self.plain_class.__module__

    def end_fusion(self) -> None:
        """Make the module what it was before ``fuse``."""
        vars(self).pop("_expectation", None), vars(self).pop("__module__", None)
        if type(self) is self.fused_class:
            self.__class__ = self.plain_class  # type: ignore[assignment]
        elif is_parametrised(self, self.fused_class):
            self.__class__ = derived_class(type(self), self.plain_class)

    def has_fused_class(self) -> bool:
        """Whether the module has its fused class, or a class derived from it by a parametrisation that it supports."""
        kind = type(self)
        return kind is self.fused_class or (self.may_be_parametrised and is_parametrised(self, self.fused_class))

    def is_fused(self) -> bool:
        """Whether fused operators may run now: not while compiling, and not after ``unfuse``."""
        return not torch.compiler.is_compiling() and self.has_fused_class() and "_expectation" in self.__dict__

    def has_backward_hooks(self) -> bool:
        """Whether there are backward hooks on this module or on all modules. They need an ordinary tensor as result."""
        return bool(
            self._backward_hooks
            or self._backward_pre_hooks
            or torch_module._global_backward_hooks
            or torch_module._global_backward_pre_hooks
        )

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        """As ever. PyTorch calls it to move the module to another device, dtype or memory format."""
        expectation = vars(self).get("_expectation")
        if expectation is not None:
            expectation.forget_left()
        return super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """The state to copy or pickle, without the expectation, because other modules follow a copy."""
        state = vars(self).copy()
        if "_expectation" in state:
            state["_expectation"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if "_expectation" in state:
            self.start_fusion()


def kind_of_call(module: nn.Module, x: Any) -> Any:
    """All that decides whether a call with the input x gains anything, for ``Expectation.left``. None where x is no
    ordinary tensor, and where PyTorch's functions have to compute the result for other reasons."""
    # Under other transforms than tracing it is no harm that a call which gains nothing goes straight to PyTorch.
    if type(x) is not Tensor or torch.compiler.is_compiling() or torch._C._is_tracing() or _has_no_strides(x):
        return None
    return x.shape, x.stride(), x.dtype, x.device, module.training, torch.is_grad_enabled()


def is_left_again(expectation: Expectation, x: Any) -> bool:
    """Whether a call is like the last one without gradients that was left to PyTorch. This looks at less than
    ``kind_of_call``, so that a network that gains nothing is not slower. ``FusedModule._apply`` covers other devices
    and dtypes."""
    return (
        type(x) is Tensor
        and not torch.is_grad_enabled()
        and not torch._C._is_tracing()
        and not _has_no_strides(x)
        and x.shape == expectation.left_shape
        and x.stride() == expectation.left_stride
    )


def _has_no_strides(x: Tensor) -> bool:
    return x.is_nested or x.layout is not torch.strided


def is_parametrised(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether the module is parametrised (``torch.nn.utils.parametrize``), and was of the class ``kind`` before. Its
    class is then derived from ``kind``, and has the parametrised tensors as properties."""
    return "parametrizations" in module._modules and type(module).__bases__ == (kind,)


def derived_class(derived: type[nn.Module], base: type[nn.Module]) -> Any:
    """A class like ``derived``, but derived from ``base``: the one from which ``derived`` was made, if it still has the
    same attributes."""
    own = {name: value for name, value in vars(derived).items() if name not in _OF_ONE_CLASS}
    origin = vars(derived).get("_made_from")
    if origin is not None and origin.__bases__ == (base,) and own.keys() == vars(origin).keys() - _OF_ONE_CLASS:
        return origin
    return type(derived.__name__, (base,), {**own, "_made_from": derived})


def is_small(x: Tensor) -> bool:
    """Whether x has so few elements that PyTorch is as fast."""
    elements = x.numel()
    return elements < MIN_ELEMENTS or elements == 0


def is_few(elements: int) -> bool:
    """Whether PyTorch is as fast for a tensor of so many elements."""
    return elements < max(MIN_ELEMENTS, 1)


def may_change_unseen(x: Tensor) -> bool:
    """Whether x may be changed in place undetected: x is an inference tensor, which has no version counter, and another
    tensor shares its storage."""
    if not x.is_inference():
        return False
    uses: int = torch._C._storage_Use_Count(x.untyped_storage()._cdata)
    return uses > 2  # x itself, and the storage object of this line


def memory_format_of(x: Tensor) -> torch.memory_format | None:
    """``contiguous_format`` or ``channels_last`` (``channels_last_3d``), where x is dense in exactly one of them.

    None where x is dense in neither or in both (one channel, one pixel). Then PyTorch has to choose the memory format
    of the result.
    """
    channels_last = CHANNELS_LAST.get(x.dim())
    contiguous = x.is_contiguous()
    if channels_last is None:
        return torch.contiguous_format if contiguous else None
    if contiguous == x.is_contiguous(memory_format=channels_last):
        return None
    return torch.contiguous_format if contiguous else channels_last


def fused_class_of(plain: type[nn.Module], base: type[FusedModule], module: str) -> type[FusedModule]:
    """A subclass of ``base`` and ``plain`` with the ``forward`` of ``base`` and the name of ``plain``.

    Args:
        module: name of the Python module that it belongs to, where pickle looks for it.
    """
    own: Any = base.forward
    # A function of its own, because torch.jit.script follows its __wrapped__ and compiles PyTorch's forward, with the
    # names of the file of ``base``.
    forward = types.FunctionType(own.__code__, own.__globals__, own.__name__, own.__defaults__, own.__closure__)
    functools.update_wrapper(forward, plain.forward)
    namespace = {
        "__doc__": f"``nn.{plain.__name__}`` of a fused model.",
        "__module__": module,
        # torch.jit.script reads these too, from the class itself.
        "__annotations__": next(filter(None, map(inspect.get_annotations, plain.__mro__)), {}),
        "plain_class": plain,
        "forward": forward,
    }
    fused_class: Any = type(plain.__name__, (base, plain), namespace)
    fused_class.fused_class = fused_class
    return fused_class  # type: ignore[no-any-return]
