"""What evaluation keeps of a convolution from call to call.

Without gradients, a convolution computes with copies of its weight and bias. If it expects a normalisation, that is
folded into them. As long as the tensors have the same bits as the copies, the copies are used again, and so is what was
computed from them, such as transformed filters. A comparison takes about a tenth of the time of a new copy. Version
counters would not do: they do not count writes through ``.data``, by NumPy and by fused optimisers. The bits of a
normalisation are compared once in each call, when it takes its result from the convolution's (``is_of_norm``); before,
the convolution looks at its version counters only, and computes in vain in the rare case that these miss a change.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.fusion.result import clones
from igan_fast.ops.constant import State, is_constant, own
from igan_fast.ops.conv_norm_act import fold
from igan_fast.ops.convolution import ConvSettings

__all__ = ["Kept"]


class Kept:
    """Copies of tensors, and the weight and the bias to convolve with.

    Args:
        tensors: weight and bias of the convolution; then, where a normalisation is folded into them, its weight, bias,
            running mean and running variance.
        eps: of that normalisation; None where there is none.
        settings: of the convolution.
        dtype: of the computation.

    Attributes:
        copies: of the tensors.
        weight, bias: to convolve with.
        is_constant: whether results that depend on the weight alone are kept: from the second call on.
    """

    __slots__ = ("_arguments", "_is_outdated", "_states", "bias", "copies", "is_constant", "weight")

    def __init__(
        self, tensors: Sequence[Tensor | None], eps: float | None, settings: ConvSettings, dtype: torch.dtype
    ) -> None:
        with torch.inference_mode(False), torch.no_grad():
            copies: Any = clones(*tensors)
            self.copies: tuple[Tensor | None, ...] = copies
            self._states = [None if t is None else _State.of(t, c) for t, c in zip(tensors, copies, strict=True)]
            self._arguments, self.is_constant, self._is_outdated = (eps, settings, dtype), False, False
            self.weight: Tensor
            self.bias: Tensor | None
            if eps is None:
                self.weight, self.bias = copies
            else:
                folded, self.bias = fold(*copies, settings, eps, dtype)  # type: ignore[call-arg]
                self.weight = _with_strides_of(copies[0], folded)

    def is_of(
        self, tensors: Sequence[Tensor | None], eps: float | None, settings: ConvSettings, dtype: torch.dtype
    ) -> bool:
        """Whether these are the arguments, and the tensors are the same, as far as version counters tell for those of
        the normalisation. Then they are kept from now on."""
        if self._is_outdated or (eps, settings, dtype) != self._arguments or not self._have_same_bits(tensors[:2], 0):
            return False
        if len(tensors) > 2 and not (self._are_counted(tensors[2:]) or self._have_same_bits(tensors[2:], 2)):
            return False
        if not self.is_constant:
            self.is_constant = True
            own(self.weight)
        return True

    def is_of_norm(self, tensors: Sequence[Tensor | None], eps: float) -> bool:
        """Whether these are still the tensors and the eps of the normalisation. On other devices than the CPU a
        comparison of bits would wait for the device; there version counters have to do."""
        if self.weight.device.type != "cpu":
            return eps == self._arguments[0] and self._are_counted(tensors)
        self._is_outdated = eps != self._arguments[0] or not self._have_same_bits(tensors, 2)
        return not self._is_outdated

    def _are_counted(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether these are the tensors of the normalisation, unchanged by their version counters."""
        for tensor, state in zip(tensors, self._states[2:], strict=True):
            if tensor is None or state is None:
                if (tensor is None) != (state is None):
                    return False
            elif state.counted != (id(tensor), tensor._version, tensor.data_ptr()):
                return False
        return True

    def _have_same_bits(self, tensors: Sequence[Tensor | None], first: int) -> bool:
        for tensor, state in zip(tensors, self._states[first : first + len(tensors)], strict=True):
            if tensor is None or state is None:
                if (tensor is None) != (state is None):
                    return False
            elif not state.has_bits_of(tensor):
                return False
        return True


class _State(NamedTuple):
    """What a tensor was when it was copied.

    Attributes:
        shape, stride, dtype, device: of the copy.
        address, size: of the copy's memory, in bytes; 0 on other devices than the CPU.
        counted: identity, version counter and address of the tensor; None of an inference tensor, which has no counter.
        frozen: of a frozen tensor, what few of its values were; else None.
    """

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    address: int
    size: int
    counted: tuple[int, ...] | None
    frozen: State | None

    @classmethod
    def of(cls, tensor: Tensor, copy: Tensor) -> _State:
        counted = None if tensor.is_inference() else (id(tensor), tensor._version, tensor.data_ptr())
        kind = copy.shape, copy.stride(), copy.dtype, copy.device
        if copy.device.type != "cpu":
            return cls(*kind, 0, 0, counted, None)
        frozen = State(tensor) if is_constant(tensor) else None
        return cls(*kind, copy.data_ptr(), copy.numel() * copy.itemsize, counted, frozen)

    def has_bits_of(self, tensor: Tensor) -> bool:
        """Whether a tensor has the same bits. A copy is dense, so a tensor of the same strides is dense too. On other
        devices than the CPU, where a comparison would wait for the device, it is False."""
        if self.frozen is not None and is_constant(tensor):
            return self.frozen.is_of(tensor)
        return (
            tensor.shape == self.shape
            and tensor.stride() == self.stride
            and tensor.dtype is self.dtype
            and tensor.device == self.device
            and self.address != 0
            and _compare_memory(tensor.data_ptr(), self.address, self.size) == 0
        )


def _memcmp() -> Callable[[int, int, int], int]:
    """C's ``memcmp``. PyTorch's ``equal`` compares value by value, and takes about nine times as long."""
    library = ctypes.CDLL("msvcrt" if hasattr(ctypes, "windll") else None)
    compare: Any = library.memcmp
    compare.argtypes, compare.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int
    return compare  # type: ignore[no-any-return]


_compare_memory = _memcmp()


def _with_strides_of(weight: Tensor, folded: Tensor) -> Tensor:
    """``folded`` with the strides of ``weight``, on which the memory format of PyTorch's result depends."""
    if folded.stride() == weight.stride():
        return folded
    return torch.empty_strided(weight.shape, weight.stride(), dtype=folded.dtype, device=folded.device).copy_(folded)
