# Shared functions that install missing software, for the scripts that run other servers and
# generators. The scripts source this file from the root of the repository. All software except
# system packages is installed in folders that git ignores.

# debian_packages COMMAND_OR_FILE PACKAGE...: installs the packages unless the command or file
# exists. If the packages cannot be installed, prints a message on standard error and returns status
# 1.
debian_packages() {
  local wanted=$1
  shift
  if command -v "$wanted" >/dev/null 2>&1 || [[ -e $wanted ]]; then return 0; fi
  if ((EUID != 0)) || ! command -v apt-get >/dev/null 2>&1; then
    printf 'needs %s: apt-get install --no-install-recommends %s\n' "$wanted" "$*" >&2
    return 1
  fi
  # RUNLEVEL=1 prevents the packages from starting their services.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive timeout 300 \
    apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1 && return 0
  printf 'apt-get could not install: %s (is apt-get update due?)\n' "$*" >&2
  return 1
}

# npm_packages: installs the packages of benches/load/package.json, unless those of the current lock
# file are already installed.
npm_packages() {
  local folder=benches/load
  if cmp -s $folder/package-lock.json $folder/node_modules/installed.json; then return 0; fi
  if ! command -v npm >/dev/null 2>&1; then
    echo 'needs npm: apt-get install --no-install-recommends nodejs npm' >&2
    return 1
  fi
  (cd $folder && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) \
    </dev/null >/dev/null || return 1
  cp $folder/package-lock.json $folder/node_modules/installed.json
}

# python_packages: installs the Python packages that the tests need into the virtual environment of
# the load scripts.
python_packages() {
  local venv=benches/load/venv
  if cmp -s tests/peers/requirements.txt $venv/installed.txt; then return 0; fi
  python3 -m venv $venv </dev/null &&
    timeout 300 $venv/bin/pip install --quiet -r tests/peers/requirements.txt </dev/null &&
    cp tests/peers/requirements.txt $venv/installed.txt
}
