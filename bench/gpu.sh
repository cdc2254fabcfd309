#!/usr/bin/env bash
# Builds the extension, runs the GPU tests and most benchmarks on a CUDA machine with 16 cores, in less than nine
# minutes. Left out are the benchmarks of examples/, of the import, and of convolutions on the CPU.
#
#   bench/gpu.sh FOLDER [PYTHON]      writes MACHINE.json, a profile (.md and .png) and logs.txt to FOLDER
#
# It needs no network. PYTHON must have torch with CUDA, triton, numpy, pytest, pytest-benchmark, hypothesis, pybind11,
# ninja and the requirements of `import igan_fast.train`; nvcc must be installed. Without typeguard a test is skipped;
# without pytest-xdist the tests take longer. PYTHONPATH is respected.
#
# A part that fails does not stop the parts after it. The exit status is that of the first part that failed.
set -uo pipefail
[ $# -ge 1 ] || { echo "usage: bench/gpu.sh FOLDER [PYTHON]" >&2; exit 2; }
mkdir -p "$1" || exit 2
results=$(cd "$1" && pwd)
log=$results/logs.txt
python=${2:-python3}
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export IGAN_FAST_COMMIT=${IGAN_FAST_COMMIT:-$(git describe --always --dirty=+ 2>/dev/null || echo unknown)}
status=0
: > "$log"

part() {  # NAME SECONDS COMMAND…: runs a command with a time limit and prints the end of its output
    local name=$1 limit=$2 begin=$SECONDS code=0 start outcome
    shift 2
    printf '\n==== %s\n' "$name" >> "$log"
    start=$(wc -c < "$log")
    if [ "$limit" -ge 10 ]; then
        timeout --signal=INT --kill-after=10 "$limit" "$@" >> "$log" 2>&1 || code=$?
        outcome="exit status $code after $((SECONDS - begin)) s"
    else
        code=124 outcome="no time left for it"
    fi
    echo "== $name: $outcome"
    tail -c "+$((start + 1))" "$log" | tail -n "${lines:-15}"
    printf '\n==== %s: %s\n' "$name" "$outcome" >> "$log"
    if [ "$status" -eq 0 ]; then status=$code; fi
}

left() {  # the seconds until the script has run for $1 seconds, minus the ten that a part may take to stop
    echo $(($1 - 10 - SECONDS))
}

at_most() {  # the smaller of two numbers
    echo $(($1 < $2 ? $1 : $2))
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
# Build the extension for this machine's GPU only, which takes a third of the time.
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$python" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(major, minor, sep=".", end="a" if major >= 9 else "")')}
FORCE_CUDA=1 part build 140 "$python" setup.py build_ext --inplace
lines=40 part backends 20 "$python" -m igan_fast.ops

test=("$python" -m pytest -p no:cacheprovider -q --durations=5 --continue-on-collection-errors)
# The tests that need a GPU: the iteration and its CUDA graphs, data loading, training.
# In parallel, because Triton's compilation takes most of the time.
parallel=()
if "$python" -c 'import xdist' 2> /dev/null; then parallel=(-n 14); fi
lines=30 part tests-of-the-whole 90 "${test[@]}" "${parallel[@]}" -m "gpu and not slow" tests/test_graphs.py \
    tests/test_step.py tests/test_unwritten.py tests/data/test_loader.py tests/ops/test_gpu.py tests/ops/convolution \
    tests/train
lines=30 part tests-of-operators 120 "${test[@]}" "${parallel[@]}" -m "gpu and not slow" tests/ops \
    --ignore=tests/ops/test_gpu.py --ignore=tests/ops/convolution

# A benchmark run that exceeds its limit keeps the results that it has written so far. The most important benchmark, the
# iteration, comes first. The profiler never runs in a process that measures times.
measure=("$python" -m pytest -p no:cacheprovider -q --benchmark-enable --benchmark-quiet --bench-device cuda
    --results "$results")
operators=(bench/test_norm_act.py bench/test_feature_l1.py)
lines=30 part kernel-times 30 "$python" -m bench.kernel_time
lines=60 part bench-step "$(at_most 140 "$(left 400)")" "${measure[@]}" bench/test_step.py
lines=40 part bench-operators "$(at_most 70 "$(left 450)")" "${measure[@]}" "${operators[@]}"
lines=60 part profile "$(at_most 60 "$(left 470)")" "$python" -m bench.profile_step --batch-size 256 \
    --precision bf16 --out "$results"
lines=40 part bench-layers "$(at_most 30 "$(left 480)")" "${measure[@]}" bench/test_layers.py
lines=30 part bench-the-rest "$(at_most 40 "$(left 490)")" "${measure[@]}" bench/test_data.py \
    bench/test_inference.py bench/test_conv_norm_act.py
lines=20 part launches "$(at_most 30 "$(left 500)")" "${measure[@]}" --launches bench/test_step.py "${operators[@]}"
lines=20 part tests-under-the-sanitizer "$(left 540)" "${test[@]}" -m "gpu and slow" tests/ops/test_gpu.py
exit "$status"
