"""Starts a program the way a service manager does that opens its sockets for it.

usage: activation.py FOLDER PROGRAM ARGUMENT...

Binds a TCP port of 127.0.0.1 and the Unix socket FOLDER/handed.sock, prints one JSON line with
`pid` and `tcp`, and becomes the program with them as its descriptors 3 and 4.
"""

import json
import os
import socket
import sys

folder, *command = sys.argv[1:]
tcp = socket.create_server(("127.0.0.1", 0), backlog=64)
port = tcp.getsockname()[1]
unix = socket.socket(socket.AF_UNIX)
unix.bind(f"{folder}/handed.sock")
unix.listen()
# Both numbers may be taken by the sockets themselves; copies far up are out of the way.
for target, source in ((3, os.dup2(tcp.fileno(), 103)), (4, os.dup2(unix.fileno(), 104))):
    os.dup2(source, target)
    os.close(source)
print(json.dumps({"pid": os.getpid(), "tcp": port}), flush=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
os.execvp(command[0], command)
