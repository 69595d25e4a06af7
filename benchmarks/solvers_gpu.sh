#!/usr/bin/env bash
# The network simplex on a GPU: the contract suite, its answers beside the CPU's, speed by size, a profile with its picture.
#   bash benchmarks/solvers_gpu.sh [FOLDER]         default: gpu-results/solvers
# Runs from a bare checkout. WHEELS: a folder of wheels to take what is missing from, without a network.
# DEVICE=cpu TINY=--tiny rehearses it on a machine without a GPU. The exit code is 1 when a check failed.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-gpu-results/solvers}
device=${DEVICE:-cuda}
mkdir -p "$folder"
source benchmarks/bare.sh
failed=0

python3 -m fewshot_cli doctor --check solver:network_simplex --device "$device" --format json > "$folder/contract.json" || failed=1
if command -v compute-sanitizer > "$folder/sanitizer.log"; then
  for tool in racecheck memcheck; do
    timeout 90 compute-sanitizer --tool "$tool" --error-exitcode 9 python3 - "$device" >> "$folder/sanitizer.log" 2>&1 <<'PY' || { echo "$tool: $?" >&2; failed=1; }
import sys
from fewshot_cli import registry
from fewshot_cli.profiling.problems import generated

for size in ((9, 9), (25, 25), (4, 64), (49, 25), (100, 100)):
    assert registry.solver("network_simplex")().solve(*(x.to(sys.argv[1]) for x in generated(*size, 4))).converged.all()
PY
  done
fi
python3 benchmarks/solvers_gpu.py --device "$device" ${TINY:-} --tune > "$folder/speed.json"
sizes=${TINY:+4,5,6}
python3 -m fewshot_cli profile --device "$device" --sizes "${sizes:-9,16,25,36,49,64,81,100}" --batch "${BATCH:-10000}" --budget 10 \
  --solver network_simplex,sinkhorn -o "$folder/profile.svg" --format json > "$folder/profile.json"
python3 - "$folder" <<'PY'
import json, pathlib, sys

speed, contract = (json.loads(pathlib.Path(sys.argv[1], f"{name}.json").read_text()) for name in ("speed", "contract"))
for check in contract:
    print(f"{check['outcome']:>8} {check['check']}: {check['what']}")
print(speed["device"], "largest relative gap", max(row["relative_gap"] for row in speed["exactness"]))
for row in speed["network_simplex"]:
    print(f"{row['size']:>8} batch {row['batch']:>6}: {row['problems_per_second']:>14,.0f} a second, "
          f"{1e6 * row['device_seconds']:,.0f} µs on the device, {1e6 * row['wall_seconds']:,.0f} µs by the clock")
PY
exit $failed
