#!/usr/bin/env bash
# A large file through a narrow door, to a machine without a network or back from it.
#   bash benchmarks/parts.sh split FILE FOLDER [BYTES]      FOLDER/NAME.00 … of at most BYTES (default: 15,000,000), with NAME.sha256
#   bash benchmarks/parts.sh join FOLDER/NAME.sha256 FILE   joins them, once all are there and as they were; the exit code is 1 until then
set -euo pipefail
case ${1:-} in
  split)
    name=$(basename "$2")
    mkdir -p "$3"
    rm -f "$3/$name".[0-9][0-9] "$3/$name.sha256"
    split -d -b "${4:-15000000}" "$2" "$3/$name."
    (cd "$3" && sha256sum "$name".[0-9][0-9] > "$name.sha256")
    ;;
  join)
    (cd "$(dirname "$2")" && sha256sum --quiet -c "$(basename "$2")") || { echo "$2: some parts are missing or damaged" >&2; exit 1; }
    (cd "$(dirname "$2")" && sed 's/^[0-9a-f]*  //' "$(basename "$2")" | xargs cat) > "$3.part"
    mv "$3.part" "$3"
    ;;
  *)
    sed -n '2,4s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
