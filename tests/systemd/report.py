"""Runs checks and prints PASS or FAIL with measured values, and a summary as the last line."""

import pathlib
import sys
import traceback

from host import ok

CHECKS = []


def check(function):
    """Registers a check. The report has the name and the return value of the check."""
    CHECKS.append(function)
    return function


def main(prepare, clean_up=lambda: None):
    """Runs all checks, or those that the command line names, and exits with the status."""
    prepare()
    print(ok("systemctl", "--version").splitlines()[0])
    chosen = [function for function in CHECKS if not sys.argv[1:] or function.__name__ in sys.argv]
    failed = 0
    for function in chosen:
        try:
            found = function()
            print(f"PASS {function.__name__}{f': {found}' if found else ''}")
        except Exception:
            failed += 1
            print(f"FAIL {function.__name__}\n{traceback.format_exc()}")
    clean_up()
    output = ok("journalctl", "--no-pager", "--output", "short-precise")
    pathlib.Path("/checks/out/journal.txt").write_text(output)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
