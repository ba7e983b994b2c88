"""Checks fanfare's unit files as shipped. Runs as root, as a service of the container's systemd.

Each check begins with a fresh service. For some checks, a drop-in shortens times or makes the
sandbox stricter. Prints PASS or FAIL with the measured values, and a summary as the last line.
"""

import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import ssl
import time

import host
import report
from host import CONFIG, FEED, SERVICE, SOCKET, TLS_SOCKET, Crowd, Mute, Stream
from host import get, ok, show, within
from report import check

# -- Starting.


@check
def unit_files_are_valid():
    host.fresh()
    done = host.run("systemd-analyze", "verify", SERVICE, SOCKET, TLS_SOCKET)
    output = [line for line in done.stderr.splitlines() if "fanfare" in line]
    assert done.returncode == 0 and not output, done.stderr


@check
def service_is_active_only_when_it_answers():
    for _ in range(5):
        host.start()
        # The requests are not repeated, because units that are ordered after the service rely on an
        # answer as soon as the service is active.
        assert get() == 200
        assert get("/readyz", host.ADMIN) == 200
    assert show("ActiveState") == "active" and show("Type") == "notify"
    text = show("StatusText")
    assert " ready: http://127.0.0.1:8080 " in text, text
    return text


@check
def first_answer_comes_within_500_ms_of_the_start():
    took, active = [], []
    for _ in range(5):
        host.fresh()
        ok("systemctl", "start", "--no-block", SERVICE)
        within(5, "an answer", host.serves)
        answered = time.clock_gettime(time.CLOCK_MONOTONIC)
        within(5, "the state", lambda: show("SubState") == "running")
        begun = int(show("InactiveExitTimestampMonotonic")) / 1e6
        took.append(answered - begun)
        active.append(int(show("ActiveEnterTimestampMonotonic")) / 1e6 - begun)
    report = f"answer after {milliseconds(took)} ms, active after {milliseconds(active)} ms"
    # The median is checked, because the machine may be busy.
    assert sorted(took)[2] < 0.5, report
    return report


def milliseconds(seconds):
    """Formats durations, shortest first."""
    return ", ".join(f"{1000 * each:.0f}" for each in sorted(seconds))


# -- The sandbox.


@check
def server_has_no_privileges_and_a_read_only_system():
    pid = host.start()
    status = host.status(pid)
    user, group = ok("id", "--user", "fanfare").strip(), ok("id", "--group", "fanfare").strip()
    assert status["Uid"].split() == [user] * 4 and status["Gid"].split() == [group] * 4, status
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 0, status
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", status
    mounts = pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    modes = {mount.split()[4]: mount.split()[5].split(",") for mount in mounts}
    assert "ro" in modes["/"] and "rw" in modes["/run/fanfare"], modes
    assert any("hidepid=" in mount for mount in mounts if " /proc " in mount), mounts
    return f"uid {user}, no capability, seccomp, read-only /, hidden /proc"


@check
def each_worker_has_its_own_descriptors_and_processor():
    began = time.time()
    pid = host.start()
    streams = [Stream() for _ in range(8)]
    threads = host.workers(pid)
    assert len(threads) == len(os.sched_getaffinity(0)), threads
    tables = [host.sockets(pid, thread) for thread in threads]
    for one, first in enumerate(tables):
        assert not first & host.sockets(pid, pid), "shared with the main thread"
        for second in tables[one + 1 :]:
            assert not first & second, "shared among workers"
    # There is one socket per connection and one listener per worker.
    assert sum(map(len, tables)) == len(streams) + len(threads), tables
    cpus = [host.status(pid, thread)["Cpus_allowed_list"] for thread in threads]
    if len(threads) > 1:
        assert len(set(cpus)) == len(threads) and all(map(str.isdigit, cpus)), cpus
    output = host.journal(began)
    assert "cannot" not in output, output
    return f"sockets {[len(table) for table in tables]}, pinned to {', '.join(cpus)}"


