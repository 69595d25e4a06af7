# Sourced by the scripts that run from a bare checkout: its modules before any installed ones, and what wheels bring; and
# `within COMMAND…`, which gives it LIMIT seconds less what the script has taken. Exit code 124: they did not suffice.
end=$((SECONDS + ${LIMIT:-540}))
within() {
  local left=$((end - SECONDS)) code=0
  [ "$left" -gt 0 ] || return 124
  timeout --kill-after=30 --signal=INT "$left" "$@" || code=$?
  case $code in 130 | 137) code=124 ;; esac
  return "$code"
}
if [ -n "${WHEELS:-}" ]; then
  site=$(mktemp -d)
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
fi
export PYTHONPATH="$PWD${site:+:$site}${PYTHONPATH:+:$PYTHONPATH}"
