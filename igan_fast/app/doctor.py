"""``igan-fast doctor``: what this machine has for the package, what is missing, and how to fix it.

Nothing here raises an error. Facts that cannot be found out are reported as unknown, with the reason.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from igan_fast._version import __version__
from igan_fast.cores import allowed_cores, usable_cores
from igan_fast.export import files as export
from igan_fast.faces import mtcnn as faces
from igan_fast.ops import status
from igan_fast.ops.status import Line

__all__ = ["Report", "described_machine", "described_software", "examine"]

#: The instruction sets that kernels use, ours and PyTorch's.
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve", "bf16", "i8mm")
_X86 = CPU_FEATURES[:4]


@dataclass(frozen=True)
class Report:
    """The findings by section."""

    sections: Mapping[str, list[Line]]

    @property
    def problems(self) -> list[str]:
        """The settings that cannot work, each with the expected value."""
        return [f"{line.name}: {line.value}; {line.fix}" for line in self._lines() if line.wrong]

    @property
    def fixes(self) -> list[str]:
        """How to fix what is missing or wrong. Plain PyTorch works without any of these fixes."""
        return [f"{line.name}: {line.fix}" for line in self._lines() if line.fix]

    def text(self) -> str:
        """Return the report as text."""
        parts = [f"igan_fast {__version__}", status.render(self.sections)]
        if self.fixes:
            parts.append("\n".join(["What is missing or wrong, and how to fix it", *(f"  {f}" for f in self.fixes)]))
        return "\n\n".join(parts)

    def to_json(self) -> str:
        """Return the report as JSON: ``sections`` (names to values), ``fixes`` and ``problems`` (lists of lines)."""
        values = {title: {line.name: line.value for line in lines} for title, lines in self.sections.items()}
        found = {"version": __version__, "sections": values, "fixes": self.fixes, "problems": self.problems}
        return json.dumps(found, indent=2)

    def _lines(self) -> list[Line]:
        return [line for lines in self.sections.values() for line in lines]


def described_machine() -> str:
    """Return one line on the processor and the GPUs."""
    return "; ".join((_line("CPU", _cpu).value, *(f"{line.name}: {line.value}" for line in _gpus())))


def described_software() -> str:
    """Return one line on Python, PyTorch, this package and the number of threads."""
    parts = (
        f"igan_fast {__version__}",
        f"PyTorch {_line('PyTorch', _torch).value}",
        f"Python {platform.python_version()}",
    )
    return ", ".join((*parts, f"{torch.get_num_threads()} CPU threads"))


def examine() -> Report:
    """Examine this machine, which takes a second or two."""
    found: dict[str, list[Line]] = {
        "Machine": [_line("system", _system), _line("CPU", _cpu), _line("CPU features", _features), *_gpus()],
        "Python and PyTorch": [
            Line("Python", f"{platform.python_version()}, {sys.executable}"),
            Line("igan_fast", f"{__version__}, {Path(__file__).parents[1]}"),
            _line("PyTorch", _torch),
            _line("CPU threads", _threads),
            _line("Triton", _triton),
            _line("face search", _face_search),
            _line("ONNX export", _export),
            _line("web editor", lambda: _packages(("gradio",), "igan-fast web")),
            _line("parquet files", lambda: _packages(("pyarrow",), "photos in parquet files")),
        ],
        "Compilers": [_line("C++", _cxx), _line("nvcc", _nvcc)],
    }
    try:
        found |= status.sections()
    except Exception as error:  # a broken installation may raise anything
        found["Operators"] = [Line("operators", _unknown(error), "install the package again")]
    return Report(found)


def _line(name: str, look: Callable[[], str]) -> Line:
    try:
        return Line(name, look())
    except Exception as error:  # see above: nothing here raises
        return Line(name, _unknown(error))


def _unknown(error: Exception) -> str:
    return f"unknown ({type(error).__name__}: {error})"


def _system() -> str:
    return (
        f"{platform.system()} {platform.release()} {platform.machine()}, {' '.join(filter(None, platform.libc_ver()))}"
    )


def _cpu() -> str:
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    limited = f", of whose time {usable} are allowed" if (usable := usable_cores()) < (cores := allowed_cores()) else ""
    return f"{name}, {cores} cores usable{limited}"


def _features() -> str:
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    if not flags:
        return f"unknown on {platform.system()}; PyTorch uses {torch.backends.cpu.get_cpu_capability()}"
    missing = [name for name in _X86 if name not in flags] if platform.machine() in ("x86_64", "AMD64") else []
    there = " ".join(name for name in CPU_FEATURES if name in flags) or "none that the kernels use"
    return there + (f"; without {' '.join(missing)}" if missing else "")


def _cpuinfo(key: str) -> str:
    """Return the first value of ``key`` in /proc/cpuinfo, or an empty string if there is none."""
    path = Path("/proc/cpuinfo")
    found = (
        re.search(rf"^{key}\s*:\s*(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if path.is_file() else None
    )
    return found.group(1) if found else ""


def _gpus() -> list[Line]:
    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            return [Line("GPU", "none that PyTorch can use")]
        return [_line(f"GPU {index}", lambda index=index: _gpu(index)) for index in range(count)]  # type: ignore[misc]
    except Exception as error:
        return [Line("GPU", _unknown(error))]


def _gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    return f"{properties.name}, compute capability {properties.major}.{properties.minor}, {memory}"


def _torch() -> str:
    if torch.version.cuda:
        build = f"for CUDA {torch.version.cuda}"
    elif torch.version.hip:
        build = f"for ROCm {torch.version.hip}"
    else:
        build = "for the CPU alone"
    return f"{torch.__version__}, {build}, {'with' if torch._C._has_mkldnn else 'without'} oneDNN"


def _threads() -> str:
    return f"{torch.get_num_threads()} (OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS') or 'not set'})"


def _triton() -> str:
    return _version("triton") or "not installed"


def _face_search() -> str:
    return _packages(faces.PACKAGES, "photos that are not aligned crops")


def _export() -> str:
    return _packages(export.PACKAGES, "igan-fast export")


def _packages(names: Sequence[str], purpose: str) -> str:
    found = {name: _version(name) for name in names}
    if missing := [name for name, version in found.items() if version is None]:
        return f"not installed; pip install {' '.join(missing)}; only needed for {purpose}"
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cxx() -> str:
    wanted = (os.environ.get("CXX") or "c++").split()[0]
    return _program(shutil.which(wanted), f"{wanted} was not found; only needed to build the extension from source")


def _nvcc() -> str:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [Path(home) / "bin" / "nvcc" for home in (*homes, "/usr/local/cuda") if home]
    found = next((str(place) for place in places if place.is_file()), None) or shutil.which("nvcc")
    return _program(found, "not found; only needed to build the CUDA kernels from source")


def _program(path: str | None, otherwise: str) -> str:
    """Return the path of a program and the version that it prints."""
    if path is None:
        return otherwise
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    version = next((line for line in lines if "release" in line), lines[0] if lines else "prints no version")
    return f"{path}: {version}"
