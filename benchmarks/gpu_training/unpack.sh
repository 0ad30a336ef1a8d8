#!/usr/bin/env bash
# Put a folder of pack.sh where the recipes look for it; run once for each part, in the repository's root.
# benchmarks/gpu_training/unpack.sh PACKED DATA
set -euo pipefail
packed=$1 data=$2
mkdir -p "$data/train" "$data/dev" runs
for part in "$packed"/part-*; do
  for kind in train dev; do
    if [[ -d $part/$kind ]]; then cp -u "$part/$kind"/* "$data/$kind/"; fi
  done
  if [[ -d $part/runs ]]; then cp -ru "$part/runs"/. runs/; fi
done
if compgen -G "$packed/wheels/*.whl" >/dev/null; then
  python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target runs/site "$packed"/wheels/*.whl
fi
echo "$(ls "$data/train" | wc -l) corpus files, $(ls "$data/dev" | wc -l) files of dev sets"
