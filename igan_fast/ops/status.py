"""The status of the operators as data: the implementations, how to get the missing ones, and the settings.

``python -m igan_fast.ops`` prints it; ``igan-fast doctor`` adds the rest of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from igan_fast.ops import backend
from igan_fast.ops.convolution.triton import CHOICES

__all__ = ["Line", "render", "sections"]

_CUDA_PYTORCH = "only for an NVIDIA GPU: install PyTorch's build for CUDA (https://pytorch.org/get-started)"
_NO_GPU = "PyTorch sees no GPU; nvidia-smi tells whether the driver does"
_INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
_CONVOLUTION = "triton: Triton's convolutions, where they run; blocks: whole blocks too; measure: where they are faster"


@dataclass(frozen=True)
class Line:
    """One fact. ``fix`` says how to get or repair what is missing; ``wrong`` marks a setting that cannot work."""

    name: str
    value: str
    fix: str = ""
    wrong: bool = False


def sections() -> dict[str, list[Line]]:
    """The implementations, what "auto" takes, how the extension was built, and the environment's settings."""
    chosen = {device: _chosen(torch.device(device)) for device in ("cpu", "cuda")}
    found = {"Operators": [*map(_implementation, backend.backends().items()), *chosen.values()]}
    if info := backend.build_info():
        found["Native extension"] = [Line(name.replace("_", " "), value or "–") for name, value in info.items()]
    found["Settings"] = settings()
    return found


def render(found: Mapping[str, Iterable[Line]]) -> str:
    """The sections as text, one paragraph for each."""
    width = max(len(line.name) for lines in found.values() for line in lines)
    paragraphs = [
        "\n".join([title, *(f"  {line.name:{width}}  {line.value}" for line in lines)])
        for title, lines in found.items()
    ]
    return "\n\n".join(paragraphs)


def settings() -> list[Line]:
    """The environment variables that the operators read."""
    names, sets = ", ".join(backend.IMPLEMENTATIONS), ", ".join(_INSTRUCTION_SETS)
    return [
        _setting("IGAN_FAST_IMPL", f"what auto stands for: {names}", backend.IMPLEMENTATIONS),
        _setting("IGAN_FAST_CPU_ISA", f"the most that the CPU kernels may use: {sets}", _INSTRUCTION_SETS),
        _setting("IGAN_FAST_CONVOLUTION", _CONVOLUTION, CHOICES),
        _setting("TRITON_INTERPRET", "1 runs Triton's kernels on the CPU, slowly, for tests"),
    ]


def _setting(name: str, meaning: str, expected: Iterable[str] = ()) -> Line:
    value = os.environ.get(name)
    if not value:
        return Line(name, f"(not set) {meaning}")
    if expected and value not in expected:
        return Line(name, f"{value!r} is not one of {', '.join(expected)}", "unset it", wrong=True)
    return Line(name, f"{value!r} ({meaning})")


def _chosen(device: torch.device) -> Line:
    name = f"auto on {device.type}"
    if device.type == "cuda" and not torch.cuda.is_available():
        return Line(name, "nothing: there is no CUDA device")
    try:
        return Line(name, backend.chosen(device))
    except ValueError as error:  # the line about IGAN_FAST_IMPL says how to repair it
        return Line(name, f"nothing: {error}")
    except RuntimeError as error:  # on a machine with a GPU, no operator has to run on the CPU
        matters = device.type == "cuda" or not torch.cuda.is_available()
        return Line(name, f"nothing: {error}", "unset IGAN_FAST_IMPL, or name one that can run", wrong=matters)


def _implementation(named: tuple[str, str]) -> Line:
    name, status = named
    if status == backend.AVAILABLE:
        return Line(name, status)
    fix = {"native-cpu": _native_cpu_fix, "native-cuda": _native_cuda_fix, "triton": _triton_fix}[name]
    return Line(name, status, fix(status))


def _native_cpu_fix(reason: str) -> str:
    if "NO_EXTENSION" in reason:
        return f"without NO_EXTENSION, {_rebuild()}"
    if "no C++ compiler" in reason:
        return f"install g++ (or set CXX); then {_rebuild()}"
    if "torch could not be imported" in reason:
        return f"pip install setuptools wheel ninja pybind11; then {_rebuild()}"
    return f"{_rebuild()} --verbose (shows what the compiler says)"


def _native_cuda_fix(reason: str) -> str:
    if torch.version.cuda is None:
        return _CUDA_PYTORCH
    if reason == backend.backends()["native-cpu"]:
        return "as native-cpu"
    if "no CUDA device" in reason:
        return _NO_GPU
    if "built for" in reason:
        major, minor = torch.cuda.get_device_capability()
        return _rebuild(f'TORCH_CUDA_ARCH_LIST="{major}.{minor}" ')
    return f"install the CUDA toolkit {torch.version.cuda} (or set CUDA_HOME); then {_rebuild()}"


def _triton_fix(reason: str) -> str:
    if "cannot be imported" in reason:
        return "pip install 'triton>=3.4' (Linux)"
    return _CUDA_PYTORCH if torch.version.cuda is None else _NO_GPU


def _rebuild(environment: str = "") -> str:
    """The command that builds the native extension again."""
    command = "pip install --no-build-isolation --force-reinstall --no-deps ."
    return f"in the folder of the source: {environment}{command}"
