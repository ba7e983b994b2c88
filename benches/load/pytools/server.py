"""The server as a child process, which uses free ports, is measured with procfs and finally killed.

`FANFARE=PATH` is the program. Without this variable, the release build is made first. The
configuration is passed in environment variables, one per key. In a value, `{folder}` is replaced by
the path of the server's own folder, which stays the same after a restart.
"""
import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

# With this handler, a SIGTERM makes the script exit normally, so that its children are ended, too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

ROOT = pathlib.Path(__file__).resolve().parents[3]
KIB = 1024
MIB = 1024 * KIB


def program():
    """Returns the path of the program. Builds the program first if FANFARE is not set."""
    named = os.environ.get("FANFARE")
    if named:
        return named
    quiet = {"cwd": ROOT, "stdin": subprocess.DEVNULL, "check": True}
    subprocess.run(["cargo", "build", "--release", "--quiet"], **quiet)
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    output = subprocess.run(command, stdout=subprocess.PIPE, **quiet).stdout
    os.environ["FANFARE"] = json.loads(output)["target_directory"] + "/release/fanfare"
    return os.environ["FANFARE"]


class Server:
    """A context manager whose server runs until the context is left."""

    def __init__(
        self, workers=1, descriptors=None, listen="127.0.0.1:0", binary=None, **config
    ):
        self.workers, self.descriptors, self.config = workers, descriptors, config
        self.listen, self.binary = listen, binary

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="fanfare-rows-")
        return self.start()

    def start(self):
        """Starts the server. Stores the time until the server is ready in `start_s`."""
        path = self.binary or program()
        self.feed_path = f"{self.folder}/feed.sock"
        command = [path, "serve", "--listen", self.listen, "--admin", "127.0.0.1:0"]
        command += ["--feed", self.feed_path, "--log", "error", "--workers", str(self.workers)]
        settings = {
            f"FANFARE_{key.upper()}": str(value).replace("{folder}", self.folder)
            for key, value in self.config.items()
        }
        begun = time.monotonic()
        self.child = subprocess.Popen(
            command,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            preexec_fn=self.limit if self.descriptors else None,
            text=True,
        )
        ready = self.child.stdout.readline()
        self.start_s = time.monotonic() - begun
        try:
            address = ready.split("ready: ")[1].split()[0].split("://")[1]
            self.admin = ready.split("admin=")[1].split()[0]
        except IndexError:
            self.__exit__()
            raise SystemExit(f"the server is not ready; its first line is {ready!r}") from None
        host, port = address.rsplit(":", 1)
        self.address = (host, int(port))
        self.pid = self.child.pid
        return self

    def kill(self):
        """Kills the server as `kill -9` does. `start` can then restart it in the same folder."""
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def limit(self):
        """Sets the limit on descriptors as `ulimit -n` does."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))

    def feeder(self):
        """Returns a connection to the feed."""
        feeder = socket.socket(socket.AF_UNIX)
        feeder.settimeout(30)
        feeder.connect(self.feed_path)
        return feeder

    def publish(self, feeder, channel, data, ack=True):
        """Sends one line. Returns the acknowledgement if the line asks for it."""
        line = {"channel": channel, "data": data} | ({"ack": True} if ack else {})
        feeder.sendall(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        if not ack:
            return None
        answer = b""
        while not answer.endswith(b"\n"):
            answer += feeder.recv(4096)
        return json.loads(answer)

    def pss(self):
        """Returns the server's proportional set size in bytes."""
        for line in pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * KIB
        raise OSError("no Pss in smaps_rollup")

    def cpu(self):
        """Returns the server's processor time in seconds. Threads that have ended are included."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptor_tables(self):
        """Returns the number of descriptors in the table of the process and in each worker's table.
        Other threads share one of these tables or exist for one request only, so they are not
        counted."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task")
        workers = [f"fanfare-{number}" for number in range(self.workers)]
        found = [len(list((tasks / str(self.pid) / "fd").iterdir()))]
        for task in tasks.iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if (task / "comm").read_text().strip() in workers:
                    found.append(len(list((task / "fd").iterdir())))
        return found

    def descriptor_count(self):
        """Returns the number of descriptors in all tables."""
        return sum(self.descriptor_tables())

    def metric(self, name):
        """Returns the sum of all lines of a metric, or one line's value if the name has labels."""
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return sum(float(value) for key, value in pairs if name in (key, key.split("{")[0]))

    def wait_for(self, name, condition, timeout=30.0):
        """Returns the seconds until a condition on a metric holds, or None after the timeout."""
        start = time.monotonic()
        while time.monotonic() - start < timeout:
            if condition(self.metric(name)):
                return time.monotonic() - start
            time.sleep(0.02)
        return None


class MemoryWatch:
    """A record of the greatest growth of a server's memory."""

    def __init__(self, server):
        self.server, self.before, self.most = server, server.pss(), 0

    def sample(self):
        """Measures the memory once and records the growth."""
        self.most = max(self.most, self.server.pss() - self.before)

    def mib(self):
        """Returns the greatest growth of all samples, in MiB."""
        return self.most / MIB
