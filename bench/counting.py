"""Counts what operator calls read, write and compute, from the shapes of their tensors alone.

``Counter`` is a dispatch mode: it lists every call of PyTorch's operators, and of ours, inside its block. With fake
tensors (``torch._subclasses.FakeTensorMode``) nothing is computed, so that any size is counted in a second.

The bytes are the fewest that a call moves as a GPU computes it, each operator by kernels of its own: every input is
read once, and every result is written once. The exceptions are listed below.
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench.flops import flops_of

__all__ = ["BIAS", "Call", "Counter", "beside_product"]

PACKAGE = str(Path(__file__).resolve().parents[1] / "igan_fast") + "/"

#: The file of the iteration, and the file with the function that wraps every operator.
ITERATION, WRAPPER = "step.py", "ops/transforms.py"

#: The arguments that an operator reads twice, by position. norm_act computes the statistics of x, and then normalises
#: it; its backward pass computes two sums over the gradient and x, and then the gradient of x. So does PyTorch's.
READ_TWICE = {
    "norm_act": (0,),
    "norm_act_backward": (0, 1),
    "native_batch_norm": (0,),
    "native_batch_norm_backward": (0, 1),
}

#: The convolutions, whose first two arguments are the factors of a product, and whose first result is the product. Some
#: of ours read and write more (``beside_product``).
CONVOLUTIONS = (
    "convolution",
    "convolution_statistics",
    "convolution_from_image",
    "convolution_to_image",
    "convolution_weight_gradient",
    "convolution_image_weight_gradient",
    "convolution_block_gradient",
    "convolution_image_block_gradient",
)

#: Operators that fill their result first, and then copy the input into a part of it.
FILL_AND_COPY = ("constant_pad_nd", "select_backward", "slice_backward")

#: Operators that overwrite their first argument without reading it.
OVERWRITE = ("copy_", "fill_", "zero_")

#: Adam's list of gradients, which it may overwrite only if they are scaled (``torch.amp.GradScaler``).
ONLY_READ = ("grads",)

#: On a GPU, PyTorch adds a convolution's bias in a second kernel. It has no operator, and is a call of this name here.
BIAS = "bias of a convolution"


class Call(NamedTuple):
    """One pass over memory, or one product.

    Attributes:
        operator: its name without namespace and overload: "convolution", "norm_act", "_to_copy".
        shapes, results: the shapes of the tensors among its arguments and results.
        dtype: of its first tensor; products are computed in it.
        read, written: bytes.
        flops: of a product; a multiplication and an addition count as two.
        line: the line of this package that causes the call, "models.py:77 judge"; of the iteration's file if there is
            no other. Empty unless asked for.
        caller: the line of the iteration from which it is reached, "step.py:190 _backward_d". Empty unless asked for.
    """

    operator: str
    shapes: tuple[tuple[int, ...], ...]
    results: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    read: int
    written: int
    flops: int = 0
    line: str = ""
    caller: str = ""

    @property
    def moved(self) -> int:
        """The bytes that it reads and writes."""
        return self.read + self.written


class Counter(TorchDispatchMode):
    """Lists the calls inside its block, without those that touch no data, such as views and allocations.

    Args:
        lines: find the line that causes each call, too. Lines that cause backward passes are found only if autograd's
            anomaly mode is on during the forward passes (``torch.autograd.set_detect_anomaly``).
    """

    def __init__(self, *, lines: bool = False) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._lines = lines

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        found = [call for call in _calls(func, args, kwargs or {}, result) if call.moved]
        if found and self._lines:
            line, caller = _cause()
            found = [call._replace(line=line, caller=caller) for call in found]
        self.calls += found
        return result


def beside_product(call: Call) -> int:
    """The bytes that a call moves beside a convolution's product: all but its two factors and its result. They are what
    a block of one launch reads for the normalisation and activation around the product."""
    if call.operator == "convolution_backward":
        return 0
    if call.operator not in CONVOLUTIONS:
        return call.moved
    return call.moved - call.dtype.itemsize * sum(map(math.prod, (*call.shapes[:2], call.results[0])))


def _calls(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Call]:
    if func is torch.ops.aten.convolution.default:
        x, weight, bias = args[:3]
        yield _call(func, [x, weight], [result], flops=_flops(func, args, result))
        if bias is not None:
            yield _call(func, [result, bias], [result])._replace(operator=BIAS)
    elif func is torch.ops.aten.convolution_backward.default:
        grad, x, weight = args[:3]
        of_x, of_weight = ((*args[:10], mask) for mask in ([True, False, False], [False, True, False]))
        if result[0] is not None:  # its kernel needs only the shape of x
            input_gradient = _call(func, [grad, weight], [result[0]], flops=_flops(func, of_x, result))
            yield input_gradient._replace(shapes=_shapes([grad, x, weight]))
        if result[1] is not None:
            weight_gradient = _call(func, [grad, x], [result[1]], flops=_flops(func, of_weight, result))
            yield weight_gradient._replace(shapes=_shapes([grad, x, weight]))
        if result[2] is not None:
            yield _call(func, [grad], [result[2]])._replace(operator="sum")
    else:
        read, written = _traffic(func, args, kwargs, result)
        call = _call(func, _tensors([args, kwargs]), _tensors(result), flops=_flops(func, args, result))
        yield call._replace(read=read, written=written)


def _call(func: Any, inputs: list[Tensor], results: list[Tensor], *, flops: int = 0) -> Call:
    first = next(iter([*inputs, *results]), None)
    return Call(
        operator=_name(func),
        shapes=_shapes(inputs),
        results=_shapes(results),
        dtype=torch.float32 if first is None else first.dtype,
        read=sum(map(_size, inputs)),
        written=sum(map(_size, results)),
        flops=flops,
    )


def _traffic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> tuple[int, int]:
    """The bytes that a call reads and writes."""
    name, schema = _name(func), func._schema.arguments
    given = [*zip(schema, args, strict=False), *((a, kwargs[a.name]) for a in schema if a.name in kwargs)]
    changed = [
        tensor
        for argument, value in given
        if argument.is_write and argument.name not in ONLY_READ
        for tensor in _tensors(value)
    ]
    inputs = _tensors([args, kwargs])
    known = {_storage(tensor) for tensor in inputs}
    new = [tensor for tensor in _tensors(result) if _storage(tensor) not in known]
    if name.startswith(("empty", "new_empty")) or (not changed and not new):
        return 0, 0
    written = sum(map(_size, [*changed, *new]))
    if name.endswith("_like") or name.startswith("new_"):  # these read only the shape
        return 0, written
    read = sum(map(_size, inputs))
    if name in OVERWRITE:
        read -= _size(args[0])
    if name in FILL_AND_COPY:
        written += _size(args[0])
    read += sum(_size(args[position]) for position in READ_TWICE.get(name, ()))
    return read, written


def _flops(func: Any, args: tuple[Any, ...], result: Any) -> int:
    formula = flop_registry.get(func.overloadpacket)
    if formula is not None:
        return int(formula(*args, out_val=result))
    if func.namespace == "aten":
        return 0
    return flops_of(_name(func), {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)})


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _shapes(tensors: list[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _size(tensor: Tensor) -> int:
    """The bytes of the values of a tensor; what is expanded is one value."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _name(func: Any) -> str:
    return str(func._schema.name).split("::")[1]


def _cause() -> tuple[str, str]:
    """The line of this package that causes the present call, and the line of the iteration from which it is reached.

    For a backward pass they are lines of the forward pass, except in functions of this package with a backward of their
    own, whose line is returned.
    """
    frames = [(frame.filename, frame.lineno, frame.name) for frame in traceback.extract_stack()]
    node = torch._C._current_autograd_node()
    if node is None:
        return _innermost(frames), _innermost(frames, ITERATION)
    recorded = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', "".join(node.metadata.get("traceback_", [])))
    begin = max((at for at, frame in enumerate(frames) if frame[2] == "_engine_run_backward"), default=0)
    line = _innermost(frames[begin:]) or _innermost(recorded)
    return line, _innermost(recorded, ITERATION) or _innermost(frames, ITERATION)


def _innermost(frames: Sequence[tuple[Any, ...]], file: str = "") -> str:
    """The innermost line of this package, or of one file of it; not one of ``WRAPPER``. Empty if there is none."""
    for path, number, name in reversed(frames):
        short = path.removeprefix(PACKAGE)
        if short not in (path, WRAPPER) and file in ("", short):
            return f"{short}:{number} {name}"
    return ""
