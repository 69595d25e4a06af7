#!/usr/bin/env bash
# Everything that is measured on a GPU, into one file: solvers, steps of training, one dataset from its archive to accuracy.
#   bash benchmarks/all_gpu.sh [FOLDER]             default: gpu-results; read FOLDER/gpu.json
# Exit code 124: what there was time for is in the file; call it again. 1: a check failed. NAMES: what `reproduce_gpu.sh` reproduces (default: fc100).
# FROM: the archive of its data. WHEELS: a folder of wheels to take what is missing from. STEP: recipe whose training steps are measured.
# DEVICE=cpu TINY=--tiny SETS="…" STEP=glyphs_5w1s rehearses it on a machine without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-gpu-results}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
source benchmarks/bare.sh
unset WHEELS
gather() {
  python3 - "$folder" <<'PY'
import json, pathlib, sys

folder = pathlib.Path(sys.argv[1])
found = {"/".join(x.relative_to(folder).with_suffix("").parts): json.loads(text)
         for x in sorted([*folder.glob("solvers/*.json"), *folder.glob("training.json"), *folder.glob("reproduce/*/report.json")])
         if (text := x.read_text())}  # an interrupted command has left an empty file
(folder / "gpu.json").write_text(json.dumps(found, indent=1))
print(f"{folder}/gpu.json: {', '.join(found)}")
PY
}
trap gather EXIT
failed=0
if [ ! -e "$folder/solvers/done" ]; then
  within bash benchmarks/solvers_gpu.sh "$folder/solvers" || { failed=$?; [ "$failed" -eq 1 ] || exit "$failed"; }
  echo "$failed" > "$folder/solvers/done"
fi
failed=$(cat "$folder/solvers/done")
if [ ! -e "$folder/training.json" ]; then
  within python3 benchmarks/training.py --device "${DEVICE:-cuda}" --recipe "${STEP:-fc100_5w1s}" --rounds "${ROUNDS:-20}" \
    --variants "${VARIANTS:-float32,bf16,bf16 compiled}" > "$folder/training.part"
  mv "$folder/training.part" "$folder/training.json"
fi
RUNS="$folder/reproduce" LIMIT=$((end - SECONDS)) bash benchmarks/reproduce_gpu.sh ${NAMES:-fc100}
exit "$failed"
