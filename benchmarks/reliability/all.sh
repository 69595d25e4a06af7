#!/usr/bin/env bash
# Every campaign at the size whose figures docs/measurements.md names, one after the other; the reports go to FOLDER (default: reliability).
#   bash benchmarks/reliability/all.sh [FOLDER]
# PART divides the numbers of tries: PART=10 takes some minutes.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-reliability}
mkdir -p "$out"
failed=0
campaign() { # NAME TRIES SCRIPT WORDS…
  local name=$1 tries=$(($2 / ${PART:-1})) script=$3
  shift 3
  python "$here/$script" "$@" --tries "$tries" > "$out/$name.json" 2> "$out/$name.log" || failed=1
  python - "$out/$name.json" <<'PY'
import json, pathlib, sys

found = json.loads(pathlib.Path(sys.argv[1]).read_text())
print(f"{found['campaign']}: {found['tries']:,} tries, {len(found['faults'])} faults")
PY
}
campaign server 300 server.py
campaign pairs 100 pairs.py
campaign files 500 files.py
campaign disk 150 disk.py
campaign kills 150 kills.py
campaign images 20000 images.py
campaign commands 2000 fuzz.py commands
campaign recipes 10000 fuzz.py recipes
campaign transport 20000 transport.py
exit $failed
