#!/usr/bin/env bash
# Builds the extension, runs the GPU tests and most benchmarks on a CUDA machine with 16 cores, in at most nine minutes.
# Left out are the benchmarks of examples/, of the import, and of convolutions on the CPU.
#
#   bench/gpu.sh FOLDER [PYTHON]              writes MACHINE.json, a profile (.md and .png) and logs.txt to FOLDER
#   bench/gpu.sh --rehearse FOLDER [PYTHON]   runs the same commands with tiny inputs on a machine without a GPU
#   bench/gpu.sh --plan                       prints the parts and their limits, and runs nothing
#   bench/gpu.sh --from PART …                the same from this part on: for the nine minutes after the first ones
#
# It needs no network. PYTHON must have torch with CUDA, triton, numpy, pytest, pytest-benchmark, hypothesis, pybind11,
# ninja and the requirements of `import igan_fast.train`; nvcc must be installed. Without typeguard a test is skipped;
# without pytest-xdist the tests take longer. PYTHONPATH is respected.
#
# The parts run in the order of their importance: first whether the iteration on the GPU equals the reference, also with
# blocks, then its times, then those with IGAN_FAST_CONVOLUTION=blocks and =measure and of the blocks' kernels. A part is
# stopped at its limit, and the last parts get what is left of the nine minutes. A part that fails or is stopped does not
# stop the parts after it. The exit status is that of the first part that failed. --from keeps what is in FOLDER, and
# adds to it.
#
# In a rehearsal Triton's kernels run in its interpreter. The tests marked gpu are collected only: the CUDA kernels run
# on a CPU by `make cuda-on-cpu`. It cannot show what CUDA graphs, streams and the profiler do on a GPU. The limits are
# five times as long, because the machine may be slow and busy.
#
# For tests of this script: GPU_SH_LIMIT is the largest limit of a part in seconds, and GPU_SH_GRACE the seconds that it
# gets to stop.
set -uo pipefail
rehearsal="" plan="" from="" first_part=""
while :; do
    case ${1:-} in
        --rehearse) rehearsal=yes; shift ;;
        --plan) plan=yes; shift ;;
        --from) first_part=${2:-none} from=${2:-none}; shift "$(($# > 1 ? 2 : 1))" ;;
        *) break ;;
    esac