@check
def soft_limit_on_descriptors_is_raised_inside_the_sandbox():
    # In the shipped unit, both limits are as high as the machine allows, so the check sets a low
    # limit.
    shipped = nofile(host.start())
    assert shipped[0] == shipped[1], shipped
    _, machine = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert shipped[1] in (1048576, machine), f"{shipped}, the machine allows {machine}"
    raised = nofile(host.start("LimitNOFILE=1024:15000"))
    assert raised == (15000, 15000), raised
    return f"{shipped[0]} of {shipped[1]} as shipped; {raised[0]} with LimitNOFILE=1024:15000"


def nofile(pid):
    """Returns the soft and the hard limit on descriptors of a process."""
    limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
    soft, hard = re.search(r"Max open files +(\d+) +(\d+)", limits).groups()
    return int(soft), int(hard)


@check
def feed_is_open_to_its_group_only():
    host.start()
    stream = Stream()
    allowed = host.publish("publisher", '{"n":1}')
    assert allowed.returncode == 0 and '"subscribers":1' in allowed.stdout, allowed
    within(5, "the publication", lambda: 'data: {"n":1}' in stream.text)
    refused = host.publish("stranger", '{"n":2}')
    assert refused.returncode == 1 and "ermission denied" in refused.stderr, refused
    return ok("stat", "--format", "%A %U %G", FEED).strip()


@check
def feed_can_be_given_to_another_group():
    ok("groupadd", "newsroom")
    ok("usermod", "--append", "--groups", "newsroom", "stranger")
    host.start("SupplementaryGroups=newsroom", "Environment=FANFARE_FEED_GROUP=newsroom")
    assert host.publish("stranger", "1").returncode == 0
    assert host.publish("publisher", "1").returncode == 1
    return ok("stat", "--format", "%A %U %G", FEED).strip()


@check
def server_makes_no_forbidden_system_call():
    # In the shipped unit, a forbidden call returns an error. In this check a forbidden call kills
    # the process, so that no forbidden call goes unnoticed.
    began = time.time()
    pid = host.start("SystemCallErrorNumber=kill", "Environment=FANFARE_DRAIN_WINDOW_MS=500")
    stream = Stream()
    assert host.publish("publisher", "1").returncode == 0
    url = "ws://127.0.0.1:8080/ws?channel=b"
    with host.background("fanfare", "subscribe", url, "--count", "1") as subscriber:
        metric = "fanfare_subscribers 2"
        within(5, "the subscriber", lambda: metric in host.body("/metrics", host.ADMIN))
        ok("fanfare", "publish", "b", "1", "--feed", FEED)
        assert subscriber.wait(10) == 0
    assert get("/") == 200 and get("/nowhere") == 404
    assert host.main_pid() == pid, "killed and restarted"
    ok("systemctl", "stop", SERVICE)
    assert re.search(r"retry: \d+", stream.rest().split("id: ", 1)[1]), stream.text
    assert show("Result") == "success", show("Result")
    output = host.journal(began)
    assert "SYS" not in output, output


@check
def exposure_is_at_most_2():
    host.fresh()
    output = ok("systemd-analyze", "security", "--no-pager", SERVICE)
    overall = re.search(r"Overall exposure level for fanfare.service: ([\d.]+) (\w+)", output)
    assert float(overall[1]) <= 2.0, output
    return f"{overall[1]} {overall[2]}"


# -- Secrets and state.


SECRETS = pathlib.Path("/etc/fanfare/secrets")
CREDENTIALS = f"/run/credentials/{SERVICE}"


def write_secrets():
    """Writes files that only root can read, and a configuration that uses them as credentials."""
    SECRETS.mkdir(mode=0o700, exist_ok=True)
    for name in ("certificate.pem", "key.pem"):
        shutil.copy(f"/checks/out/{name}", SECRETS)
    (SECRETS / "secret").write_bytes(bytes(range(48, 90)))
    for path in SECRETS.iterdir():
        path.chmod(0o600)
    CONFIG.write_text(
        f"""
        listen = ["127.0.0.1:8080", "127.0.0.1:8443 tls"]
        [tls]
        certificates = ["{CREDENTIALS}/certificate.pem"]
        keys = ["{CREDENTIALS}/key.pem"]
        [auth]
        keys = ["HS256 {CREDENTIALS}/secret"]
        [journal]
        path = "/var/lib/fanfare/journal"
        """
    )


