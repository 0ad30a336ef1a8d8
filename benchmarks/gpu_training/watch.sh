#!/usr/bin/env bash
# Wait for a training in the background, at most so many seconds, and tell how far it is.
# benchmarks/gpu_training/watch.sh SECONDS [RUN ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=$1
shift
if [[ -f runs/train.pid && ! -f runs/train.done ]]; then
  timeout "$seconds" tail --pid="$(cat runs/train.pid)" -f /dev/null || true
fi
tail -n 5 runs/train.log
for run in "$@"; do
  if [[ -f $run/metrics.jsonl ]]; then
    grep '"event": "step"' "$run/metrics.jsonl" | tail -n 2 || true
    grep '"event": "evaluation"' "$run/metrics.jsonl" | tail -n 2 | cut -c1-600 || true
  fi
done
if [[ -f runs/train.done ]]; then echo "the training is done"; fi
if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=utilization.gpu,memory.used,power.draw --format=csv,noheader
fi
