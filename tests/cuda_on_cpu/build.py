"""Compiles the CUDA sources of csrc as C++ into a library of CPU operators, in the namespace igan_fast_emulated.

``python -m cuda_on_cpu.build`` builds it with both sanitizers in build/cuda-on-cpu, or says that it is up to date.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAMESPACE = "igan_fast_emulated"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-sanitize=vptr"]

#: A variable in shared memory: its type, name and size.
SHARED = re.compile(r"__shared__ ([\w:<>, ]+?) (\w+)\[([\w: */+-]+)\];")


def build(
    csrc: Path = ROOT / "csrc", out: Path = ROOT / "build" / "cuda-on-cpu", *, sanitize: bool = True, only: str = ""
) -> Path:
    """The library of the kernels in ``csrc``, or of the operator ``only``. It compiles what has changed.

    Raises:
        RuntimeError: the compiler's message, or a shared variable of a form that is not known here.
    """
    out.mkdir(parents=True, exist_ok=True)
    include = Path(torch.__file__).parent / "include"
    recipe = json.loads((csrc / "build.json").read_text(encoding="utf-8"))
    flags = ["-std=c++17", "-O1", "-g1", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-Wno-psabi", "-DUSE_CUDA"]
    flags += [f"-D{definition}" for definition in recipe["definitions"]] + (SANITIZERS if sanitize else [])
    flags += [f"-I{HERE / 'include'}", f"-I{HERE}", f"-I{out / 'csrc'}", "-isystem", str(include)]

    translated = {}
    for path in sorted(csrc.glob("**/*")):
        if path.suffix in (".h", ".cuh", ".cu", ".cpp") and path.relative_to(csrc).parts[0] in ("ops", "cuda"):
            target = out / "csrc" / path.relative_to(csrc)
            translated[target] = translate(path)
            write(target, translated[target])
    kernels = [p for pattern in recipe["cuda"] for p in sorted((out / "csrc").glob(pattern)) if p in translated]
    kernels = [p for p in kernels if not only or p.parent.name == only]
    schemas = [p for p in translated if p.name == "schema.cpp"]
    own_headers = [p.read_text(encoding="utf-8") for p in sorted(HERE.glob("**/*.h"))]
    headers = [text for path, text in translated.items() if path.suffix in (".h", ".cuh")]

    def compile_unit(unit: Path) -> Path:
        made = out / "objects" / f"{unit.parent.name}-{unit.stem}.o"
        texts = [*flags, *own_headers, *(headers if unit in kernels else []), unit.read_text(encoding="utf-8")]
        key = hashlib.sha256("\0".join([compiler(), torch.__version__, *texts]).encode()).hexdigest()
        note = made.with_suffix(".key")
        if not (made.is_file() and note.is_file() and note.read_text() == key):
            made.parent.mkdir(exist_ok=True)
            before = [] if unit.parent == HERE else ["-include", "before.h"]
            run([compiler(), *flags, *before, "-x", "c++", "-c", str(unit), "-o", str(made)])
            note.write_text(key)
        return made

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        objects = [*pool.map(compile_unit, [*kernels, *schemas, *sorted(HERE.glob("*.cpp"))])]
    library = out / "emulated.so"
    if not library.is_file() or any(o.stat().st_mtime > library.stat().st_mtime for o in objects):
        libraries = include.parent / "lib"
        link = ["-shared", *(SANITIZERS if sanitize else []), *map(str, objects), f"-L{libraries}", "-ltorch"]
        run([compiler(), *link, "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}", "-o", str(library)])
    return library


def translate(path: Path) -> str:
    """A source as the emulation compiles it: shared memory is its own; messages name the original's lines."""
    text = path.read_text(encoding="utf-8")
    text = SHARED.sub(r"static const char \2_key = 0; auto& \2 = cuda_on_cpu::shared<\1[\3]>(&\2_key);", text)
    if "__shared__" in text:
        raise RuntimeError(f"{path}: a __shared__ variable that is not `__shared__ type name[size];`")
    return f'#line 1 "{path}"\n{text}'


def compiler() -> str:
    return os.environ.get("CXX") or "c++"


def run(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    print(build())
