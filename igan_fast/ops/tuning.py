"""Choices by measurement: which of several ways to compute the same is the fastest on this device.

Each computation is timed once, at its first use, and the fastest way is taken from then on. The choice is kept on disk,
for each device and each version of torch, Triton and this package: later processes take it without measuring. A
training run keeps its choices in its checkpoints as well, and takes them before those on disk (``start``). Nothing is
measured while a CUDA graph is recorded: a choice that is known is taken there too, else the way that is taken without
Triton.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from igan_fast._version import __version__
from igan_fast.paths import cache_folder

__all__ = [
    "OTHER",
    "TRITON",
    "Agree",
    "Choices",
    "device_name",
    "fastest",
    "flags",
    "has_choices",
    "is_triton_faster",
    "may_measure",
    "start",
    "taken",
]

#: The names of the ways, where Triton's kernels are compared with others.
TRITON, OTHER = "triton", "other"

#: Calls before the timing, in which Triton compiles and cuDNN chooses, and calls that are timed.
_WARM_UPS, _ROUNDS = 3, 11

#: Called with the name of a computation and a function that chooses for it. Returns the choice of all processes.
Agree: TypeAlias = Callable[[str, Callable[[], str]], str]


class Choices:
    """The choices of one device.

    A choice is a file of its own, which is made at once or not at all. Of several processes that measure at the same
    time, all take the choice of the first that is done.

    Args:
        folder: keeps the choices; None for choices of this process only.
        timer: called with a function; returns the seconds that it takes.
        known: choices that are taken before those in the folder.
        agree: makes the processes of a run choose alike; None where nothing but the folder does.

    Attributes:
        known: all choices that were given or taken, by the names of the computations.
    """

    def __init__(
        self,
        folder: Path | None,
        timer: Callable[[Callable[[], Any]], float],
        known: Mapping[str, str] | None = None,
        agree: Agree | None = None,
    ) -> None:
        self._folder, self._timer, self._agree = folder, timer, agree
        self.known: dict[str, str] = dict(known or {})

    def fastest(self, key: str, ways: Mapping[str, Callable[[], Any]], *, measure: bool) -> str:
        """The name of the way that is chosen for ``key``. It is measured if it is not known.

        Of equally fast ones it is the last. A way that fails is not chosen.

        Args:
            key: the name of the computation.
            ways: compute it. The last is taken where nothing is known and nothing may be measured.
            measure: whether it may be measured now.
        """
        last = list(ways)[-1]
        if self.known.get(key) not in ways:  # also of an older version that had other ways
            stored = self._stored(key, ways)
            if stored is None and not measure:
                return last

            def choose() -> str:
                return stored or self._kept(key, self._measured(ways), ways)

            self.known[key] = choose() if self._agree is None else self._agree(key, choose)
        return self.known[key]

    def _measured(self, ways: Mapping[str, Callable[[], Any]]) -> str:
        try:
            seconds = {name: self._time(call) for name, call in ways.items()}
            return min(reversed(seconds), key=seconds.__getitem__)
        finally:
            torch.cuda.empty_cache()  # what was measured needs memory once; on a side stream no other could use it

    def _time(self, call: Callable[[], Any]) -> float:
        try:
            return self._timer(call)
        except Exception as error:
            if not _does_not_fit(error):
                raise
            return float("inf")  # whoever needs the result will hear of it

    def _path(self, key: str) -> Path | None:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return None if self._folder is None else self._folder / f"{name}.json"

    def _stored(self, key: str, ways: Collection[str]) -> str | None:
        """The choice on disk; None if there is none, or none that can be read."""
        if (path := self._path(key)) is None:
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if isinstance(found, dict) and found.get("key") == key and str(found.get("chosen")) in ways:
            return str(found["chosen"])
        return None

    def _kept(self, key: str, name: str, ways: Collection[str]) -> str:
        """Write a choice. Returns that of another process instead, if that was faster."""
        if (path := self._path(key)) is None:
            return name
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"key": key, "chosen": name}), encoding="utf-8")
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # unlike a renaming, it never replaces a file
            if stored := self._stored(key, ways):
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


def is_triton_faster(key: str, triton: Callable[[], Any], other: Callable[[], Any], device: str) -> bool:
    """Whether ``triton`` is the choice of the present device for ``key``, instead of ``other``. See ``fastest``."""
    return fastest(key, {TRITON: triton, OTHER: other}, device) == TRITON


def fastest(key: str, ways: Mapping[str, Callable[[], Any]], device: str) -> str:
    """The name of the way that the present device has chosen for ``key``.

    Args:
        key: all that the speed of the computation depends on, except for the device and the versions.
        ways: compute it; the last is the default.
        device: the device's type.
    """
    return _choices_of(device_name()).fastest(key, ways, measure=may_measure(device))


def has_choices(device: str) -> bool:
    """Whether there is a choice on this type of device."""
    return device == "cuda"


def may_measure(device: str) -> bool:
    """Whether calls can be timed now: on a GPU that records no graph."""
    return device == "cuda" and not torch.cuda.is_current_stream_capturing()


def flags() -> str:
    """The settings of PyTorch on which the speed of a convolution depends."""
    cudnn: Any = torch.backends.cudnn  # its type annotations lack the newer flags
    return f"{cudnn.conv.fp32_precision} {cudnn.enabled:d}{cudnn.benchmark:d}{cudnn.deterministic:d}"


def device_name() -> str:
    """The present CUDA device's name, such as "NVIDIA H100 80GB HBM3"."""
    return _name_of(torch.cuda.current_device())


