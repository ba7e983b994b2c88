# Code that tests/run, tests/long/run and .ci/run share: numbered steps with their times, packages,
# cargo's tests and the summary. This file is sourced with the repository's root as the working
# directory.
#
# A step prints one line, and a line below it for each test binary. Only failures show their output.

readonly deps=tests/.deps
steps=0
passed=0
failed=0
log=$(mktemp) || exit 1
as_root=()
policy=
is_running=
clean_up() {
  local code=$?
  # If the run is stopped, the output of the current step or test binary is printed.
  if [[ $is_running ]]; then printf '    %s was stopped\n' "$binary" >&3; fi
  if [[ $is_running ]] || ((code != 0)); then cat "$log" >&3; fi
  rm -f "$log"
  [[ -z $policy ]] || "${as_root[@]}" rm -f "$policy"
  policy=
}
trap clean_up EXIT
# The output of a step is written to the log; descriptor 3 is the terminal.
exec 3>&1

# Some servers are in folders that are not in every user's PATH.
export PATH=$PATH:/usr/sbin

# give_up MESSAGE: prints the output so far and the message, and exits. Can be called inside a step.
give_up() {
  {
    printf '\n'
    cat "$log"
    printf '%s: %s\n' "$0" "$*"
    echo '0 passed, 1 failed'
  } >&3
  # The output is not printed again at the exit.
  : >"$log"
  exit 1
}

# step NAME COMMAND...: runs the command, and prints its output if it fails.
step() {
  local name=$1 began=$SECONDS code=0
  shift
  steps=$((steps + 1))
  printf '%2d. %-42s ' "$steps" "$name"
  "$@" </dev/null >"$log" 2>&1 || code=$?
  if ((code == 0)); then
    printf 'done %5d s\n' "$((SECONDS - began))"
  else
    printf 'FAILED %3d s\n' "$((SECONDS - began))"
    cat "$log"
  fi
  : >"$log"
  return "$code"
}

# -- Packages. They are installed again only when their list changes.

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("${@:2}"); }

# Like `need`, for a program that several packages have, of which the tests need this one.
need_package() {
  command -v dpkg-query >/dev/null 2>&1 || { need "$@"; return; }
  [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$2" 2>/dev/null) == installed ]] ||
    missing+=("$2")
}

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
  # promtool checks the format of metrics.
  need promtool prometheus
  # man shows the man pages with warnings, by options that only man-db has. Small images have a
  # script in its place.
  need_package man man-db
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
  # Services are not started, because several packages listen on port 80, which may be in use.
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
  # The services are not started at boot, either. A package without a service has nothing to
  # disable.
  if command -v systemctl >/dev/null 2>&1; then
    for package in "${missing[@]}"; do
      "${as_root[@]}" systemctl disable --quiet "$package" >/dev/null 2>&1
    done
  fi
  ((installed == 0)) || give_up "apt-get could not install: ${missing[*]}"
}

# python_packages LIST FOLDER: installs the packages of a requirements file into a virtual
# environment.
python_packages() {
  local list=$1 venv=$deps/$2
  mkdir -p "$deps"
  cmp -s "$list" "$venv/installed.txt" && return
  rm -rf "$venv"
  python3 -m venv "$venv" || give_up 'python3 -m venv failed'
  "$venv/bin/pip" install --quiet -r "$list" || give_up "pip could not install $list"
  cp "$list" "$venv/installed.txt"
}

