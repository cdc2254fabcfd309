"""``python -m cuda_on_cpu.run [PYTEST ARGUMENTS]``: the operators' tests on the emulated CUDA kernels, with sanitizers.

AddressSanitizer reports what a kernel reads or writes outside of a tensor or of shared memory,
UndefinedBehaviorSanitizer overflows and misaligned accesses. New memory is filled with 0xFF, of which floats are NaN.
"""

from __future__ import annotations

import os
import subprocess
import sys

from cuda_on_cpu.build import ROOT, build, compiler

TESTS = [
    *(f"tests/cuda_on_cpu/test_{name}.py" for name in ("rules", "orders", "large")),
    *(f"tests/ops/test_{name}.py" for name in ("feature_l1", "feature_l1_autograd", "norm_act", "norm_act_autograd")),
    *(f"tests/ops/test_{name}.py" for name in ("norm_act_film", "norm_act_halves", "norm_act_numerics")),
]

SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=50000000:malloc_fill_byte=255",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def environment(library: os.PathLike[str]) -> dict[str, str]:
    """The variables of a process that loads a sanitized library."""
    preload = [
        subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        for name in ("libasan.so", "libstdc++.so.6")  # libasan looks for C++'s exceptions when it is loaded
    ]
    return {
        **os.environ,
        **SANITIZERS,
        "LD_PRELOAD": " ".join(path.strip() for path in preload),
        "CUDA_ON_CPU": str(library),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }


def main() -> int:
    library = build()
    chosen = "(native-cpu or any_shape or cuda_on_cpu) and not number_of_threads"  # of PyTorch, which play no part here
    if not sys.argv[1:]:  # thousands of calls on a few values, which the other tests make too: half of film's time
        chosen += " and not (norm_act_film and second_derivatives)"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "cuda_on_cpu.plugin", "-k", chosen]
    return subprocess.run([*command, *(sys.argv[1:] or TESTS)], cwd=ROOT, env=environment(library)).returncode


if __name__ == "__main__":
    sys.exit(main())
