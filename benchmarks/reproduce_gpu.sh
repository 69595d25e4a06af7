#!/usr/bin/env bash
# DeepEMD's published accuracies on a GPU from nothing, in pieces of at most LIMIT seconds that each go on where the last ended.
#   bash benchmarks/reproduce_gpu.sh [NAME …]       NAME of `fsl reproduce`; default: fc100 cifar_fs
# FROM: archive of the data (of all names) if it is not prepared. RUNS: where runs and reports go (default: runs/reproduce). Exit code 124: call it
# again. WHEELS: a folder of wheels to take what is missing from.
# RECIPE: whose training steps are profiled at the end (default: fc100_5w1s).
# SETS: further --set options, as "key=value key=value". DEVICE=cpu with small SETS rehearses it without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
names=("$@")
[ $# -gt 0 ] || names=(fc100 cifar_fs)
source benchmarks/bare.sh
runs=${RUNS:-runs/reproduce}
mkdir -p "$runs"
device=${DEVICE:-cuda}
sets=(--set pretrain.precision=bf16 --set metatrain.precision=bf16)
for pair in ${SETS:-}; do sets+=(--set "$pair"); done
for name in "${names[@]}"; do
  folder=$runs/$name
  within python3 -m fewshot_cli reproduce "$name" --device "$device" --run-dir "$folder" ${FROM:+--from "$FROM"} \
    "${sets[@]}" > "$folder.md.part" || { code=$?; rm -f "$folder.md.part"; exit "$code"; }
  mv "$folder.md.part" "$folder.md"
done
within python3 -m fewshot_cli profile --step --device "$device" --recipe "${RECIPE:-fc100_5w1s}" "${sets[@]}" --format json \
  > "$runs/step.json"
