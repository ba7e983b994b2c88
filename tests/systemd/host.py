"""Parts of the checks: systemctl, drop-ins, processes, HTTP, and stopping one thread."""

import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time

SERVICE = "fanfare.service"
SOCKET = "fanfare.socket"
TLS_SOCKET = "fanfare-tls.socket"
CONFIG = pathlib.Path("/etc/fanfare/fanfare.toml")
FEED = "/run/fanfare/feed.sock"
CLIENTS = ("127.0.0.1", 8080)
ADMIN = ("127.0.0.1", 9180)
UNITS = pathlib.Path("/checks/units")
DROP_IN = pathlib.Path(f"/run/systemd/system/{SERVICE}.d/check.conf")


def run(*command, **options):
    """Runs a command and captures its output. The caller checks the status."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def ok(*command):
    """Runs a command that must succeed."""
    done = run(*command)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def install():
    """Installs by the commands in the unit file. Adds two users, one of which may publish."""
    shutil.copy("/checks/fanfare", "/usr/local/bin/fanfare")
    CONFIG.parent.mkdir()
    shutil.copy(UNITS / "fanfare.toml", CONFIG)
    for unit in (SERVICE, SOCKET, TLS_SOCKET):
        shutil.copy(UNITS / unit, "/etc/systemd/system")
    for comment in (UNITS / SERVICE).read_text().splitlines():
        words = comment.lstrip("#").split()
        if words[:1] == ["useradd"]:
            ok(*words)
    for user in ("publisher", "stranger"):
        ok("useradd", "--no-create-home", user)
    ok("usermod", "--append", "--groups", "fanfare", "publisher")
    ok("systemctl", "daemon-reload")


def uninstall():
    """Removes all that `install` installed, so that another installation can be tested."""
    fresh()
    shutil.rmtree(CONFIG.parent)
    DROP_IN.unlink()
    for unit in (SERVICE, SOCKET, TLS_SOCKET):
        pathlib.Path("/etc/systemd/system", unit).unlink()
    pathlib.Path("/usr/local/bin/fanfare").unlink()
    ok("userdel", "fanfare")
    # `userdel` does not remove the group, because the publisher is a member.
    run("groupdel", "fanfare")


def recipe(page, heading):
    """Returns the shell commands below a heading of a page of the guide."""
    text = pathlib.Path("/checks/guide", page).read_text()
    below = text.split(f"## {heading}\n", 1)[1]
    return below.split("```sh no_run\n", 1)[1].split("```", 1)[0]


def fresh(*service_lines):
    """Stops all units and restores the shipped files, with these lines in a drop-in."""
    run("systemctl", "stop", SOCKET, TLS_SOCKET, SERVICE)
    shutil.copy(UNITS / "fanfare.toml", CONFIG)
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text("\n".join(["[Service]", *service_lines, ""]))
    ok("systemctl", "daemon-reload")
    run("systemctl", "reset-failed", SOCKET, TLS_SOCKET, SERVICE)


def start(*service_lines):
    """Starts a fresh service and returns its main process."""
    fresh(*service_lines)
    ok("systemctl", "start", SERVICE)
    return main_pid()


def show(name, unit=SERVICE):
    return ok("systemctl", "show", "--property", name, "--value", unit).strip()


def main_pid():
    return int(show("MainPID"))


def restarts():
    return int(show("NRestarts"))


def journal(since, *flags):
    """Returns what the journal has of the service, with all lines written before the call."""
    ok("journalctl", "--sync")
    command = ["journalctl", "--unit", SERVICE, "--since", f"@{since:.6f}", "--output", "cat"]
    return ok(*command, *flags)


def within(seconds, what, condition):
    """Waits until the condition is true. Returns its value and the duration."""
    begun = time.monotonic()
    while True:
        found = condition()
        took = time.monotonic() - begun
        if found:
            return found, took
        assert took < seconds, f"waited {seconds} s for {what}"
        time.sleep(0.002)


def ask(path, address, seconds):
    """Sends one GET request on a new connection and returns the whole response."""
    with socket.create_connection(address, seconds) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer, "closed without an answer"
    return answer


def get(path="/", address=CLIENTS, seconds=30):
    """Returns the status of the response to one GET request."""
    return int(ask(path, address, seconds).split(b" ", 2)[1])


def body(path, address=CLIENTS):
    """Returns the body of the response to one GET request."""
    return ask(path, address, 30).split(b"\r\n\r\n", 1)[1].decode()


def serves():
    """Whether the server answers a request."""
    try:
        return get(seconds=1) == 200
    except OSError:
        return False


@contextlib.contextmanager
def background(*command):
    """Runs a command in the background, and kills it at the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Stream:
    """A client of the event stream that reads until it ends."""

    def __init__(self, channel="a"):
        self.text = ""
        self.connection = socket.create_connection(CLIENTS, 30)
        request = f"GET /sse?channel={channel} HTTP/1.1\r\nHost: a\r\n\r\n"
        self.connection.sendall(request.encode())
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        within(5, "the stream to begin", lambda: "id: " in self.text)

    def _read(self):
        with contextlib.suppress(OSError):
            while piece := self.connection.recv(65536):
                self.text += piece.decode()
        self.connection.close()

    def rest(self):
        """Waits until the server ends the stream. Returns the text of the whole stream."""
        self.thread.join(30)
        assert not self.thread.is_alive(), "the stream was not ended"
        return self.text


