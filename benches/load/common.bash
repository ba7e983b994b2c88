# Shared functions of the scripts in this folder: builds the program, and reads figures from its
# JSON. Sourced, not run. CONNS, SECONDS_LONG and FANFARE (the program) can be set in the
# environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ -z ${FANFARE:-} ]]; then
  cargo build --release --quiet </dev/null
  FANFARE=$(cargo metadata --format-version 1 --no-deps </dev/null |
    python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/release/fanfare
fi
readonly FANFARE
results=$(mktemp -d)
readonly results
trap 'rm -rf "$results"' EXIT

# measure NAME FLAGS...: runs the generator and stores its JSON. Prints the JSON if the run fails.
measure() {
  local name=$1 status=0
  shift
  printf '\n== %s: fanfare bench %s\n' "$name" "$*"
  "$FANFARE" bench "$@" --json >"$results/$name" || status=$?
  if ((status != 0)); then
    cat "$results/$name"
    printf 'verdict: FAILED, %s ended with status %d\n' "$name" "$status"
    exit 1
  fi
}

# figures LABEL EXPRESSION...: prints the values of Python expressions. Each run is a variable.
# verdict NAME EXPRESSION GOAL UNIT: prints the verdict of a row whose goal is an upper bound.
# at_least NAME EXPRESSION GOAL UNIT: prints the verdict of a row whose goal is a lower bound.
figures() { python3 benches/load/figures.py "$results" figures "$@"; }
verdict() { python3 benches/load/figures.py "$results" verdict "$@"; }
at_least() { python3 benches/load/figures.py "$results" at_least "$@"; }