def credential_lines():
    names = ("certificate.pem", "key.pem", "secret")
    return [f"LoadCredential={name}:{SECRETS}/{name}" for name in names]


def over_tls(request, until="\r\n\r\n"):
    """Sends a request over TLS. Returns the response up to and including a text."""
    context = ssl.create_default_context(cafile="/checks/out/certificate.pem")
    with socket.create_connection(("127.0.0.1", 8443), 30) as connection:
        with context.wrap_socket(connection, server_hostname="localhost") as secured:
            secured.sendall(request.encode())
            answer = ""
            while until not in answer:
                piece = secured.recv(65536).decode()
                assert piece, answer
                answer += piece
            return answer


@check
def secrets_of_root_are_read_as_credentials():
    host.fresh(*credential_lines())
    write_secrets()
    ok("systemctl", "start", SERVICE)
    refused = host.run("runuser", "--user", "fanfare", "--", "cat", SECRETS / "key.pem")
    assert "ermission denied" in refused.stderr, refused
    token = ok("fanfare", "token", "--key", SECRETS / "secret", "--subscribe", "a").strip()
    request = "GET /sse?channel=a HTTP/1.1\r\nHost: localhost\r\n"
    assert " 401 " in over_tls(f"{request}Connection: close\r\n\r\n")
    answer = over_tls(f"{request}Authorization: Bearer {token}\r\n\r\n")
    assert " 200 " in answer, answer
    return "certificate, its key and the secret of tokens"


@check
def server_with_all_features_makes_no_forbidden_system_call():
    began = time.time()
    host.fresh("SystemCallErrorNumber=kill", *credential_lines())
    write_secrets()
    ok("systemctl", "start", SERVICE)
    pid = host.main_pid()
    token = ok("fanfare", "token", "--key", SECRETS / "secret", "--subscribe", "a").strip()
    bearer = f"Host: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    begun = over_tls(f"GET /sse?channel=a HTTP/1.1\r\n{bearer}", "\n\n")
    since = re.search(r"id: (\S+)\n", begun)[1]
    assert host.publish("publisher", '"kept"').returncode == 0
    ok("systemctl", "reload", SERVICE)
    backup = "/var/lib/fanfare/backup"
    ok("fanfare", "journal", "backup", backup)
    refused = host.run("fanfare", "journal", "backup", "/srv/backup")
    assert "Read-only file system" in refused.stderr, refused
    assert host.main_pid() == pid, "killed and restarted"
    copied = ok("stat", "--format", "%A %U", backup).strip()
    assert copied == "drwx------ fanfare", copied
    checked = ok("runuser", "--user", "fanfare", "--", "fanfare", "journal", "check", backup)
    assert "publications: 1\n" in checked, checked
    shutil.rmtree(backup)
    os.kill(pid, signal.SIGKILL)
    within(10, "the restart", lambda: host.main_pid() not in (0, pid) and host.serves())
    over_tls(f"GET /sse?channel=a&since={since} HTTP/1.1\r\n{bearer}", 'data: "kept"')
    output = host.journal(began)
    assert "SYS" not in output, output
    kept = ok("stat", "--format", "%A %U", "/var/lib/fanfare/journal").strip()
    ok("systemctl", "stop", SERVICE)
    shutil.rmtree("/var/lib/fanfare/journal")
    return f"TLS, tokens, reload, a backup, a journal over kill -9 ({kept})"


# -- Failures.