def publish(user, data, *flags):
    """Runs `fanfare publish` as another user."""
    command = ["fanfare", "publish", "a", data, "--ack", "--feed", FEED, *flags]
    return run("runuser", "--user", user, "--", *command)


def status(pid, thread=None):
    """Returns the fields of a process's or thread's status in /proc."""
    path = f"/proc/{pid}/status" if thread is None else f"/proc/{pid}/task/{thread}/status"
    lines = pathlib.Path(path).read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def workers(pid):
    """Returns the ids of the worker threads, in the order of their names."""
    names = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        name = pathlib.Path(f"/proc/{pid}/task/{task}/comm").read_text().strip()
        if name.removeprefix("fanfare-").isdigit():
            names[name] = int(task)
    return [names[name] for name in sorted(names)]


def sockets(pid, thread):
    """Returns the sockets in a thread's descriptor table, without standard streams."""
    folder = f"/proc/{pid}/task/{thread}/fd"
    links = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder) if int(fd) > 2]
    return {link for link in links if link.startswith("socket:")}


def seize(thread):
    """Stops one thread of a process and keeps it stopped until it is killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    ptrace_seize, ptrace_interrupt = 0x4206, 0x4207
    for request in (ptrace_seize, ptrace_interrupt):
        if libc.ptrace(request, thread, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")
    # The process cannot be reaped before the tracer has noticed the end of the thread.
    threading.Thread(target=_await_end, args=[thread], daemon=True).start()


def _await_end(thread):
    wait_for_any_thread = 0x40000000
    while not os.WIFSIGNALED(os.waitpid(thread, wait_for_any_thread)[1]):
        pass


class Mute:
    """A WebSocket client with a small receive buffer that is silent after the handshake."""

    def __init__(self):
        self.connection = socket.socket()
        self.connection.settimeout(30)
        # The buffer is set before connecting, because the handshake negotiates the window scale.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.connection.connect(CLIENTS)
        _upgrade(self.connection)


def _upgrade(connection):
    """Sends the handshake of a WebSocket."""
    lines = [
        "GET /ws?channel=a HTTP/1.1",
        "Host: a",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
    assert b" 101 " in connection.recv(4096)


class Publisher:
    """A WebSocket client that publishes."""

    def __init__(self):
        self.connection = socket.create_connection(CLIENTS, 30)
        _upgrade(self.connection)

    def publish(self, ref):
        """Publishes in the channel `a`. Returns the server's frames up to the answer."""
        message = {"type": "publish", "channel": "a", "data": ref, "ref": ref}
        text = json.dumps(message).encode()
        # The length fits into one byte, and a mask of zeros changes nothing.
        self.connection.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        answer = ""
        while f'"ref":{ref}' not in answer:
            piece = self.connection.recv(4096)
            assert piece, answer
            answer += piece.decode(errors="replace")
        return answer


class Crowd:
    """Threads that send requests on new connections during the block, and count the results."""

    def __init__(self, size):
        self.answered = self.refused = self.broken = 0
        self.longest = 0.0
        self.errors = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(size)]
        for thread in self._threads:
            thread.start()

    def _ask(self):
        while not self._over.is_set():
            begun = time.monotonic()
            outcome = "answered"
            try:
                assert get() == 200, "not 200"
            except ConnectionRefusedError:
                outcome = "refused"
            except (AssertionError, OSError) as error:
                outcome = "broken"
                self.errors.add(repr(error))
            with self._lock:
                # `outcome` is the name of one of the three counters.
                setattr(self, outcome, getattr(self, outcome) + 1)
                self.longest = max(self.longest, time.monotonic() - begun)
            time.sleep(0.002)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self._over.set()
        for thread in self._threads:
            thread.join(35)

    def __str__(self):
        return (
            f"{self.answered} answered, {self.refused} refused, {self.broken} broken,"
            f" longest {self.longest:.2f} s {' '.join(sorted(self.errors))}"
        )
