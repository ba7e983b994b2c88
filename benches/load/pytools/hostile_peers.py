"""Row "stalled and hostile peers": clients that stall, dawdle, hang up, ask without reading or are
simply too many, and what a good client beside them notices.

Whoever is hostile is a process of its own where it has to be busy while the good one is measured,
so that the interpreter's lock is not in the figures.
"""
import contextlib
import multiprocessing
import resource
import select
import socket
import struct
import time

from .server import KIB, Server, Watch
from .verdicts import quantile
from .websocket import TEXT, WebSocket, frame, upgrade

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ASK = b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
STALLED = 100
HEARTBEAT_MS = 2000
SLOWLORIS = 500
RESETS = 3000
PIPELINES = 20
TABLE = 300


@contextlib.contextmanager
def beside(act, *arguments):
    """Somebody who acts in a process of his own meanwhile."""
    process = multiprocessing.Process(target=act, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def stall(server):
    """Clients with small buffers that subscribe and read no more."""
    return [WebSocket(server.address, "channel=a", receive_bytes=4 * KIB) for _ in range(STALLED)]


def publish_until(server, is_done, patience=40.0):
    """Seconds of publications, 20 a second of 16 KiB, until something is so; None if it never is."""
    data, start = "x" * 16 * KIB, time.monotonic()
    with server.feeder() as feeder, WebSocket(server.address, "channel=a") as healthy:
        while time.monotonic() - start < patience:
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
    """Those who are over their quota are skipped, as it is by default."""
    with Server() as server:
        stalled, watch = stall(server), Watch(server)

        def are_all_skipped():
            watch.look()
            return server.metric("fanfare_publications_skipped_total") >= STALLED

        took = publish_until(server, are_all_skipped)
        verdicts.note(f"{STALLED} stalled, growth with the log {watch.mib():.1f} MiB")
        told = 0
        for websocket in stalled:
            with contextlib.suppress(TimeoutError), websocket:
                websocket.socket.settimeout(5)
                while b'{"type":"gap"' not in websocket.read()[1][:20]:
                    pass
                told += 1
    return took, STALLED - told


def cut(verdicts):
    """Those who are over their quota are closed, where the policy says so."""
    with Server(quota_overflow="close") as server:
        stalled = stall(server)
        reason = 'fanfare_conns_closed_total{reason="overflow"}'
        took = publish_until(server, lambda: server.metric(reason) >= STALLED)
        for websocket in stalled:
            websocket.socket.close()
    return took


def silent(verdicts):
    """Those who are within their quota and answer no heartbeat are closed: the first comes after one
    interval, two more may pass, and then they have two seconds to say goodbye."""
    with Server(heartbeat_interval_ms=HEARTBEAT_MS) as server:
        stalled = stall(server)
        reason = 'fanfare_conns_closed_total{reason="idle"}'
        took = server.wait_for(reason, lambda closed: closed >= STALLED)
        for websocket in stalled:
            websocket.socket.close()
    return took


def asked(address, count):
    """Milliseconds from connecting to the end of the answer, each on a connection of its own."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        with socket.create_connection(address, 10) as conn:
            conn.sendall(ASK)
            while conn.recv(65536):
                pass
        found.append((time.perf_counter() - start) * 1e3)
        time.sleep(0.005)
    return found


def dawdle(address, told):
    """Slowloris: each sends a byte of its head every 100 ms, and connects again when it is cut."""
    begin = b"GET / HTTP/1.1\r\nHost: a\r\nX: "

    def connect():
        conn = socket.create_connection(address)
        conn.sendall(begin)
        conn.setblocking(False)
        return conn

    conns = [connect() for _ in range(SLOWLORIS)]
    told.set()
    while True:
        for index, conn in enumerate(conns):
            try:
                conn.send(b"a")
            except OSError:
                conn.close()
                conns[index] = connect()
        time.sleep(0.1)


def slowloris(verdicts):
    """By how many milliseconds a good client's p95 rises."""
    with Server() as server:
        asked(server.address, 100)
        without = asked(server.address, 500)
        told = multiprocessing.Event()
        with beside(dawdle, server.address, told):
            told.wait(30)
            meanwhile = asked(server.address, 500)
    for label, found in (("alone", without), (f"beside {SLOWLORIS} slowloris", meanwhile)):
        verdicts.note(f"a good client {label}: p50 {quantile(found, 0.5):.2f} ms,"
                      f" p95 {quantile(found, 0.95):.2f} ms")
    return quantile(meanwhile, 0.95) - quantile(without, 0.95)


def resets(verdicts):
    """How many descriptors more there are after connections that end with RST at all stages."""
    said = [b"", b"GET /ws?chan", GET, upgrade("channel=a"),
            upgrade("channel=a") + frame(TEXT, b"half")[:8],
            b"GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n"]
    with Server() as server:
        server.metric("fanfare_conns")
        before = server.descriptor_count()
        for number in range(RESETS):
            conn = socket.create_connection(server.address)
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            conn.sendall(said[number % len(said)])
            conn.close()
        server.wait_for("fanfare_conns", lambda conns: conns == 0, 10)
        time.sleep(0.5)
        return server.descriptor_count() - before


def ask_without_reading(address, told):
    """Requests behind one another on several connections, as many as are taken."""
    conns = []
    for _ in range(PIPELINES):
        conn = socket.create_connection(address)
        conn.setblocking(False)
        conns.append(conn)
    told.set()
    while True:
        for conn in select.select([], conns, [], 1)[1]:
            with contextlib.suppress(BlockingIOError):
                conn.send(GET * 1000)


def pipelines(verdicts):
    """By how many MiB memory grows, and the slowest answer of somebody else in milliseconds."""
    with Server() as server:
        asked(server.address, 100)
        watch, told = Watch(server), multiprocessing.Event()
        with beside(ask_without_reading, server.address, told):
            told.wait(30)
            end, found = time.monotonic() + 5, []
            while time.monotonic() < end:
                found += asked(server.address, 5)
                watch.look()
        blocked = server.metric("fanfare_writes_blocked_total")
    verdicts.note(f"{PIPELINES} pipelines, {blocked:.0f} writes blocked; a good client meanwhile:"
                  f" p50 {quantile(found, 0.5):.2f} ms, max {max(found):.2f} ms")
    return watch.mib()


def crowd(address, count):
    """Connections as far as they are made; what the kernel has queued counts."""
    conns = []
    for _ in range(count):
        conn = socket.socket()
        conn.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            conn.connect(address)
        conns.append(conn)
    return conns


def exhausted(verdicts, label, squeeze, **config):
    """Processor share with no descriptor left, publications the old one lacks, and milliseconds
    until somebody new is served when there is room."""
    with Server(**config) as server, WebSocket(server.address, "channel=a") as old:
        with server.feeder() as feeder:
            server.publish(feeder, "a", 0)
            old.read()
            squeeze(server)
            excess = crowd(server.address, 2 * TABLE)
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
                  f" {refused:.0f} refused, {published} publications to the old one,"
                  f" a new one served {'never' if back is None else f'after {back:.1f} ms'}")
    if not exhaustions + refused:
        raise SystemExit("descriptors were never exhausted")
    return share, lacking, back


