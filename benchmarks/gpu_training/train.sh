#!/usr/bin/env bash
# Run recipes one after the other, each with a number of steps; what was cut off goes on where it was.
# benchmarks/gpu_training/train.sh RECIPE STEPS [RECIPE STEPS ...]
# In the background, so that it outlives the command that began it:
#   setsid nohup benchmarks/gpu_training/train.sh recipes/gpu.toml 9000 ... >>runs/train.log 2>&1 </dev/null &
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH="$PWD/runs/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p runs
echo $$ >runs/train.pid
while (($# >= 2)); do
  echo "== $1, $2 steps, $(date -u +%H:%M:%S)"
  python3 -m model.cli train "$1" --total-steps "$2"
  shift 2
done
echo "== done, $(date -u +%H:%M:%S)"
touch runs/train.done
