# What the scripts of this folder share: building the program, and reading figures out of its JSON.
# Sourced, not run. CONNS, SECONDS_LONG and FANFARE (the program) may be set from outside.
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

# measure NAME FLAGS...: runs the generator, prints what a person wants to see, keeps the JSON.
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

# figures EXPRESSION...: prints Python expressions over the results, which are named as measured.
# verdict NAME VALUE_EXPRESSION GOAL UNIT: the last line for one row; the goal is at most so much.
# least NAME VALUE_EXPRESSION GOAL UNIT: the same for a goal of at least so much.
figures() { python3 benches/load/figures.py "$results" figures "$@"; }
verdict() { python3 benches/load/figures.py "$results" verdict "$@"; }
least() { python3 benches/load/figures.py "$results" least "$@"; }