@check
def killed_server_is_replaced_within_a_second():
    slowest = 0.0
    host.start()
    for count in range(1, 4):
        killed = time.monotonic()
        os.kill(host.main_pid(), signal.SIGKILL)
        within(1, "the end", lambda: not host.serves())
        within(5, "an answer", host.serves)
        slowest = max(slowest, time.monotonic() - killed)
        within(5, "the state", lambda: show("SubState") == "running")
        assert host.restarts() == count, host.restarts()
    assert slowest < 1, f"{slowest:.3f} s"
    return f"slowest of 3: {slowest * 1000:.0f} ms"


@check
def frozen_process_is_replaced_by_the_watchdog():
    began = time.time()
    pid = host.start("WatchdogSec=2")
    os.kill(pid, signal.SIGSTOP)
    _, took = within(20, "the restart", lambda: host.main_pid() not in (0, pid) and host.serves())
    output = host.journal(began)
    assert "Watchdog timeout" in output, output
    return f"WatchdogSec=2, serving again after {took:.1f} s"


@check
def process_with_a_stuck_worker_is_replaced_by_the_watchdog():
    began = time.time()
    pid = host.start("WatchdogSec=2")
    time.sleep(4.5)
    assert host.main_pid() == pid and host.restarts() == 0, "restarted without a fault"
    host.seize(host.workers(pid)[-1])
    _, took = within(20, "the restart", lambda: host.main_pid() not in (0, pid) and host.serves())
    output = host.journal(began)
    assert "has not finished a turn" in output and "Watchdog timeout" in output, output
    return f"WatchdogSec=2, serving again after {took:.1f} s"


@check
def service_with_a_wrong_configuration_is_not_restarted():
    host.fresh()
    CONFIG.write_text("heartbeat = 5\n")
    began = time.time()
    assert host.run("systemctl", "start", SERVICE).returncode != 0
    time.sleep(2)
    found = show("ActiveState"), show("ExecMainStatus"), host.restarts()
    assert found == ("failed", "2", 0), found
    output = host.journal(began, "--priority", "err")
    assert f"{CONFIG}:1: heartbeat: " in output and "<3>" not in output, output
    return "failed with status 2, 0 restarts"


@check
def socket_of_a_service_with_a_wrong_configuration_gives_up():
    host.fresh()
    CONFIG.write_text("heartbeat = 5\n")
    ok("systemctl", "start", SOCKET)
    began = time.time()
    with Crowd(1):
        within(30, "the socket to give up", lambda: show("ActiveState", SOCKET) == "failed")
    starts = host.journal(began).count("Main process exited")
    return f"{show('Result', SOCKET)} after {starts} starts"


@check
def reload_of_a_wrong_configuration_changes_nothing_and_logs_the_error():
    pid = host.start()
    began = time.time()
    CONFIG.write_text("heartbeat = 5\n")
    ok("systemctl", "reload", SERVICE)
    place = f"ERROR not reloaded, nothing has changed: {CONFIG}:1: heartbeat: "
    within(5, "the error", lambda: place in host.journal(began, "--priority", "err"))
    assert get() == 200 and host.main_pid() == pid
    # The server logs the error before it notifies systemd of the end of the reload.
    within(5, "the state", lambda: show("ActiveState") == "active")
    shutil.copy("/checks/units/fanfare.toml", CONFIG)
    ok("systemctl", "reload", SERVICE)
    within(5, "the reload", lambda: "read again" in host.journal(began))
    output = host.journal(began)
    assert not re.search(r"<\d>", output), output
    warnings = host.journal(began, "--priority", "warning")
    assert place in warnings and "INFO" not in warnings, warnings
    return "the file, the line and the key are in the journal, with the priority of an error"


