"""Starts a program with inherited sockets, as a service manager does.

usage: activation.py [--again] FOLDER PROGRAM ARGUMENT...

The environment variable ACTIVATION_NAMES has the names of the two sockets, by default `a:b`.

Binds a TCP port of 127.0.0.1 and the Unix socket FOLDER/handed.sock, prints one JSON line with
`pid` and `tcp`, and executes the program with the sockets as descriptors 3 and 4.

With --again, this process stays and keeps the sockets open. When the program ends, this process
prints the status as `ended`. After a few seconds it starts the program again and prints `pid` and
`tcp` again.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import time

# The pause is longer than the reconnect delay of a drain with few clients, so that they reconnect
# before the next start.
PAUSE_S = 3
PR_SET_PDEATHSIG = 1
NAMES = os.environ.get("ACTIVATION_NAMES", "a:b")

arguments = sys.argv[1:]
is_again = arguments[0] == "--again"
folder, *command = arguments[is_again:]
tcp = socket.create_server(("127.0.0.1", 0), backlog=4096)
port = tcp.getsockname()[1]
unix = socket.socket(socket.AF_UNIX)
unix.bind(f"{folder}/handed.sock")
unix.listen()


def become():
    # The sockets may already have the numbers 3 or 4, so they are first copied to high numbers.
    for target, source in ((3, os.dup2(tcp.fileno(), 103)), (4, os.dup2(unix.fileno(), 104))):
        os.dup2(source, target)
        os.close(source)
    print(json.dumps({"pid": os.getpid(), "tcp": port}), flush=True)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": NAMES}
    os.execvp(command[0], command)


if not is_again:
    become()
while True:
    child = os.fork()
    if child == 0:
        # The test kills only its direct child, so the kernel must end this process together with
        # its parent.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        become()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"ended": status}), flush=True)
    time.sleep(PAUSE_S)
