#!/usr/bin/env bash
# Builds the extension, runs the GPU tests and every benchmark on a CUDA machine, in under nine minutes and without a
# network, with the Python at hand and what it has installed (torch with CUDA, triton, numpy, pytest, pytest-benchmark,
# hypothesis, pybind11, ninja, and what `import igan_fast.train` asks for; nvcc beside them). What is missing of
# typeguard or pytest-xdist skips a test or costs time. A PYTHONPATH that is set stays in use.
#
#   bench/gpu.sh FOLDER [PYTHON]      FOLDER receives MACHINE.json, a profile (.md and .png) and logs.txt
#
# Each part runs whatever became of the one before; the exit status is that of the first that failed.
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

part() {  # NAME SECONDS COMMAND…
    local name=$1 limit=$2 begin=$SECONDS code=0 start told
    shift 2
    printf '\n==== %s\n' "$name" >> "$log"
    start=$(wc -c < "$log")
    if [ "$limit" -ge 10 ]; then
        timeout --signal=INT --kill-after=10 "$limit" "$@" >> "$log" 2>&1 || code=$?
        told="exit status $code after $((SECONDS - begin)) s"
    else
        code=124 told="no time left for it"
    fi
    echo "== $name: $told"
    tail -c "+$((start + 1))" "$log" | tail -n "${lines:-15}"
    printf '\n==== %s: %s\n' "$name" "$told" >> "$log"
    if [ "$status" -eq 0 ]; then status=$code; fi
}

left() {  # until second $1 of the script, of which a part that is cut off can take ten more
    echo $(($1 - 10 - SECONDS))
}

at_most() {  # the smaller of two numbers
    echo $(($1 < $2 ? $1 : $2))
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
# An extension for this machine alone builds in a third of the time.
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$python" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(major, minor, sep=".", end="a" if major >= 9 else "")')}
FORCE_CUDA=1 part build 140 "$python" setup.py build_ext --inplace
lines=40 part backends 20 "$python" -m igan_fast.ops

test=("$python" -m pytest -p no:cacheprovider -q --durations=5 --continue-on-collection-errors)
# What only a GPU can show, one after the other: the iteration and its graphs, batches, training.
lines=30 part tests-of-the-whole 70 "${test[@]}" -m "gpu and not slow" tests/test_graphs.py tests/test_step.py \
    tests/data/test_loader.py tests/ops/test_gpu.py tests/train
# The operators' many small tests, most of whose time Triton compiles.
parallel=()
if "$python" -c 'import xdist' 2> /dev/null; then parallel=(-n 12); fi
lines=30 part tests-of-operators 60 "${test[@]}" "${parallel[@]}" -m "gpu and not slow" tests/ops \
    --ignore=tests/ops/test_gpu.py

# What is cut off by its limit has written what it has measured. Nothing that is timed shares a process with the
# profiler. First the iteration, its sizes in the order of what one wants to know.
measure=("$python" -m pytest -p no:cacheprovider -q --benchmark-enable --benchmark-quiet --bench-device cuda
    --results "$results")
operators=(bench/test_norm_act.py bench/test_feature_l1.py)
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
