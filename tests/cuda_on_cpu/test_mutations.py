"""The usual mistakes in a kernel, each of which the emulation has to catch. ``make cuda-on-cpu`` runs the same tests on
the kernels as they are, where they pass."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cuda_on_cpu.build import ROOT, build
from cuda_on_cpu.run import environment


@dataclass(frozen=True)
class Mutation:
    """``before`` becomes ``after`` wherever it stands in a source of csrc/cuda."""

    source: str
    before: str
    after: str
    message: str  # what the test's output then has to say
    tests: str = "tests/ops/test_feature_l1.py"


MUTATIONS = {
    "reads one vector past the end": Mutation(
        "feature_l1/forward.cu", "first + kPerThread <= numel", "first < numel", "heap-buffer-overflow"
    ),
    "writes one element past the end": Mutation(
        "feature_l1/backward.cu", "if (to + v < fill.numel)", "if (to + v <= fill.numel)", "heap-buffer-overflow"
    ),
    "shared memory that is one too short": Mutation(
        "device.cuh", "__shared__ double warps[kWarps];", "__shared__ double warps[kWarps - 1];", "out of bounds"
    ),
    "no barrier before the result is read": Mutation(
        "device.cuh",
        "value;\n  __syncthreads();\n  if (threadIdx.x == 0)\n",
        "value;\n  if (threadIdx.x == 0)\n",
        "AssertionError",
    ),
    "no barrier before the next call": Mutation(
        "device.cuh",
        "__syncthreads();  // another",
        "// another",
        "AssertionError",
        "tests/cuda_on_cpu/test_orders.py",
    ),
    "a barrier that one thread does not reach": Mutation(
        "device.cuh",
        "__syncthreads();  // another",
        "if (threadIdx.x) __syncthreads();  // another",
        "__syncthreads that some threads never reach",
    ),
    "a mask of half a warp": Mutation(
        "device.cuh", "kFullWarp = 0xffffffffu", "kFullWarp = 0x0000ffffu", "a lane that the mask does not name"
    ),
    "one step of a reduction too few": Mutation(
        "device.cuh", "offset = kWarp / 2", "offset = kWarp / 4", "AssertionError"
    ),
    "an offset of 32 bits": Mutation(
        "feature_l1/backward.cu",
        "const int64_t first = (block - batch.starts[i]) * kBlock;",
        "const int64_t first = static_cast<int>((block - batch.starts[i]) * kBlock);",
        "SEGV",
        "tests/cuda_on_cpu/test_large.py",
    ),
    "a product of 32 bits": Mutation(
        "feature_l1/forward.cu",
        "(block - batch.starts[i]) * kBlock",
        "static_cast<int>(block - batch.starts[i]) * static_cast<int>(kBlock)",
        "signed integer overflow",
        "tests/cuda_on_cpu/test_large.py",
    ),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For all mutations, so that each compiles only what it changes."""
    return tmp_path_factory.mktemp("mutations")


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_caught(folder: Path, name: str) -> None:
    mutation = MUTATIONS[name]
    shutil.copytree(ROOT / "csrc", folder / "csrc", dirs_exist_ok=True)
    source = folder / "csrc" / "cuda" / mutation.source
    text = source.read_text(encoding="utf-8")
    assert mutation.before in text, "the source has changed: change the mutation too"
    source.write_text(text.replace(mutation.before, mutation.after), encoding="utf-8")
    library = build(folder / "csrc", folder / "build", only="feature_l1")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-s",
        "-n0",
        "-p",
        "no:cacheprovider",
        "-p",
        "cuda_on_cpu.plugin",
    ]
    command += ["-k", "(native-cpu or cuda_on_cpu) and not norm_act", mutation.tests]
    done = subprocess.run(command, cwd=ROOT, env=environment(library), capture_output=True, text=True)
    assert done.returncode not in (0, 5), "not caught"
    said = done.stdout + done.stderr
    assert mutation.message in said, said