@check
def reload_changes_what_a_namespace_keeps_and_allows_and_a_limit():
    pid = host.start()
    shipped = CONFIG.read_text()
    publisher, stream = host.Publisher(), Stream()

    def kept():
        answer = json.loads(host.body("/poll?channel=a&since=first&timeout=0"))
        return len(answer["publications"])

    def publish():
        for number in range(3):
            assert host.publish("publisher", str(number)).returncode == 0

    publish()
    assert kept() == 3
    assert "not_allowed" in publisher.publish(1)
    rules = '[[namespace]]\nmatch = "a"\nlog_entries = 1\nclient_publish = "broadcast"\n'
    CONFIG.write_text(f"{shipped}\n{rules}")
    ok("systemctl", "reload", SERVICE)
    # The reload may take effect after systemctl has ended.
    within(5, "the new rules", lambda: kept() == 1)
    assert "not_allowed" not in publisher.publish(2)
    assert kept() == 1
    # The publisher and the stream are two connections.
    limited, count = re.subn(r"(?m)^conns = 0$", "conns = 2", shipped)
    assert count == 1, count
    CONFIG.write_text(limited)
    changed = ok("fanfare", "reload")
    assert "limits.conns" in changed and "namespace" in changed, changed
    assert get() == 503
    assert "not_allowed" in publisher.publish(3)
    shutil.copy("/checks/units/fanfare.toml", CONFIG)
    changed = ok("fanfare", "reload")
    assert "limits.conns" in changed and "namespace" not in changed, changed
    within(5, "room for a client", lambda: get() == 200)
    publish()
    assert kept() == 4
    assert host.main_pid() == pid and stream.thread.is_alive()
    return changed.strip()


@check
def reload_adds_and_removes_an_address():
    pid = host.start()
    shipped = CONFIG.read_text()
    added = ("127.0.0.1", 8081)
    stream = Stream()

    def listen(addresses):
        line = f"listen = {json.dumps(addresses)}"
        text, count = re.subn(r"(?m)^listen = .*$", line, shipped)
        assert count == 1, count
        CONFIG.write_text(text)
        return ok("fanfare", "reload")

    changed = listen(["127.0.0.1:8080", "127.0.0.1:8081"])
    assert "changed: listen" in changed, changed
    assert get() == 200 and get(address=added) == 200
    listen(["127.0.0.1:8081"])
    assert get(address=added) == 200
    within(5, "the end of the listener", lambda: not host.serves())
    # The connection to the removed address stays open.
    assert host.publish("publisher", '"still"').returncode == 0
    within(5, "the publication", lambda: '"still"' in stream.text)
    assert host.main_pid() == pid
    shutil.copy("/checks/units/fanfare.toml", CONFIG)
    ok("systemctl", "reload", SERVICE)
    within(5, "the first address", host.serves)
    return changed.strip()


# -- Stopping and restarting.


@check
def stop_succeeds_in_time():
    host.start("Environment=FANFARE_DRAIN_WINDOW_MS=1000")
    streams = [Stream() for _ in range(4)]
    begun = time.monotonic()
    ok("systemctl", "stop", SERVICE)
    took = time.monotonic() - begun
    for stream in streams:
        assert re.search(r"retry: \d+", stream.rest().split("id: ", 1)[1]), stream.text
    found = show("Result"), show("ExecMainStatus"), show("ActiveState")
    assert found == ("success", "0", "inactive"), found
    assert took < 5, f"{took:.1f} s"
    return f"{took:.2f} s with 4 streams and a window of 1 s"


@check
def stop_with_the_shipped_times_succeeds():
    host.start()
    streams = [Stream() for _ in range(20)]
    begun = time.monotonic()
    ok("systemctl", "stop", SERVICE)
    took = time.monotonic() - begun
    for stream in streams:
        assert re.search(r"retry: \d+", stream.rest().split("id: ", 1)[1]), stream.text
    assert show("Result") == "success", show("Result")
    assert took < 30, f"{took:.1f} s"
    return f"{took:.2f} s with 20 streams"


@check
def drain_longer_than_the_watchdog_is_completed():
    host.start("WatchdogSec=300ms")
    mutes = [Mute() for _ in range(4)]
    # The clients do not read this data, which keeps the drain open for a second.
    for _ in range(8):
        assert host.publish("publisher", json.dumps("x" * 100_000)).returncode == 0
    begun = time.monotonic()
    ok("systemctl", "stop", SERVICE)
    took = time.monotonic() - begun
    assert all(mute.connection.recv(4096) for mute in mutes)
    assert show("Result") == "success", show("Result")
    assert took > 0.8, f"{took:.1f} s: the drain was too short to test anything"
    return f"WatchdogSec=300ms, drained for {took:.1f} s"


