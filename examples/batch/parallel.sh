#!/usr/bin/env bash
# Four shards at once with GNU parallel, each with a quarter of the cores.
# usage: parallel.sh TABLE RESULTS
set -u
threads=$((($(nproc) + 3) / 4))
parallel --line-buffer --tag carl batch "$1" --out-dir "$2" --resume --threads "$threads" \
  --shard '{}/4' ::: 1 2 3 4
carl batch "$1" --out-dir "$2" --summary
