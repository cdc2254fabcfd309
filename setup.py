"""Builds the optional extension ``igan_fast._C``. Everything else is declared in pyproject.toml.

The extension has a CPU part and a CUDA part. The CUDA part is built where torch has CUDA and nvcc is found; no GPU is
needed for that. If nothing can be built, the installation succeeds without the extension, and
``python -m igan_fast.ops`` says why.

Environment variables:

- ``NO_EXTENSION=1``: build no extension.
- ``NO_CUDA=1``: build only the CPU part.
- ``FORCE_CUDA=1``: fail if the CUDA part cannot be built.
- ``TORCH_CUDA_ARCH_LIST``: the GPU architectures to compile for.
- ``MAX_JOBS``: the number of compiler processes that run at once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
NOTE = "_build_failure.txt"  # where igan_fast.ops.backend looks for the reason
CUDA_TARGETS = "8.0;9.0a;9.0+PTX"  # Ampere, Hopper with its own instructions, and PTX for later architectures


@dataclass(frozen=True)
class Plan:
    """What to build. ``cuda`` is nvcc's path, or None without the CUDA part. ``reason`` says why a part is left out."""

    extension: bool
    cuda: str | None
    reason: str


def decide(env: Mapping[str, str], torch_cuda: str | None, nvcc: str | None, compiler: str | None) -> Plan:
    """Decides what to build from torch's CUDA version and the paths of nvcc and the compiler (None: not found)."""
    on = {name for name in ("NO_EXTENSION", "NO_CUDA", "FORCE_CUDA") if env.get(name, "0") not in ("", "0")}
    if "FORCE_CUDA" in on and on & {"NO_CUDA", "NO_EXTENSION"}:
        raise SystemExit(f"FORCE_CUDA and {min(on - {'FORCE_CUDA'})} are both set; expected at most one of them")
    if "FORCE_CUDA" in on and nvcc is None:
        raise SystemExit("FORCE_CUDA is set, but nvcc was not found; set CUDA_HOME or put nvcc on the PATH")
    if "NO_EXTENSION" in on:
        return Plan(False, None, "the extension was left out on request (NO_EXTENSION)")
    if compiler is None:
        return Plan(False, None, "the extension was not built: no C++ compiler was found (set CXX, or install g++)")
    if "FORCE_CUDA" in on:
        return Plan(True, nvcc, "")
    if "NO_CUDA" in on:
        return Plan(True, None, "without CUDA on request (NO_CUDA)")
    if torch_cuda is None:
        return Plan(True, None, "without CUDA: this torch has none")
    if nvcc is None:
        return Plan(True, None, "without CUDA: nvcc was not found")
    return Plan(True, nvcc, "")


