#!/usr/bin/env bash
# One piece of a training, for a GPU that is yours for a short time slot:
#   bash examples/training/gpu.sh [CONFIG] [RUN] [SECONDS]
# Continues from RUN's last checkpoint, saves one every two minutes and at the end of the piece, in
# parts under 16 MiB (see [keeping] of base.toml). Exit code 75: not finished; fetch RUN, and run
# the same line again, on this machine or on another one that RUN was copied to.
# Needs torch, numpy, pydantic, typer and rich; the label maps of CONFIG must have been prepared
# elsewhere (benchmarks/prepare_label_maps.py needs SimpleITK).
set -euo pipefail
config=${1:-examples/training/base.toml}
run=${2:-runs/$(basename "$config" .toml)}
seconds=${3:-540}
cd "$(dirname "$0")/../.."
PYTHONPATH=. exec python -m carl_cli.cli.app train "$config" --out "$run" --resume --max-seconds "$seconds"
