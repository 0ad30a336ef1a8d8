#!/usr/bin/env bash
# Measure a run's newest model on the dev sets, and take it out in files of at most 15 MB each.
# benchmarks/gpu_training/collect.sh RUN DATA OUT FORMAT [FIRST LAST]
# FORMAT is int8 or bfloat16; FIRST and LAST choose among the parts, where not all may come at once.
# To be put together with: cat weights.part-* | tar xf -
set -euo pipefail
run=$1 data=$2 out=$3 format=$4 first=${5:-0} last=${6:-99}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH="$PWD/runs/site${PYTHONPATH:+:$PYTHONPATH}"
model=$run/exported-$format
mkdir -p "$out"
if [[ ! -f $run/$format.tar ]]; then
  python3 -m model.cli export "$run" "$model" --format "$format"
  if [[ -n ${EVALUATE:-} ]]; then
    python3 -m model.cli evaluate --dev-dir "$data/dev" --model "$model" --json | tee "$run/scores-$format.jsonl"
  fi
  tar cf "$run/$format.tar" -C "$run" "exported-$format"
  rm -f "$run/$format".part-*
  split --bytes=15000000 --numeric-suffixes --suffix-length=2 "$run/$format.tar" "$run/$format.part-"
fi
for file in "$run/$format".part-*; do
  number=$((10#${file##*-}))
  if ((number >= first && number <= last)); then cp "$file" "$out/$(basename "$run").$(basename "$file")"; fi
done
# Small, and worth having in any case.
tar czf "$out/$(basename "$run").$format.log.tar.gz" -C "$run" $(cd "$run" && ls metrics.jsonl recipe.json corpus.json scores-*.jsonl 2>/dev/null)
(cd "$run" && sha256sum "$format.tar")
ls -l "$out"