@check
def socket_activates_the_service():
    host.fresh()
    ok("systemctl", "start", SOCKET)
    assert show("ActiveState") == "inactive"
    assert get() == 200
    # The server answers clients before systemd has read its notification.
    within(5, "the state", lambda: show("ActiveState") == "active")
    pid = host.main_pid()
    tables = [host.sockets(pid, thread) for thread in host.workers(pid)]
    assert set.intersection(*tables), "the workers do not share the inherited listener"
    return show("StatusText")


@check
def restart_with_the_socket_unit_refuses_no_client():
    host.fresh("Environment=FANFARE_DRAIN_WINDOW_MS=1000")
    ok("systemctl", "start", SOCKET, SERVICE)
    streams = [Stream() for _ in range(10)]
    pids = [host.main_pid()]
    with Crowd(4) as crowd:
        for _ in range(3):
            within(5, "the crowd", lambda count=crowd.answered: crowd.answered > count + 50)
            ok("systemctl", "restart", SERVICE)
            pids.append(host.main_pid())
        within(5, "the crowd", lambda count=crowd.answered: crowd.answered > count + 50)
    for stream in streams:
        assert re.search(r"retry: \d+", stream.rest().split("id: ", 1)[1]), stream.text
    assert len(set(pids)) == 4, pids
    assert crowd.refused == 0 and crowd.broken == 0, str(crowd)
    return f"3 restarts: {crowd}"


@check
def crash_with_the_socket_unit_refuses_no_client():
    host.fresh()
    ok("systemctl", "start", SOCKET, SERVICE)
    pid = host.main_pid()
    with Crowd(4) as crowd:
        within(5, "the crowd", lambda: crowd.answered > 50)
        os.kill(pid, signal.SIGKILL)
        within(5, "the restart", lambda: host.main_pid() not in (0, pid))
        within(5, "the crowd", lambda count=crowd.answered: crowd.answered > count + 50)
    # Connections that the killed process had accepted are lost, but no connection attempt is
    # refused.
    assert crowd.refused == 0, str(crowd)
    assert crowd.longest < 1.5, str(crowd)
    return str(crowd)


@check
def recipes_of_the_guide_serve_tls_on_port_443():
    host.uninstall()
    checkout = pathlib.Path("/tmp/checkout")
    shutil.copytree("/checks/units", checkout / "systemd")
    (checkout / "target/release").mkdir(parents=True)
    shutil.copy("/checks/fanfare", checkout / "target/release")
    for name, suffix in (("certificate", "pem"), ("key", "key")):
        shutil.copy(f"/checks/out/{name}.pem", checkout / f"example.org.{suffix}")
    began = time.time()
    recipes = (("operations.md", "Install under systemd"), ("tls.md", "TLS under systemd"))
    for page, heading in recipes:
        # The recipe calls cargo, which is replaced by an empty function, because the binary is
        # already built.
        script = f"set -e\ncd {checkout}\ncargo() {{ :; }}\n{host.recipe(page, heading)}"
        ok("bash", "-c", script)
    command = ["curl", "--silent", "--show-error", "--cacert", checkout / "example.org.pem"]
    command += ["--connect-to", "example.org:443:127.0.0.1:443"]
    url = "https://example.org:443/poll?channel=a&timeout=0"
    output = ok(*command, url)
    assert '"publications":[]' in output, output
    assert get() == 200
    status = host.status(host.main_pid())
    assert int(status["CapEff"], 16) == 0, status
    warned = [line for line in host.journal(began).splitlines() if "WARN" in line]
    assert not warned, warned
    ok("systemctl", "restart", SERVICE)
    ok(*command, url)
    return show("StatusText")


report.main(host.install, host.fresh)