def start(known: Mapping[str, Mapping[str, str]] | None = None, agree: Agree | None = None) -> None:
    """Forget the choices of this process, and take others first. Those on disk stay.

    Args:
        known: choices by the names of devices and of computations, as ``taken`` returns them.
        agree: as of ``Choices``. It is called with the device's name before that of the computation.
    """
    _started.known, _started.agree = known or {}, agree
    _made.clear()


def taken() -> dict[str, dict[str, str]]:
    """The choices that were taken or given since ``start``, by the names of the devices that were used, and of the
    computations."""
    return {name: dict(choices.known) for name, choices in _made.items() if choices.known}


@dataclass
class _Started:
    """What ``start`` was given."""

    known: Mapping[str, Mapping[str, str]]
    agree: Agree | None


_started = _Started({}, None)
_made: dict[str, Choices] = {}  # by the names of the devices


def _choices_of(name: str) -> Choices:
    """Of the devices of this name, kept in the cache folder of the package."""
    if name not in _made:
        agree = _started.agree
        together = None if agree is None else lambda key, choose: agree(f"{name} {key}", choose)
        _made[name] = Choices(_folder_of(name), _seconds, _started.known.get(name), together)
    return _made[name]


def _folder_of(name: str) -> Path | None:
    versions = [torch.__version__, _version_of_triton(), __version__, _version_of_cudnn(), name]
    try:
        folder = cache_folder()
    except ValueError:  # there is no such folder: the choices are kept in this process only
        return None
    return folder / "convolutions" / hashlib.sha256("\n".join(versions).encode()).hexdigest()[:16]


@functools.cache
def _version_of_triton() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version_of_cudnn() -> str:
    """The version of cuDNN that is loaded; "" if none can be.

    PyTorch refuses one that is older than what it was compiled for, but only in the first call of a process, which may
    be another's. The second call returns the version, and so the name of the choices' folder is always the same.
    """
    cudnn: Any = torch.backends.cudnn
    for _ in range(2):
        with contextlib.suppress(RuntimeError):
            return str(cudnn.version())
    return ""


@functools.cache
def _name_of(index: int) -> str:
    return str(torch.cuda.get_device_name(index))


def _does_not_fit(error: Exception) -> bool:
    """Whether a computation is too large for a launch or for the memory, or Triton cannot compile it for the device."""
    triton: Any = sys.modules.get("triton.errors")
    return isinstance(error, RuntimeError) or (triton is not None and isinstance(error, triton.TritonError))


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
