#!/usr/bin/env bash
# Compiles every kernel for sm_80 and sm_90a, prints its registers, and fails where one spills or uses local memory. Needs
# nvcc and torch's headers (a torch without CUDA will do), no GPU.   compile_check.sh [PYTHON]
set -euo pipefail
python=${1:-python3}
csrc=$(cd "$(dirname "$0")/.." && pwd)

nvcc=$(command -v nvcc || true)
if [ -z "$nvcc" ]; then
    echo "nvcc was not found: the CUDA kernels were not compiled"
    exit 77
fi
include=$("$python" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "include"))')
read -r -a flags < <("$python" -c 'import json, sys; print(*json.load(open(sys.argv[1]))["nvcc_flags"])' "$csrc/build.json")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

status=0
targets=(sm_80 sm_90a)
generate=()
for target in "${targets[@]}"; do generate+=(-gencode "arch=compute_${target#sm_},code=$target"); done
for source in "$csrc"/cuda/*/*.cu; do
    log="$work/log"
    if ! "$nvcc" "${flags[@]}" "${generate[@]}" -DUSE_CUDA -DTORCH_TARGET_VERSION=0x020a000000000000 -I "$csrc" -isystem "$include" \
        -Xptxas -v -c "$source" -o "$work/object.o" > "$log" 2>&1; then
        grep -E "error" "$log" || cat "$log"
        exit 1
    fi
    # ptxas says for each kernel: its mangled name and target, then its stack and spills, then its registers.
    awk -v targets="${targets[*]}" -v source="${source#"$csrc/cuda/"}" '
        /Compiling entry function/ {
            name = $0; sub(/.*function .\047?/, "", name); sub(/\047.*/, "", name)
            target = $0; sub(/.* for .?\047/, "", target); sub(/\047.*/, "", target)
        }
        /bytes stack frame/ { stack = $1 + 0; spills = $5 + $9 }
        /Used [0-9]+ registers/ {
            match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5) + 0
            kernels[target]++; if (registers > most[target]) most[target] = registers
            if (stack > 0 || spills > 0) { printf "%s %s: stack %d, spills %d bytes: %s\n", target, source, stack, spills, name; bad[target]++ }
        }
        END {
            count = split(targets, wanted, " ")
            for (i = 1; i <= count; i++) {
                t = wanted[i]
                printf "%-7s %-22s %3d kernels, at most %3d registers, %d with spills or a stack\n", t, source, kernels[t], most[t], bad[t]
                if (bad[t] > 0 || !kernels[t]) failed = 1
            }
            exit failed
        }
    ' "$log" || status=1
done
exit $status
