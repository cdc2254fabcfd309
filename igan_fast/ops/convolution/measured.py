"""The choice between Triton's convolutions and the others by measurement, where ``IGAN_FAST_CONVOLUTION=measure`` asks
for it.

Each computation of a problem (the convolution, its gradients) is timed once, at its first use, and the faster
implementation is taken from then on. The choice is kept on disk, for each device and each version of torch, Triton and
this package: later processes take it without measuring, so a run that is resumed on the same machine computes the same
bits. Nothing is measured while a CUDA graph is recorded: a choice that is known is taken there too, else the
implementation that is taken without Triton. Compiled code and what autograd records have no choice: Triton's
convolutions are not among the functions that can be recorded.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from igan_fast._version import __version__
from igan_fast.ops.convolution import pytorch
from igan_fast.ops.convolution.plan import ActivationGradients, Convolve, InputGradient, Problem, WeightGradient
from igan_fast.ops.convolution.settings import InputSpec
from igan_fast.paths import cache_folder

__all__ = [
    "OTHER",
    "TRITON",
    "Choices",
    "faster_activation_gradients",
    "faster_convolution",
    "faster_input_gradient",
    "faster_weight_gradient",
    "has_choices",
    "may_measure",
]

#: The names of the two sides of a choice.
TRITON, OTHER = "triton", "other"

#: Calls before the timing, in which Triton compiles and cuDNN chooses, and calls that are timed.
_WARM_UPS, _ROUNDS = 3, 11

#: The slope of the LeakyReLU in what is timed; its value does not matter.
_SLOPE = 0.2


class Choices:
    """The choices of one device.

    A choice is a file of its own, which is made at once or not at all. Of several processes that measure at the same
    time, all take the choice of the first that is done.

    Args:
        folder: keeps the choices; None for choices of this process only.
        timer: called with a function; returns the seconds that it takes.
    """

    def __init__(self, folder: Path | None, timer: Callable[[Callable[[], Any]], float]) -> None:
        self._folder, self._timer = folder, timer
        self._known: dict[str, str] = {}

    def faster(self, key: str, triton: Callable[[], Any], other: Callable[[], Any], *, measure: bool) -> str:
        """``TRITON`` or ``OTHER``: the choice for ``key``, which is measured if it is not known.

        Of equally fast ones it is ``OTHER``. An implementation that fails is not chosen.

        Args:
            key: the name of the computation.
            triton, other: compute it.
            measure: whether it may be measured now.
        """
        if key not in self._known:
            stored = self._stored(key)
            if stored is None and not measure:
                return OTHER
            self._known[key] = stored or self._kept(key, TRITON if self._time(triton) < self._time(other) else OTHER)
        return self._known[key]

    def _time(self, call: Callable[[], Any]) -> float:
        try:
            return self._timer(call)
        except RuntimeError:  # too large for a launch or for the memory; whoever needs the result will hear of it
            return float("inf")

    def _path(self, key: str) -> Path | None:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return None if self._folder is None else self._folder / f"{name}.json"

    def _stored(self, key: str) -> str | None:
        """The choice on disk; None if there is none, or none that can be read."""
        if (path := self._path(key)) is None:
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if isinstance(found, dict) and found.get("key") == key and found.get("chosen") in (TRITON, OTHER):
            return str(found["chosen"])
        return None

    def _kept(self, key: str, name: str) -> str:
        """Write a choice. Returns that of another process instead, if that was faster."""
        if (path := self._path(key)) is None:
            return name
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"key": key, "chosen": name}), encoding="utf-8")
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # unlike a renaming, it never replaces a file
            if stored := self._stored(key):
                return stored
            temporary.replace(path)  # what is there is damaged
        except OSError as error:
            warnings.warn(
                f"{self._folder}: the choices of convolutions cannot be kept there ({error}); each process measures "
                "them anew, and may choose others",
                stacklevel=2,
            )
            self._folder = None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        return name


def faster_convolution(problem: Problem, triton: Convolve, other: Convolve) -> bool:
    """Whether ``triton`` is the choice for the convolution with its bias and activation."""
    slope = _SLOPE if problem.activation else 1.0

    def call(run: Convolve) -> Callable[[], Any]:
        return lambda: run(given().x, given().weight, given().bias, slope)

    given = _once(problem)
    return _is_faster("convolution", problem, call(triton), call(other))


def faster_input_gradient(problem: Problem, triton: InputGradient, other: InputGradient | None) -> bool:
    """Whether ``triton`` is the choice for the input gradient. None is PyTorch's function."""

    def call(run: InputGradient | None) -> Callable[[], Any]:
        return lambda: _input_gradient(problem, run, given(), given().grad)

    given = _once(problem)
    return _is_faster("input gradient", problem, call(triton), call(other))


def faster_weight_gradient(problem: Problem, triton: WeightGradient, other: WeightGradient | None) -> bool:
    """Whether ``triton`` is the choice for the weight gradient. None is PyTorch's function."""

    def call(run: WeightGradient | None) -> Callable[[], Any]:
        return lambda: _weight_gradient(problem, run, given(), given().grad)

    given = _once(problem)
    return _is_faster("weight gradient", problem, call(triton), call(other))


