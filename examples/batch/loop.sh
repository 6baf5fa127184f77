#!/usr/bin/env bash
# One study after the other on one machine; each goes on where it was interrupted.
# usage: loop.sh RESULTS TABLE...
set -u
results=$1
shift
worst=0
for table in "$@"; do
  name=$(basename "${table%.*}")
  carl batch "$table" --out-dir "$results/$name" --resume --keep-going \
    --log-file "$results.$name.log"
  code=$?
  [ "$code" -eq 130 ] && exit 130
  [ "$code" -gt "$worst" ] && worst=$code
done
exit "$worst"