def squeezed(server):
    """The limit falls while the server runs, so that it could not foresee it."""
    limit = max(server.descriptor_tables()) + TABLE // 3
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, limit))


def measure(verdicts):
    """Everything of the row."""
    took, untold = skipped(verdicts)
    verdicts.at_most("stalled readers over their quota: skipped", took, 30, "s")
    verdicts.at_most("stalled readers not told of their gap", untold, 0, f"of {STALLED}")
    verdicts.at_most('the same with quota.overflow = "close": cut', cut(verdicts), 30, "s")
    took = silent(verdicts)
    verdicts.at_most(f"silent ones with a heartbeat of {HEARTBEAT_MS} ms: cut", took, 30, "s")
    verdicts.at_most(f"{SLOWLORIS} slowloris: rise of p95", slowloris(verdicts), 50, "ms")
    verdicts.at_most(f"{RESETS} resets: descriptors more", resets(verdicts), 5, "descriptors")
    verdicts.at_most("requests without reading: growth", pipelines(verdicts), 16, "MiB")
    cases = [
        (f"ulimit -n {TABLE}", lambda _: None, {"descriptors": TABLE}),
        ("no descriptor all of a sudden", squeezed, {"limits_conns": 100_000}),
    ]
    for label, squeeze, config in cases:
        share, lacking, back = exhausted(verdicts, label, squeeze, **config)
        verdicts.at_most(f"{label}: processor", share, 60, "% of a core")
        verdicts.at_most(f"{label}: publications the old one lacks", lacking, 0, "publications")
        verdicts.at_most(f"{label}: a new one is served after", back, 3000, "ms")
