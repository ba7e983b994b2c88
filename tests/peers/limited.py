"""Starts a program with a soft limit on descriptors that it cannot raise, as in some sandboxes.

usage: limited.py [--shared] LIMIT PROGRAM ARGUMENT...

A seccomp filter lets `prlimit64` read limits, but returns EPERM if a call would set a limit. With
--shared the filter also refuses `unshare`, so that all threads share one table of descriptors.
"""

import ctypes
import os
import platform
import resource
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD, EQUALS, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050001
CALLS = {"x86_64": (302, 160, 272), "aarch64": (261, 164, 97)}
PRLIMIT64, SETRLIMIT, UNSHARE = CALLS[platform.machine()]

arguments = sys.argv[1:]
is_shared = arguments[0] == "--shared"
limit, *command = arguments[is_shared:]
limit = int(limit)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

# The filter tests the number of the call, then both halves of the third argument, which is the new
# limit. A jump contains the number of instructions that it skips.
filters = [
    (LOAD, 0, 0, 0),
    (EQUALS, 7, 0, SETRLIMIT),
    (EQUALS, 6 if is_shared else 0, 0, UNSHARE),
    (EQUALS, 0, 4, PRLIMIT64),
    (LOAD, 0, 0, 32),
    (EQUALS, 0, 3, 0),
    (LOAD, 0, 0, 36),
    (EQUALS, 0, 1, 0),
    (RETURN, 0, 0, ALLOW),
    (RETURN, 0, 0, REFUSE),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in filters))
program = ctypes.create_string_buffer(
    struct.pack("HxxxxxxQ", len(filters), ctypes.addressof(code))
)
prctl = ctypes.CDLL(None, use_errno=True).prctl
for arguments in (
    (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
):
    if prctl(*arguments):
        sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(command[0], command)