done
if [ -z "$plan" ] && { [ $# -lt 1 ] || [ $# -gt 2 ] || [[ $1 == -* ]]; }; then
    echo "usage: bench/gpu.sh [--rehearse] [--from PART] FOLDER [PYTHON], or bench/gpu.sh [--from PART] --plan" >&2
    exit 2
fi

total=540 factor=1 grace=${GPU_SH_GRACE:-10} python=${2:-python3} status=0
if [ -n "$plan" ]; then
    results=FOLDER log=/dev/null
else
    mkdir -p "$1" || exit 2
    results=$(cd "$1" && pwd)
    log=$results/logs.txt
    if [ -z "$first_part" ]; then : > "$log"; fi
fi
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export IGAN_FAST_COMMIT=${IGAN_FAST_COMMIT:-$(git describe --always --dirty=+ 2>/dev/null || echo unknown)}

part() {  # NAME LIMIT LINES COMMAND…: runs a command for at most LIMIT seconds, and prints its last LINES lines
    if [ -n "$from" ] && [ "$1" != "$from" ]; then return 0; fi
    from=""
    local name=$1 limit=$(($2 * factor)) lines=$3 begin=$SECONDS code=0 start outcome
    local left=$((total * factor - grace - SECONDS)) most=${GPU_SH_LIMIT:-$limit}
    shift 3
    limit=$((limit < left ? limit : left))
    limit=$((limit < most ? limit : most))
    if [ -n "$plan" ]; then  # as if every part were stopped at its limit
        printf '%4d s  %-28s at most %3d s\n' "$SECONDS" "$name" "$((limit < 0 ? 0 : limit))"
        SECONDS=$((SECONDS + (limit < 1 ? 0 : limit + grace)))
        return
    fi
    printf '\n==== %s\n' "$name" >> "$log"
    start=$(wc -c < "$log")
    if [ "$limit" -ge 1 ]; then
        timeout --signal=INT --kill-after="$grace" "$limit" "$@" >> "$log" 2>&1 || code=$?
        outcome="exit status $code after $((SECONDS - begin)) s"
    else
        code=124 outcome="no time left for it"
    fi
    echo "== $name: $outcome"
    tail -c "+$((start + 1))" "$log" | tail -n "$lines"
    printf '\n==== %s: %s\n' "$name" "$outcome" >> "$log"
    if [ "$status" -eq 0 ]; then status=$code; fi
}

pytest=("$python" -m pytest -p no:cacheprovider -q)
tests=("${pytest[@]}" --durations=5 --continue-on-collection-errors)
measure=("${pytest[@]}" --benchmark-enable --benchmark-quiet --results "$results")
fast="gpu and not slow" quick=() parallel=() device=cuda
if [ -n "$rehearsal" ]; then
    export TRITON_INTERPRET=1 OMP_NUM_THREADS=1
    quick=(--quick) device=cpu factor=5
    tests+=(--collect-only)
elif [ -z "$plan" ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
    # Build the extension for this machine's GPU only, which takes a third of the time.
    export FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$python" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(major, minor, sep=".", end="a" if major >= 9 else "")')}
    # The tests run in parallel, because Triton's compilation takes most of their time.
    if "$python" -c 'import xdist' 2> /dev/null; then parallel=(-n 14); fi
fi
measure+=(--bench-device "$device" ${quick[@]+"${quick[@]}"})
tests+=(${parallel[@]+"${parallel[@]}"})

part build 120 15 "$python" setup.py build_ext --inplace
part backends 20 40 "$python" -m igan_fast.ops
part equality-of-the-iteration 50 30 "${tests[@]}" -m "$fast" tests/test_step.py tests/test_graphs.py tests/ops/convolution
part equality-of-blocks 50 30 "${tests[@]}" -m "$fast" tests/test_step_blocks.py tests/ops/blocks \
    tests/test_graphs_measured.py
# A run that is stopped keeps the results that it has written so far. The profiler never runs in a process that measures
# times. Blocks have processes of their own: a kernel that fails on a GPU ends all that its process would do after it.
iteration="paper and 128 and bf16"
part iteration 100 60 "${measure[@]}" bench/test_step.py -k "$iteration"
part iteration-with-blocks 70 60 "${measure[@]}" bench/test_step.py -k blocks
part block-kernels 50 40 "$python" -m bench.block_time ${quick[@]+"${quick[@]}"}
# Triton compiles about a hundred kernels for it, all the ways to divide its products. What is chosen is kept on disk.
part iteration-with-measure 150 60 "${measure[@]}" bench/test_step.py -k measure
part tests-of-operators 110 30 "${tests[@]}" -m "$fast" tests/ops --ignore=tests/ops/convolution --ignore=tests/ops/blocks
part profile 45 60 "$python" -m bench.profile_step --batch-size 256 --precision bf16 --device "$device" --out "$results" \
    ${quick[@]+"${quick[@]}"}
part operators 60 40 "${measure[@]}" bench/test_norm_act.py bench/test_feature_l1.py
part expected 30 40 "$python" -m bench.expected "$results"
part kernel-times 30 30 "$python" -m bench.kernel_time ${quick[@]+"${quick[@]}"}
part tests-of-training 60 30 "${tests[@]}" -m "$fast" tests/train tests/data/test_loader.py tests/test_label_values.py \
    tests/test_unwritten.py
part layers 30 40 "${measure[@]}" bench/test_layers.py
part other-iterations 100 60 "${measure[@]}" bench/test_step.py -k "not ($iteration) and not blocks and not measure"
part other-benchmarks 40 30 "${measure[@]}" bench/test_data.py bench/test_inference.py bench/test_conv_norm_act.py
part launches 30 20 "${measure[@]}" --launches bench/test_step.py bench/test_norm_act.py bench/test_feature_l1.py
part tests-under-the-sanitizer 120 20 "${tests[@]}" -m "gpu and slow" tests/ops/test_gpu.py
if [ -n "$from" ]; then
    echo "bench/gpu.sh: found --from $from; expected the name of a part, as bench/gpu.sh --plan prints them" >&2
    exit 2
fi
exit "$status"
