#!/usr/bin/env bash
# Builds the extension, runs the GPU tests and every benchmark on a CUDA machine, in under nine minutes and without a
# network, with the Python at hand and what it has installed (torch with CUDA, triton, numpy, pytest, pytest-benchmark,
# hypothesis, pybind11, ninja; nvcc beside them).
#
#   bench/gpu.sh FOLDER [PYTHON]      FOLDER receives MACHINE.json, a profile and a log of each part
#
# Each part runs whatever became of the one before; the exit status is that of the first that failed.
set -uo pipefail
[ $# -ge 1 ] || { echo "usage: bench/gpu.sh FOLDER [PYTHON]" >&2; exit 2; }
mkdir -p "$1" || exit 2
results=$(cd "$1" && pwd)
python=${2:-python3}
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
export IGAN_FAST_COMMIT=${IGAN_FAST_COMMIT:-$(git describe --always --dirty=+ 2>/dev/null || echo unknown)}
status=0

part() {  # NAME SECONDS COMMAND…
    local name=$1 limit=$2 begin=$SECONDS code=0
    shift 2
    timeout --signal=INT --kill-after=10 "$limit" "$@" > "$results/$name.log" 2>&1 || code=$?
    echo "== $name: exit status $code after $((SECONDS - begin)) s"
    tail -n "${lines:-15}" "$results/$name.log"
    if [ "$status" -eq 0 ]; then status=$code; fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
# An extension for this machine alone builds in a third of the time.
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$python" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(major, minor, sep=".", end="a" if major >= 9 else "")')}
FORCE_CUDA=1 part build 140 "$python" setup.py build_ext --inplace
lines=40 part backends 30 "$python" -m igan_fast.ops
lines=30 part tests 120 "$python" -m pytest -m gpu tests -p no:cacheprovider -q --durations=10
# What is cut off by its limit still writes what it has measured.
measure=("$python" -m pytest -p no:cacheprovider -q --benchmark-enable --benchmark-quiet --bench-device cuda
    --results "$results")
lines=40 part bench-operators 110 "${measure[@]}" bench/test_feature_l1.py bench/test_norm_act.py bench/test_conv_norm_act.py
lines=40 part bench-layers 40 "${measure[@]}" bench/test_layers.py
lines=60 part profile 30 "$python" -m bench.profile_step --batch-size 256 --precision bf16 --out "$results"
# The rest of the nine minutes, of which each part before can have taken ten seconds more than its limit. What compiles
# least comes first; the iteration's sizes come in the order of what one wants to know.
lines=40 part bench-step $((528 - SECONDS)) "${measure[@]}" bench/test_data.py bench/test_inference.py bench/test_step.py
exit "$status"
