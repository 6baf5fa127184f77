#!/bin/bash
# All that a GPU has to show: the kernel's tests, then the benchmarks at the paper's size.
#   benchmarks/gpu.sh FOLDER [RESULTS]     FOLDER: icon_registration 1.1.9, unpacked
set -euo pipefail
reference=${1:?the folder that holds the unpacked icon_registration 1.1.9}
results=${2:-gpu-results}
cd "$(dirname "$0")/.."
mkdir -p "$results"
python=${PYTHON:-python}

run() { # name of the result, then the command
    echo "== ${*:2}"
    "${@:2}" 2>&1 | tee "$results/$1.txt"
}

run tests "$python" -m pytest -q tests/model/kernels -m "gpu or not gpu"
run other-tests "$python" -m pytest -q tests -m gpu
run attention "$python" -m benchmarks.attention --device cuda --queries 85184 --sides 44 62
run attention-backward \
    "$python" -m benchmarks.attention --device cuda --queries 85184 --sides 62 --backward
run forward "$python" -m benchmarks.forward --device cuda --reference "$reference" --sides 175
run io "$python" -m benchmarks.io --device cuda --reference "$reference" --sides 175 --steps 50
