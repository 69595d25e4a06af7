#!/usr/bin/env bash
# Tables of the multi-proxy classifier and of alignment on a GPU, in pieces of at most LIMIT seconds that each go on where the last ended.
#   bash benchmarks/tables_gpu.sh
# MPW: tables of the classifier (default: T2, T4, T5, Fig2, of the rows with MPW_ROWS in their names) with SEEDS seeds. LSC: tables of
# alignment (default: T3 T4 T5) on DATASET. RUNS: where runs and results go (default: runs/tables). Exit code 124: call it again.
# MPW_SETS, LSC_SETS: further --set options, as "key=value key=value". DEVICE=cpu with small ones rehearses it without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
source benchmarks/bare.sh
runs=${RUNS:-runs/tables}
device=${DEVICE:-cuda}
mkdir -p "$runs"

table() { # NAME OPTIONS…
  local file="$runs/$1.json"
  [ ! -e "$file" ] || return 0
  within python3 -m fewshot_cli table "$@" --device "$device" --format json > "$file.part" ||
    { code=$?; rm -f "$file.part"; exit "$code"; }
  mv "$file.part" "$file"
}

sets=(--set pretrain.precision=bf16)
for pair in ${MPW_SETS:-}; do sets+=(--set "$pair"); done
rows=()
for word in ${MPW_ROWS:-ResNet-20, WRN-40-2,}; do rows+=(--rows "$word"); done
for name in ${MPW:-T2 T4 Fig2}; do
  table "mpw.$name" "${rows[@]}" --seeds "${SEEDS:-3}" --run-dir "$runs/mpw" "${sets[@]}"
done
[ -n "${MPW+given}" ] || table mpw.T5 --seeds 1 --run-dir "$runs/mpw" "${sets[@]}"

sets=(--set pretrain.precision=bf16 --set metatrain.precision=bf16)
for pair in ${LSC_SETS:-}; do sets+=(--set "$pair"); done
for name in ${LSC:-T3 T4 T5}; do
  table "lsc.$name" --dataset "${DATASET:-cub}" --run-dir "$runs/lsc" "${sets[@]}"
done
for name in multi_proxy align; do
  if [ ! -e "$runs/$name.json" ]; then
    python3 "benchmarks/$name.py" --device "$device" > "$runs/$name.part"
    mv "$runs/$name.part" "$runs/$name.json"
  fi
done