def main() -> None:
    """Runs setuptools with the extension that can be built here."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        reason = f"the extension was not built: torch could not be imported ({error}); use pip's --no-build-isolation"
        run(Plan(False, None, reason), [], build_ext)
        return
    nvcc = find_nvcc(cpp_extension.CUDA_HOME)
    plan = decide(os.environ, torch.version.cuda, nvcc, find_compiler())
    run(plan, [extension(plan, cpp_extension)] if plan.extension else [], cpp_extension.BuildExtension)


def run(plan: Plan, extensions: list[Any], builder: Any) -> None:
    """Builds the package. If the extension cannot be built, a file in the package says why."""
    source = ROOT / "igan_fast"

    def keep_note(folder: Path, reason: str) -> None:
        if reason:
            (folder / NOTE).write_text(reason + "\n", encoding="utf-8")
        else:
            (folder / NOTE).unlink(missing_ok=True)

    class BuildPy(build_py):
        def run(self) -> None:
            keep_note(source, "" if plan.extension else plan.reason)  # before the package's files are gathered
            super().run()

    class BuildExtension(builder):  # type: ignore[misc]
        def run(self) -> None:
            say(describe(plan))
            keep_note(source, "" if plan.extension else plan.reason)
            if self.inplace and not plan.extension:
                for stale in source.glob("_C.*.so"):
                    stale.unlink()
            try:
                super().run()
            except Exception as error:
                if os.environ.get("FORCE_CUDA"):
                    raise
                first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
                reason = f"the extension was not built: {first_line} (python setup.py build_ext --inplace shows more)"
                say(reason)
                self.extensions = []  # nothing to copy
                for folder in {source, Path(self.build_lib) / "igan_fast"}:
                    if folder.is_dir():
                        keep_note(folder, reason)

    setup(ext_modules=extensions, cmdclass={"build_py": BuildPy, "build_ext": BuildExtension})


def extension(plan: Plan, cpp_extension: Any) -> Any:
    """``igan_fast._C``, from the sources that csrc/build.json matches and with its flags."""
    recipe = json.loads((ROOT / "csrc" / "build.json").read_text(encoding="utf-8"))
    targets, cuda_version = "", ""
    kind = cpp_extension.CppExtension
    flags = {"cxx": recipe["cxx_flags"]}
    definitions = [*recipe["definitions"]]
    if plan.cuda:
        import torch

        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_TARGETS)
        targets = targets_of(cpp_extension._get_cuda_arch_flags())
        kind, cuda_version = cpp_extension.CUDAExtension, torch.version.cuda or "unknown"
        flags["nvcc"] = recipe["nvcc_flags"]
        definitions.append("USE_CUDA")
    texts = {"FLAGS": " ".join(recipe["cxx_flags"]), "CUDA_VERSION": cuda_version, "CUDA_TARGETS": targets}
    built = kind(
        "igan_fast._C",
        sources(recipe, cuda=bool(plan.cuda)),
        include_dirs=[str(ROOT / "csrc"), *pybind11_include()],
        define_macros=[
            *((name, value or None) for name, _, value in (d.partition("=") for d in definitions)),
            *((f"IGAN_FAST_{name}", f'"{text}"') for name, text in texts.items()),
        ],
        extra_compile_args=flags,
        # Some compilers link their C++ library into what they build. With its symbols in sight, a part of it would be
        # taken from the C++ library that torch uses, and the message of an error would end in a crash.
        extra_link_args=recipe["link_flags"] if sys.platform == "linux" else [],
        depends=[str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()],
    )
    # The operators use only libtorch's stable ABI, so one binary works with several releases of torch.
    built.libraries = [library for library in built.libraries if library != "torch_python"]
    return built


def targets_of(flags: Sequence[str]) -> str:
    """What nvcc makes with these flags: ["-gencode=arch=compute_80,code=sm_80"] → "sm_80"."""
    return " ".join(re.findall(r",code=(\w+)", " ".join(flags)))


def sources(recipe: Mapping[str, list[str]], *, cuda: bool) -> list[str]:
    """The files that the recipe's patterns match, relative to the root. The kernels, slowest to compile, come first."""
    found = []
    for part in ("kernels", "module", "operators", *(["cuda"] if cuda else [])):
        for pattern in recipe[part]:
            matches = sorted((ROOT / "csrc").glob(pattern))
            if not matches:
                raise SystemExit(f"csrc/{pattern} matches no file; csrc/build.json names it")
            found += [str(path.relative_to(ROOT)) for path in matches]
    return found


def pybind11_include() -> list[str]:
    """The headers of the installed pybind11, which come before those that torch ships; empty where there is none."""
    try:
        import pybind11
    except ImportError:
        return []
    return [pybind11.get_include()]


def find_nvcc(cuda_home: str | None) -> str | None:
    """The path of nvcc, None where there is none."""
    inside = Path(cuda_home) / "bin" / "nvcc" if cuda_home else None
    return str(inside) if inside and inside.is_file() else shutil.which("nvcc")


def find_compiler() -> str | None:
    """The path of the C++ compiler that torch's build calls, None where there is none."""
    return shutil.which((os.environ.get("CXX") or "c++").split()[0])


def describe(plan: Plan) -> str:
    """Describes in one line what is built."""
    if not plan.extension:
        return plan.reason
    jobs = f", MAX_JOBS={os.environ['MAX_JOBS']}" if os.environ.get("MAX_JOBS") else ""
    if plan.cuda:
        targets = os.environ.get("TORCH_CUDA_ARCH_LIST", CUDA_TARGETS)
        return f"building the extension with {find_compiler()} and {plan.cuda} for {targets}{jobs}"
    return f"building the extension with {find_compiler()}, {plan.reason}{jobs}"


def say(line: str) -> None:
    """Prints a line; pip shows it with --verbose."""
    print(f"igan_fast: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
