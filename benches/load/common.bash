# Shared functions of the scripts in this folder, which source this file. Builds the program, runs
# measurements, and prints figures from their JSON. The environment variable FANFARE sets the path
# of the program. Many scripts also read CONNS and SECONDS_LONG.
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

# measure NAME FLAGS...: runs the generator and stores its JSON. If the run fails, prints the JSON
# and exits with status 1.
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

# figures LABEL EXPRESSION...: prints the values of Python expressions. In an expression, the name
#   of a run stands for the run's JSON object.
# verdict NAME EXPRESSION GOAL UNIT: prints the verdict of a row whose goal is an upper bound.
# at_least NAME EXPRESSION GOAL UNIT: prints the verdict of a row whose goal is a lower bound.
figures() { python3 benches/load/figures.py "$results" figures "$@"; }
verdict() { python3 benches/load/figures.py "$results" verdict "$@"; }
at_least() { python3 benches/load/figures.py "$results" at_least "$@"; }
