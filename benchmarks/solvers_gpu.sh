#!/usr/bin/env bash
# Everything about the network simplex that needs a GPU: its tests, exactness and speed, and a profile with its plot.
#   bash benchmarks/solvers_gpu.sh [FOLDER]
# Results go to FOLDER (default: $OUT, else gpu-results). WHEELS may name a folder of wheels to install from without a network.
# DEVICE=cpu TINY=--tiny rehearses it on a machine without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-${OUT:-gpu-results}}
device=${DEVICE:-cuda}
mkdir -p "$out"
if [ -n "${WHEELS:-}" ]; then python -m pip install -q --no-index --find-links "$WHEELS" --no-deps "$WHEELS"/*.whl; fi
python -m pytest tests/contracts/test_cuda_source.py -k "${TINY:+without_a_gpu or }gpu_gives" 2>&1 | tee "$out/tests.log"
python benchmarks/solvers_gpu.py --device "$device" ${TINY:-} --tune > "$out/solvers.json"
sizes=${TINY:+4,5,6}
python -m fewshot_cli profile --device "$device" --sizes "${sizes:-9,13,25,36,49,64,100}" --batch "${BATCH:-10000}" --budget 10 \
  --solver network_simplex,sinkhorn -o "$out/profile.svg" --format json > "$out/profile.json"
python - "$out" <<'PY'
import json, pathlib, sys

found = json.loads(pathlib.Path(sys.argv[1], "solvers.json").read_text())
print(found["device"], "worst relative gap", max(row["relative_gap"] for row in found["exactness"]))
for row in found["network_simplex"]:
    print(f"{row['size']:>8} batch {row['batch']:>6}: {row['problems_per_second']:>14,.0f} a second, "
          f"{1e6 * row['device_seconds']:,.0f} µs on the device, {1e6 * row['wall_seconds']:,.0f} µs by the clock")
PY
