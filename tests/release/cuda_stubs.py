"""Builds stubs of NVIDIA's libraries, so that PyPI's PyTorch for Linux, a CUDA build, loads without 3 GB of them.

The tests run on the CPU, so the functions need not work. Each one returns 0, except cudaGetDeviceCount, which reports
that there is no device.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

__all__ = ["make"]

#: The names of the functions and libraries of NVIDIA that PyTorch uses.
_NAMES = re.compile(r"(__cuda|cu|nccl|nv)\w*")
_NO_DEVICE = 100  # cudaErrorNoDevice


def make(torch_lib: Path, folder: Path) -> bool:
    """Write stubs of the NVIDIA libraries that ``torch_lib``'s libraries need to ``folder``, for LD_LIBRARY_PATH.

    Each stub has the name of the library that it replaces. The functions are in one further library, to which all stubs
    link: the dynamic linker accepts a function without a version in place of a versioned one, unless it is in the
    library whose version is required.

    Returns:
        Whether stubs are needed; False for a CPU build.
    """
    libraries = sorted(torch_lib.glob("*.so"))
    missing = _missing_libraries(torch_lib, libraries)
    if not missing:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    functions = sorted(_symbols(libraries, "--undefined-only") - _symbols(libraries, "--defined-only"))
    source = folder / "stubs.c"
    lines = [f"int stub(void) {{ return 0; }}\nint cudaGetDeviceCount(int* n) {{ return *n = 0, {_NO_DEVICE}; }}"]
    lines += [f'int {name}(void) __attribute__((alias("stub")));' for name in functions if name != "cudaGetDeviceCount"]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    functions_library = _link(folder, "libigan_fast_stubs.so", str(source))
    for name in missing:
        _link(folder, name, "/dev/null", "-x", "none", "-Wl,--no-as-needed,-rpath,$ORIGIN", str(functions_library))
    return True


def _link(folder: Path, name: str, source: str, *options: str) -> Path:
    command = [os.environ.get("CC") or "cc", "-shared", "-fPIC", "-fno-builtin", "-w", f"-Wl,-soname,{name}"]
    subprocess.run([*command, "-x", "c", source, *options, "-o", str(folder / name)], check=True)
    return folder / name


def _missing_libraries(torch_lib: Path, libraries: Iterable[Path]) -> list[str]:
    needed = set()
    for library in libraries:
        dynamic = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
        needed |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
    there = {path.name for path in torch_lib.iterdir()}
    return sorted(name for name in needed - there if _NAMES.match(name.removeprefix("lib")))


def _symbols(libraries: Iterable[Path], which: str) -> set[str]:
    """The dynamic symbols of the libraries that are named like NVIDIA's functions, without their versions."""
    command = ["nm", "-D", which, "--format=posix", *map(str, libraries)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = (line.split()[0].partition("@")[0] for line in listed.splitlines() if line.strip())
    return {name for name in names if _NAMES.fullmatch(name)}
