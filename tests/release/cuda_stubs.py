"""PyPI's PyTorch for Linux is a CUDA build, and does not load without 3 GB of NVIDIA's libraries.

What is tested here runs on the CPU, so libraries that are empty but for the names will do: every function does nothing
and returns 0, but for the one that counts the devices, which says that there is none.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

__all__ = ["make"]

#: What NVIDIA's libraries export, as far as PyTorch asks for it.
_NAMES = re.compile(r"(__cuda|cu|nccl|nv)\w*")
_NO_DEVICE = 100  # cudaErrorNoDevice


def make(torch_lib: Path, folder: Path) -> bool:
    """Put stand-ins for the NVIDIA libraries that PyTorch's in ``torch_lib`` need into ``folder``, for LD_LIBRARY_PATH.

    False where it needs none. They are named as what they stand for, and all link to one that holds the functions: the
    dynamic linker takes a function without a version for one of a versioned library from any library but that itself.
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
    """The names in NVIDIA's manner among the libraries' dynamic symbols, without their versions."""
    command = ["nm", "-D", which, "--format=posix", *map(str, libraries)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = (line.split()[0].partition("@")[0] for line in listed.splitlines() if line.strip())
    return {name for name in names if _NAMES.fullmatch(name)}
