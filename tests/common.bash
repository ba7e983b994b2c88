# What tests/run and tests/long/run share: numbered steps with their times, packages, cargo's tests
# and the summary. Sourced, with the root of the repository as the working directory.

readonly deps=tests/.deps
steps=0
log=$(mktemp) || exit 1
as_root=()
policy=
clean_up() {
  rm -f "$log"
  [[ -z $policy ]] || "${as_root[@]}" rm -f "$policy"
  policy=
}
trap clean_up EXIT

# Servers are where not every user has a path to.
export PATH=$PATH:/usr/sbin

give_up() {
  printf '%s: %s\n' "$0" "$*" >&2
  echo '0 passed, 1 failed'
  exit 1
}

# step NAME COMMAND...: runs the command, and prints the step's number, and its time at the end.
step() {
  local name=$1 began=$SECONDS code=0 outcome=done
  shift
  steps=$((steps + 1))
  printf '\n== %d. %s\n' "$steps" "$name"
  "$@" </dev/null || code=$?
  ((code == 0)) || outcome=FAILED
  printf '== %d. %s: %s, %d s\n' "$steps" "$name" "$outcome" "$((SECONDS - began))"
  return "$code"
}

# -- Packages, each kept as long as its list stays the same.

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("${@:2}"); }

debian_packages() {
  need cc gcc libc6-dev
  need curl curl
  need openssl openssl
  need python3 python3 python3-venv
  need node nodejs npm
  need npm npm
  need chromium chromium
  need sslscan sslscan
  need haproxy haproxy
  need nginx nginx
  need caddy caddy
  need apache2 apache2
  need varnishd varnish
  need squid squid
  need lighttpd lighttpd
  # promtool, which checks the format of metrics.
  need promtool prometheus
  if command -v python3 >/dev/null 2>&1 && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=(python3-venv)
  fi
  ((${#missing[@]})) || return 0
  printf 'to install: %s\n' "${missing[*]}"
  command -v apt-get >/dev/null 2>&1 ||
    give_up "this system has no apt-get; install by hand: ${missing[*]}"
  local installed=0 package
  if ((EUID != 0)); then
    command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null ||
      give_up "not root and no sudo without a password; run: apt-get install ${missing[*]}"
    as_root=(sudo -n)
  fi
  # What is installed is not started: port 80 may be taken, and several packages would want it.
  if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null &&
      "${as_root[@]}" chmod 755 "$policy"
  fi
  "${as_root[@]}" apt-get update -qq &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || installed=$?
  [[ -z $policy ]] || "${as_root[@]}" rm -f "$policy"
  policy=
  # Nor do they start with the machine. Packages without a service have nothing to disable.
  if command -v systemctl >/dev/null 2>&1; then
    for package in "${missing[@]}"; do
      "${as_root[@]}" systemctl disable --quiet "$package" >/dev/null 2>&1
    done
  fi
  ((installed == 0)) || give_up "apt-get could not install: ${missing[*]}"
}

# python_packages LIST FOLDER
python_packages() {
  local list=$1 venv=$deps/$2
  mkdir -p "$deps"
  cmp -s "$list" "$venv/installed.txt" && return
  rm -rf "$venv"
  python3 -m venv "$venv" || give_up 'python3 -m venv failed'
  "$venv/bin/pip" install --quiet -r "$list" || give_up "pip could not install $list"
  cp "$list" "$venv/installed.txt"
}

# npm_packages SOURCE FOLDER
npm_packages() {
  local source=$1 node=$deps/$2
  if ! cmp -s "$source/package-lock.json" "$node/installed.json"; then
    rm -rf "$node"
    mkdir -p "$node"
    cp "$source/package.json" "$source/package-lock.json" "$node/"
    (cd "$node" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) ||
      give_up "npm could not install $source/package-lock.json"
    cp "$source/package-lock.json" "$node/installed.json"
  fi
  # Node resolves packages from the script's own folder upwards, so the scripts stand beside them.
  cp "$source"/*.mjs "$node/" || give_up "cannot write to $node"
}

# -- Tests. The debug profile keeps debug assertions and overflow checks on.

has_failed=
cargo_test() {
  cargo test --no-fail-fast "$@" 2>&1 | tee -a "$log"
  local code=${PIPESTATUS[0]}
  ((code == 0)) || has_failed=yes
  return "$code"
}

# cargo's `Running` or `Doc-tests` line names each suite, `test result:` ends it. The last line is
# `N passed, N failed`; the exit status is 0 only if something ran and nothing failed.
summary() {
  local passed failed
  printf '\n== suites\n'
  awk '
    /^ *Running /   { name = $2 == "unittests" ? $3 : $2 }
    /^ *Doc-tests / { name = "doc-tests" }
    # A suite that began and never ended died with its process.
    /^running [0-9]+ tests?$/ { failed += open; open = 1 }
    /^test result:/ {
      passed += $4; failed += $6
      if ($4 + $6 > 0) printf "%-28s %5d passed %3d failed\n", name, $4, $6
      open = 0
    }
    END { printf "%d %d\n", passed, failed + open > "/dev/stderr" }
  ' "$log" 2>"$log.sum"
  read -r passed failed <"$log.sum"
  rm -f "$log.sum"
  # A build that failed, or a process that died, has no `test result:` line of its own.
  if [[ $has_failed && $failed == 0 ]]; then failed=1; fi
  printf '== %d steps, %d s\n' "$steps" "$SECONDS"
  echo "$passed passed, $failed failed"
  ((failed == 0 && passed > 0))
}