# npm_packages SOURCE FOLDER: installs the packages of a lock file, and copies the scripts beside
# them.
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
  # Node looks for packages in the script's folder and above it, so the scripts are copied there.
  cp "$source"/*.mjs "$node/" || give_up "cannot write to $node"
}

# cargo_tool NAME VERSION: puts a program of crates.io at a fixed version into PATH. It is built
# without optimization, which takes about a minute on two cores, and is kept for later checkouts.
#
# Call the program by its name: `cargo NAME` would prefer a program in cargo's own folder.
cargo_tool() {
  local name=$1 version=$2
  # Services and containers may have no HOME.
  local cache=${XDG_CACHE_HOME:-${HOME:-$PWD/$deps}/.cache}
  local tool=$cache/fanfare/$name-$version
  PATH=$tool/bin:$PATH
  [[ -x $tool/bin/$name ]] && return
  env --unset=CARGO_TARGET_DIR CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 CARGO_PROFILE_RELEASE_DEBUG=false \
    cargo install --quiet --locked --root "$tool" "$name@$version"
}

# -- Tests. The debug profile has debug assertions and overflow checks.

# test_step NAME ARGUMENT...: a step that runs cargo's tests, with a line for each binary.
test_step() {
  local name=$1 began=$SECONDS failed_before=$failed code=1
  shift
  steps=$((steps + 1))
  printf '%2d. %s\n' "$steps" "$name"
  while IFS= read -r line; do read_test_line "$line"; done < <(
    cargo test --no-fail-fast "$@" 2>&1 </dev/null 3>&-
    printf 'cargo ended with status %d\n' "$?"
  )
  # If cargo failed and no test failed, the step counts as one failure: the build failed, or a test
  # binary printed its result and failed afterwards. The log has cargo's last lines.
  if ((code != 0)); then
    ((failed != failed_before)) || failed=$((failed + 1))
    cat "$log"
  fi
  local outcome=done
  ((failed == failed_before)) || outcome=FAILED
  printf '%2d. %-42s %s %*d s\n' "$steps" "$name" "$outcome" "$((9 - ${#outcome}))" \
    "$((SECONDS - began))"
  ((failed == failed_before))
}

# Handles one line of cargo's output. Adds the result of a test binary to the counts. Stores cargo's
# exit status in `code`, a variable of test_step. The log has the lines of a test binary until the
# binary's result line arrives.
binary=
read_test_line() {
  local line=$1
  if [[ $line =~ ^\ *Running\ (unittests\ )?([^ ]+) ]]; then
    end_binary
    binary=${BASH_REMATCH[2]}
  elif [[ $line =~ ^\ *Doc-tests ]]; then
    end_binary
    binary='doc-tests'
  elif [[ $line =~ ^running\ [0-9]+\ tests?$ ]]; then
    end_binary
    is_running=yes
  elif [[ $line =~ ^test\ result:\ .*\ ([0-9]+)\ passed\;\ ([0-9]+)\ failed\;.*\ ([0-9]+)\.[0-9]+s$ ]]; then
    passed=$((passed + BASH_REMATCH[1]))
    failed=$((failed + BASH_REMATCH[2]))
    if ((BASH_REMATCH[1] + BASH_REMATCH[2])); then
      printf '    %-28s %5d passed %3d failed %4d s\n' "$binary" "${BASH_REMATCH[@]:1}"
    fi
    if ((BASH_REMATCH[2])); then grep -v '^test .* ok$' "$log"; fi
    is_running=
    : >"$log"
  elif [[ $line =~ ^cargo\ ended\ with\ status\ ([0-9]+)$ ]]; then
    code=${BASH_REMATCH[1]}
    end_binary
  else
    printf '%s\n' "$line" >>"$log"
    # A test that hangs is named before the run is stopped.
    [[ ! $line =~ ^test\ .*\ has\ been\ running\ for ]] || printf '    %s\n' "$line"
  fi
}

# A test binary that started but printed no `test result:` line has crashed or was killed.
end_binary() {
  [[ $is_running ]] || return 0
  failed=$((failed + 1))
  printf '    %-28s died\n' "$binary"
  cat "$log"
  is_running=
  : >"$log"
}

# The last line is `N passed, N failed`. The status is 0 only if something ran and nothing failed.
summary() {
  printf '%d steps, %d s\n' "$steps" "$SECONDS"
  echo "$passed passed, $failed failed"
  ((failed == 0 && passed > 0))
}