def faster_activation_gradients(
    problem: Problem,
    triton: ActivationGradients,
    input_gradient: InputGradient | None,
    weight_gradient: WeightGradient | None,
    needs: tuple[bool, bool, bool],
) -> bool:
    """Whether ``triton`` is the choice for the gradients before a LeakyReLU, instead of the LeakyReLU's gradient in a
    pass of its own and the two functions. None is PyTorch's function."""

    def ours() -> None:
        t = given()
        triton(t.grad, t.signs, _SLOPE, t.x, t.weight, t.spec, needs)

    def apart() -> None:
        t = given()
        before = torch.ops.aten.leaky_relu_backward(t.grad, t.signs, _SLOPE, True)
        if needs[0]:
            _input_gradient(problem, input_gradient, t, before)
        if needs[1]:
            _weight_gradient(problem, weight_gradient, t, before)
        if needs[2]:
            before.sum((0, 2, 3))

    given = _once(problem)
    return _is_faster(f"gradients before an activation {needs}", problem, ours, apart)


def has_choices(device: str) -> bool:
    """Whether there is a choice on this type of device."""
    return device == "cuda"


def may_measure(device: str) -> bool:
    """Whether calls can be timed now: on a GPU that records no graph."""
    return device == "cuda" and not torch.cuda.is_current_stream_capturing()


class _Given(NamedTuple):
    """Tensors of a problem's shapes."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    grad: Tensor
    signs: Tensor
    spec: InputSpec


def _once(problem: Problem) -> Callable[[], _Given]:
    """The tensors of a problem, made at the first call: a choice that is known needs none."""

    @functools.cache
    def given() -> _Given:
        generator = torch.Generator(problem.device).manual_seed(0)  # the global one belongs to the run

        def random(*shape: int, last: bool = True) -> Tensor:
            t = torch.randn(shape, generator=generator, device=problem.device, dtype=problem.input_dtype)
            return t.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

        settings, weight_shape = problem.settings, problem.weight_shape
        channels = weight_shape[1 if settings.transposed else 0]
        out = problem.input_shape[0], channels, *settings.output_size(problem.input_shape, weight_shape)
        x, weight = random(*problem.input_shape), random(*weight_shape, last=not problem.weight_contiguous)
        bias = torch.zeros(channels, device=problem.device, dtype=problem.input_dtype) if problem.bias else None
        return _Given(x, weight, bias, random(*out), random(*out), InputSpec.of(x))

    return given


def _input_gradient(problem: Problem, run: InputGradient | None, given: _Given, grad: Tensor) -> None:
    if run is not None:
        run(grad, given.weight, given.spec)
    else:
        pytorch.gradients(grad, given.x, given.weight, problem.settings, given.spec, True, False)


def _weight_gradient(problem: Problem, run: WeightGradient | None, given: _Given, grad: Tensor) -> None:
    if run is not None:
        run(grad, given.x)
    else:
        pytorch.gradients(grad, given.x, given.weight, problem.settings, given.spec, False, True)


def _is_faster(part: str, problem: Problem, triton: Callable[[], Any], other: Callable[[], Any]) -> bool:
    measure = may_measure(problem.device)
    with torch.no_grad(), torch.autocast(problem.device, enabled=False):
        return _present().faster(_key(part, problem), triton, other, measure=measure) == TRITON


def _key(part: str, problem: Problem) -> str:
    """All that the speed of a computation depends on, except for the device and the versions."""
    cudnn: Any = torch.backends.cudnn  # its type annotations lack the newer flags
    precision = cudnn.conv.fp32_precision if problem.input_dtype == torch.float32 else ""
    values = part, precision, problem.settings.arguments, *problem[1:]
    return json.dumps([value if isinstance(value, bool) else str(value) for value in values])


def _present() -> Choices:
    return _choices_of(torch.cuda.current_device())


@functools.cache
def _choices_of(index: int) -> Choices:
    """Of the CUDA device with this number, kept in the cache folder of the package."""
    versions = [torch.__version__, importlib.metadata.version("triton"), __version__]
    cudnn: Any = torch.backends.cudnn
    versions += [str(cudnn.version()), torch.cuda.get_device_name(index)]
    name = hashlib.sha256("\n".join(versions).encode()).hexdigest()[:16]
    try:
        folder = cache_folder()
    except ValueError:  # there is no such folder: the choices are kept in this process only
        return Choices(None, _seconds)
    return Choices(folder / "convolutions" / name, _seconds)


def _seconds(call: Callable[[], Any]) -> float:
    """The median time of a call on the present CUDA device."""
    for _ in range(_WARM_UPS):
        call()
    event: Any = torch.cuda.Event  # its constructor has no type annotations
    times: list[float] = []
    for _ in range(_ROUNDS):
        begin, end = event(enable_timing=True), event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return sorted(times)[len(times) // 2]
