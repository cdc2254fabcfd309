"""Checks the contents of a wheel and a source archive.

The extension may use only the stable C functions of libtorch, so that one wheel works with all later versions of torch.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

__all__ = ["inspect_sdist", "inspect_wheel", "needs"]

#: The files that every wheel needs, besides its code.
FILES = (
    "igan_fast/__init__.py",
    "igan_fast/py.typed",
    "igan_fast/ops/linear_limits.json",
    "igan_fast/ops/convolution/winograd_costs.json",
)

#: The libraries that the extension may be linked with. Those of CUDA occur in a CUDA build only.
_LIBRARIES = re.compile(
    r"(libc10|libtorch_cpu|libc10_cuda|libtorch_cuda)\.so|lib(cudart|stdc\+\+|gcc_s|c|m|pthread|dl)\.so\.\d+|ld-linux.*"
)

#: The undefined symbols that the extension may have: of libtorch's stable C functions, Python, the CUDA runtime, and
#: the C and C++ libraries. The last have a version in their name, except those that PyTorch's libraries export too.
_SYMBOLS = re.compile(
    r"(aoti_)?torch_\w+|_?Py\w+|(__)?cuda[A-Z_]\w+"
    r"|\S+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+|_ZN?K?St\w+|_ITM_\w+|__gmon_start__|__cxa_finalize"
)


def inspect_wheel(wheel: Path, *, extension: bool) -> list[str]:
    """The problems of a wheel, as phrases. ``extension``: whether it was built with the native extension."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        tops = {name.partition("/")[0] for name in names}
        wrong = [f"it holds {name}, not only igan_fast" for name in tops if not re.match(r"igan_fast(-[^/]+)?$", name)]
        wrong += [
            f"{name} does not belong in a wheel"
            for name in names
            if re.search(r"(^|/)(tests?|bench|docs|csrc|photos)/|\.(jpe?g|png|cpp|h|cu|cuh|inl)$|__pycache__", name)
        ]
        note, binaries = "igan_fast/_build_failure.txt", [n for n in names if re.match(r"igan_fast/_C\..*(so|pyd)$", n)]
        wrong += [f"it lacks {name}" for name in FILES if name not in names]
        if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
            wrong.append("it lacks the licence")
        if extension and len(binaries) != 1:
            reason = archive.read(note).decode() if note in names else "and does not say why"
            return [*wrong, f"it has {len(binaries)} extensions instead of one: {reason}"]
        if extension == (note in names):
            wrong.append(f"it {'holds' if extension else 'lacks'} {note}")
        if not extension:
            return [*wrong, *(f"it holds {name}" for name in binaries)]
        with tempfile.TemporaryDirectory() as folder:
            return wrong + inspect_extension(Path(archive.extract(binaries[0], folder)))


def inspect_extension(library: Path) -> list[str]:
    """What ties a library to the machine or the version of torch that it was built with, as phrases."""
    dynamic = _output("readelf", "-d", "-W", library)
    wrong = [f"it looks for libraries in {path}" for path in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic)]
    wrong += [f"it is linked with {name}" for name in _linked(dynamic) if not _LIBRARIES.fullmatch(name)]
    undefined = [symbol for symbol in _undefined(library) if not _SYMBOLS.fullmatch(symbol)]
    return wrong + [
        f"it needs {_output('c++filt', symbol).strip()}, which is not in torch's stable ABI" for symbol in undefined
    ]


def needs(wheel: Path) -> str:
    """The oldest versions of the system's libraries that the wheel's extension runs with, as text."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        binary = next(name for name in archive.namelist() if re.match(r"igan_fast/_C\.", name))
        library = Path(archive.extract(binary, folder))
        found: dict[str, list[tuple[int, ...]]] = {}
        for symbol in _undefined(library):
            if match := re.search(r"@(GLIBC|GLIBCXX)_([\d.]+)$", symbol):
                found.setdefault(match[1], []).append(tuple(map(int, match[2].split("."))))
        stable = sum(bool(re.fullmatch(r"(aoti_)?torch_\w+", symbol)) for symbol in _undefined(library))
    newest = ", ".join(f"{name} {'.'.join(map(str, max(versions)))}" for name, versions in sorted(found.items()))
    return f"{newest}, and {stable} functions of libtorch's stable ABI"


def inspect_sdist(sdist: Path, tracked: list[str]) -> list[str]:
    """The files that the source archive lacks, and those that do not belong in it. ``tracked``: git's files."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    top = ("setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md", "CHANGELOG.md", "constraints.txt")
    wanted = [*top, *(name for name in tracked if name.startswith(("igan_fast/", "csrc/")))]
    hidden = "csrc/.clang-format"
    wrong = [f"it lacks {name}" for name in wanted if name not in names and name != hidden]
    return wrong + [
        f"it holds {name}" for name in sorted(names) if re.search(r"\.so$|_build_failure|__pycache__", name)
    ]


def _linked(dynamic: str) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)


def _undefined(library: Path) -> list[str]:
    lines = _output("nm", "-D", "--undefined-only", "--format=posix", library).splitlines()
    return [line.split()[0].replace("@@", "@") for line in lines if line.strip()]


def _output(*command: object) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout
