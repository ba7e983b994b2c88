"""Row "stalled and hostile peers": clients that stall, send slowly, reset connections, send without
reading or use up the descriptors. Measures the effect on a regular client.

A hostile client that must stay busy during a measurement runs in a process of its own, so that the
interpreter's lock does not affect the figures.
"""
import contextlib
import multiprocessing
import resource
import select
import socket
import struct
import time

from .server import KIB, Server, MemoryWatch
from .verdicts import quantile
from .websocket import TEXT, WebSocket, frame, upgrade

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
REQUEST = b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
STALLED = 100
HEARTBEAT_MS = 2000
SLOWLORIS = 500
RESETS = 3000
PIPELINES = 20
TABLE = 300


@contextlib.contextmanager
def background(act, *arguments):
    """Runs a function in a process of its own while the context is entered."""
    process = multiprocessing.Process(target=act, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def stall(server):
    """Opens clients with small buffers that subscribe and then stop reading."""
    return [WebSocket(server.address, "channel=a", receive_bytes=4 * KIB) for _ in range(STALLED)]


def publish_until(server, is_done, timeout=40.0):
    """Publishes 16 KiB 20 times a second until a condition holds. Returns the seconds until then,
    or None after the timeout."""
    data, start = "x" * 16 * KIB, time.monotonic()
    with server.feeder() as feeder, WebSocket(server.address, "channel=a") as healthy:
        while time.monotonic() - start < timeout:
            sent = server.publish(feeder, "a", data)["id"].encode()
            while True:
                opcode, payload = healthy.read()
                if opcode == TEXT and sent in payload[:100]:
                    break
            if is_done():
                return time.monotonic() - start
            time.sleep(0.05)
    return None


def skipped(verdicts):
    """Measures whether the server by default skips publications for subscribers over quota."""
    with Server() as server:
        stalled, watch = stall(server), MemoryWatch(server)

        def are_all_skipped():
            watch.sample()
            return server.metric("fanfare_publications_skipped_total") >= STALLED

        took = publish_until(server, are_all_skipped)
        verdicts.note(f"{STALLED} stalled, growth with the log {watch.mib():.1f} MiB")
        reported = 0
        for websocket in stalled:
            with contextlib.suppress(TimeoutError), websocket:
                websocket.socket.settimeout(5)
                while b'{"type":"gap"' not in websocket.read()[1][:20]:
                    pass
                reported += 1
    return took, STALLED - reported


def closed_over_quota(verdicts):
    """Measures whether subscribers over their quota are closed if the configuration requires it."""
    with Server(quota_overflow="close") as server:
        stalled = stall(server)
        reason = 'fanfare_conns_closed_total{reason="overflow"}'
        took = publish_until(server, lambda: server.metric(reason) >= STALLED)
        for websocket in stalled:
            websocket.socket.close()
    return took


def silent(verdicts):
    """Measures whether subscribers within their quota are closed if they answer no heartbeat. The
    first heartbeat is sent after one interval. The timeout is two more intervals. After that, the
    close handshake may take two seconds."""
    with Server(heartbeat_interval_ms=HEARTBEAT_MS) as server:
        stalled = stall(server)
        reason = 'fanfare_conns_closed_total{reason="idle"}'
        took = server.wait_for(reason, lambda closed: closed >= STALLED)
        for websocket in stalled:
            websocket.socket.close()
    return took


def response_times(address, count):
    """Returns the response times on new connections: milliseconds from connecting to the end."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        with socket.create_connection(address, 10) as conn:
            conn.sendall(REQUEST)
            while conn.recv(65536):
                pass
        found.append((time.perf_counter() - start) * 1e3)
        time.sleep(0.005)
    return found


def slow_heads(address, ready):
    """Sends a byte of a head every 100 ms on each connection (Slowloris). Reopens closed ones."""
    begin = b"GET / HTTP/1.1\r\nHost: a\r\nX: "

    def connect():
        conn = socket.create_connection(address)
        conn.sendall(begin)
        conn.setblocking(False)
        return conn

    conns = [connect() for _ in range(SLOWLORIS)]
    ready.set()
    while True:
        for index, conn in enumerate(conns):
            try:
                conn.send(b"a")
            except OSError:
                conn.close()
                conns[index] = connect()
        time.sleep(0.1)


def slowloris(verdicts):
    """Returns by how many milliseconds the p95 response time of a regular client increases."""
    with Server() as server:
        response_times(server.address, 100)
        without = response_times(server.address, 500)
        ready = multiprocessing.Event()
        with background(slow_heads, server.address, ready):
            ready.wait(30)
            meanwhile = response_times(server.address, 500)
    for label, found in (("alone", without), (f"during {SLOWLORIS} slowloris", meanwhile)):
        verdicts.note(f"a regular client {label}: p50 {quantile(found, 0.5):.2f} ms,"
                      f" p95 {quantile(found, 0.95):.2f} ms")
    return quantile(meanwhile, 0.95) - quantile(without, 0.95)


def resets(verdicts):
    """Returns the growth in descriptors after connections were reset (RST) at various stages."""
    stages = [b"", b"GET /ws?chan", GET, upgrade("channel=a"),
            upgrade("channel=a") + frame(TEXT, b"half")[:8],
            b"GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n"]
    with Server() as server:
        server.metric("fanfare_conns")
        before = server.descriptor_count()
        for number in range(RESETS):
            conn = socket.create_connection(server.address)
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            conn.sendall(stages[number % len(stages)])
            conn.close()
        server.wait_for("fanfare_conns", lambda conns: conns == 0, 10)
        time.sleep(0.5)
        return server.descriptor_count() - before


def send_without_reading(address, ready):
    """Pipelines as many requests on several connections as the sockets accept."""
    conns = []
    for _ in range(PIPELINES):
        conn = socket.create_connection(address)
        conn.setblocking(False)
        conns.append(conn)
    ready.set()
    while True:
        for conn in select.select([], conns, [], 1)[1]:
            with contextlib.suppress(BlockingIOError):
                conn.send(GET * 1000)


def pipelines(verdicts):
    """Returns the growth of memory in MiB while clients pipeline requests and do not read."""
    with Server() as server:
        response_times(server.address, 100)
        watch, ready = MemoryWatch(server), multiprocessing.Event()
        with background(send_without_reading, server.address, ready):
            ready.wait(30)
            end, found = time.monotonic() + 5, []
            while time.monotonic() < end:
                found += response_times(server.address, 5)
                watch.sample()
        blocked = server.metric("fanfare_writes_blocked_total")
    verdicts.note(f"{PIPELINES} pipelines, {blocked:.0f} writes blocked; a regular client meanwhile:"
                  f" p50 {quantile(found, 0.5):.2f} ms, max {max(found):.2f} ms")
    return watch.mib()


def start_connections(address, count):
    """Starts this many connections. The server may not have accepted them yet on return."""
    conns = []
    for _ in range(count):
        conn = socket.socket()
        conn.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            conn.connect(address)
        conns.append(conn)
    return conns


def exhausted(verdicts, label, squeeze, **config):
    """Returns the server's processor share while no descriptor is free, the number of publications
    that a connected client misses, and the milliseconds until a new client is served after
    descriptors are free again."""
    with Server(**config) as server, WebSocket(server.address, "channel=a") as old:
        with server.feeder() as feeder:
            server.publish(feeder, "a", 0)
            old.read()
            squeeze(server)
            excess = start_connections(server.address, 2 * TABLE)
            time.sleep(0.5)
            lacking, published = 0, 0
            before, start = server.cpu(), time.monotonic()
            while time.monotonic() - start < 5:
                published += 1
                sent = server.publish(feeder, "a", published)["id"].encode()
                lacking += sent not in old.read()[1]
                time.sleep(0.02)
            share = (server.cpu() - before) / (time.monotonic() - start) * 100
            exhaustions = server.metric("fanfare_descriptors_exhausted_total")
            refused = server.metric('fanfare_conns_refused_total{limit="conns"}')
            for conn in excess:
                conn.close()
            start = time.monotonic()
            back = None
            while back is None and time.monotonic() - start < 10:
                with contextlib.suppress(OSError, EOFError):
                    with WebSocket(server.address, "channel=a"):
                        back = (time.monotonic() - start) * 1e3
    verdicts.note(f"{label}: {share:.1f} % of a core, {exhaustions:.0f} times no descriptor,"
                  f" {refused:.0f} refused, {published} publications to the old client,"
                  f" a new client served {'never' if back is None else f'after {back:.1f} ms'}")
    if not exhaustions + refused:
        raise SystemExit("descriptors were never exhausted")
    return share, lacking, back


def lower_limit(server):
    """Lowers the descriptor limit while the server runs."""
    limit = max(server.descriptor_tables()) + TABLE // 3
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, limit))


def measure(verdicts):
    """Measures all figures that the script prints."""
    took, unreported = skipped(verdicts)
    verdicts.at_most("stalled readers over their quota: skipped", took, 30, "s")
    verdicts.at_most("stalled readers without a gap", unreported, 0, f"of {STALLED}")
    verdicts.at_most('the same with quota.overflow = "close": closed', closed_over_quota(verdicts), 30, "s")
    took = silent(verdicts)
    verdicts.at_most(f"silent clients with a heartbeat of {HEARTBEAT_MS} ms: closed", took, 30, "s")
    verdicts.at_most(f"{SLOWLORIS} slowloris: rise of p95", slowloris(verdicts), 50, "ms")
    verdicts.at_most(f"{RESETS} resets: growth in descriptors", resets(verdicts), 5, "descriptors")
    verdicts.at_most("pipelines without reading: growth", pipelines(verdicts), 16, "MiB")
    cases = [
        (f"ulimit -n {TABLE}", lambda _: None, {"descriptors": TABLE}),
        ("limit lowered while running", lower_limit, {"limits_conns": 100_000}),
    ]
    for label, squeeze, config in cases:
        share, lacking, back = exhausted(verdicts, label, squeeze, **config)
        verdicts.at_most(f"{label}: processor", share, 60, "% of a core")
        verdicts.at_most(f"{label}: publications that the old client misses", lacking, 0, "publications")
        verdicts.at_most(f"{label}: a new client is served after", back, 3000, "ms")
