#!/usr/bin/env bash
# Copy what a machine without a network needs into folders that are small enough to be sent one at a time.
# benchmarks/gpu_training/pack.sh DATA TOKENIZER OUT [KILOBYTES]
# DATA has train/*.tsv.xz and dev/*; OUT gets part-1, part-2 ... and wheels (for Python 3.12, or $PYTHON). The corpus files are copied as they are:
# they are compressed already, and a run's record of their hashes then holds on both machines.
set -euo pipefail
data=$1 tokenizer=$2 out=$3 limit=$((${4:-24000} * 1000))
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
rm -rf "$out"
part=1 size=0
place() {  # place FILE FOLDER: into the part that is being filled
  local bytes
  bytes=$(stat -c %s "$1")
  if ((size > 0 && size + bytes > limit)); then part=$((part + 1)) size=0; fi
  size=$((size + bytes))
  mkdir -p "$out/part-$part/$2"
  cp "$1" "$out/part-$part/$2/"
}
mkdir -p "$out/part-1/runs"
cp "$tokenizer" "$out/part-1/runs/tokenizer-16k.model"
# Word lexica that benchmarks/gpu_training/input_path.py --cache runs/NAME/cache has made here save a minute there.
for file in runs/*/cache/words-*.npz; do
  if [[ -f $file ]]; then place "$file" "$(dirname "$file")"; fi
done
for file in "$data"/dev/*; do place "$file" dev; done
for file in "$data"/train/*.tsv.xz; do place "$file" train; done
# What the command line needs and a machine made for torch may lack, for its Python; no package without a wheel.
if [[ -z ${NO_WHEELS:-} ]]; then
  python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "${PYTHON:-3.12}" \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --dest "$out/wheels" "typer==0.29.2" "pydantic==2.14.4" "pydantic-core==2.50.5" annotated-types typing-inspection \
    annotated-doc shellingham snowballstemmer
fi
du -sm "$out"/*
