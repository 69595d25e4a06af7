#!/usr/bin/env bash
# The shipped ResNet-12 weights from prepared data on a GPU: pre-training, meta-training, both packed in half precision, in
# pieces of at most LIMIT seconds (default: 540) that each go on where the last ended. Exit code 124: call it again.
#   bash benchmarks/weights_gpu.sh RECIPE=EPOCHS …       e.g. cub_5w1s=60 cifar_fs_5w1s=40 fc100_5w1s=40 (epochs of pre-training)
# RUNS: where runs go (default: runs/weights); what is finished is skipped, what was stopped goes on. SETS: further --set options,
# as "key=value key=value". DEVICE=cpu with small SETS rehearses it. RECIPE.tar.00 … are the packed weights and their logs in parts
# of PART bytes (default: 15,000,000), with RECIPE.tar.sha256 of all of them; parts.sh joins them.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-runs/weights}
source benchmarks/bare.sh
mkdir -p "$runs"
runs=$(cd "$runs" && pwd)
sets=()
for pair in ${SETS:-}; do sets+=(--set "$pair"); done

train() { # VERB FOLDER OPTIONS…
  local verb=$1 folder=$2 again=()
  shift 2
  [ ! -d "$folder" ] || again=(--resume)
  within python3 -m fewshot_cli "$verb" --device "${DEVICE:-cuda}" --run-dir "$folder" ${again[@]+"${again[@]}"} "$@" ${sets[@]+"${sets[@]}"}
  [ -f "$folder.safetensors" ] || python3 -m fewshot_cli weights pack "$folder" -o "$folder.safetensors"
}

[ $# -gt 0 ] || { sed -n '2,5s/^# *//p' "$0" >&2; exit 2; }
for one in "$@"; do
  recipe=${one%=*}
  train pretrain "$runs/$recipe.pretrain" --recipe "$recipe" --set "pretrain.epochs=${one#*=}"
  train metatrain "$runs/$recipe.metatrain" --recipe "$recipe" --set "pretrain.epochs=${one#*=}" --weights "$runs/$recipe.pretrain/weights.safetensors"
  tar -c -C "$runs" --exclude=state.pt --exclude=weights.safetensors -f "$runs/$recipe.tar" "$recipe.pretrain" "$recipe.metatrain" \
    "$recipe.pretrain.safetensors" "$recipe.pretrain.safetensors.json" "$recipe.metatrain.safetensors" "$recipe.metatrain.safetensors.json"
  bash benchmarks/parts.sh split "$runs/$recipe.tar" "$runs" "${PART:-15000000}"
done
