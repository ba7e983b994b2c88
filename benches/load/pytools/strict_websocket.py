"""Row "WebSocket strictness": violations of RFC 6455, floods of frames, and compressed messages that
inflate to 60 MiB (bombs). Measures their effects."""
import threading
import time
import zlib

from .server import Server, MemoryWatch
from .verdicts import quantile
from .websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FINAL,
    PING,
    PONG,
    RSV1,
    TEXT,
    WebSocket,
    closing,
    frame,
)

LIMIT = 65536  # limits.client_message_bytes by default
TIMES = 10
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"

# Each case consists of the fault's name with the section of RFC 6455, the bytes to send, and the
# expected close code (7.4.1).
FAULTS = [
    ("unmasked frame (5.1)", b"\x81\x02hi", 1002),
    ("unmasked ping (5.1)", b"\x89\x00", 1002),
    ("RSV1 without an extension (5.2)", frame(TEXT, b"hi", FINAL | RSV1), 1002),
    ("RSV2 (5.2)", frame(TEXT, b"hi", FINAL | 0x20), 1002),
    ("RSV3 (5.2)", frame(TEXT, b"hi", FINAL | 0x10), 1002),
    ("RSV bits on a ping (5.2)", frame(PING, b"hi", FINAL | 0x70), 1002),
    *((f"opcode {code} (5.2)", frame(code, b"hi"), 1002) for code in (3, 4, 5, 6, 7)),
    *((f"opcode {code} (5.2)", frame(code), 1002) for code in (11, 12, 13, 14, 15)),
    ("length in two bytes instead of one (5.2)", b"\x81\xfe\x00\x02\x00\x00\x00\x00hi", 1002),
    ("length in eight bytes instead of one (5.2)", b"\x81\xff" + bytes(7) + b"\x02" + bytes(4), 1002),
    ("length with the highest bit (5.2)", b"\x82\xff\x80" + bytes(11), 1002),
    ("fragmented ping (5.4)", frame(PING, b"hi", 0), 1002),
    ("fragmented pong (5.4)", frame(PONG, b"hi", 0), 1002),
    ("fragmented close (5.4)", frame(CLOSE, b"\x03\xe8", 0), 1002),
    ("ping of 126 bytes (5.5)", frame(PING, bytes(126)), 1002),
    ("pong of 126 bytes (5.5)", frame(PONG, bytes(126)), 1002),
    ("close of 126 bytes (5.5)", frame(CLOSE, b"\x03\xe8" + bytes(124)), 1002),
    ("continuation of nothing (5.4)", frame(CONTINUATION, b"hi"), 1002),
    ("unfinished continuation of nothing (5.4)", frame(CONTINUATION, b"hi", 0), 1002),
    ("text within a text (5.4)", frame(TEXT, b"a", 0) + frame(TEXT, b"b"), 1002),
    ("bytes within a text (5.4)", frame(TEXT, b"a", 0) + frame(BINARY, b"b", 0), 1002),
    ("continuation after the end (5.4)",
     frame(PING) + frame(TEXT, b"{", 0) + frame(CONTINUATION, b"}") + frame(CONTINUATION), 1002),
    ("close of one byte (5.5.1)", frame(CLOSE, b"\x03"), 1002),
    *((f"close with {code} (7.4)", closing(code), 1002)
      for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)),
    ("close with a reason that is not text (5.5.1)", closing(1000, b"\xff"), 1007),
    ("text with 0xFF (8.1)", frame(TEXT, b"a\xff"), 1007),
    ("text that ends within a character (8.1)", frame(TEXT, b"\xe2\x82"), 1007),
    ("text with a surrogate (8.1)", frame(TEXT, b"\xed\xa0\x80"), 1007),
    ("text beyond U+10FFFF (8.1)", frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    ("overlong encoding (8.1)", frame(TEXT, b"\xc0\xaf"), 1007),
    ("invalid text in an unfinished second fragment (8.1)",
     frame(TEXT, b"\xe2", 0) + frame(CONTINUATION, b"\x28", 0), 1007),
]

# Messages over the size limit. Only the header of the frame that exceeds the limit is sent.
TOO_BIG = [
    ("one byte over", frame(BINARY, claimed=LIMIT + 1), 1009),
    ("a text", frame(TEXT, claimed=LIMIT + 1), 1009),
    ("the greatest length", frame(BINARY, claimed=2**63 - 1), 1009),
    ("the first fragment", frame(BINARY, first=0, claimed=LIMIT + 1), 1009),
    ("the second fragment",
     frame(BINARY, bytes(LIMIT), 0) + frame(CONTINUATION, claimed=1), 1009),
]


def codes(server, cases, verdicts):
    """Returns the number of unexpected close codes, and the slowest close in milliseconds."""
    wrong, slowest, slowest_of = 0, 0.0, ""
    for name, data, code in cases:
        for _ in range(TIMES):
            with WebSocket(server.address, "channel=a") as websocket:
                start = time.perf_counter()
                websocket.send(data)
                got = websocket.close_code()
                took = time.perf_counter() - start
            if got != code:
                wrong += 1
                verdicts.note(f"{name}: {got} instead of {code}")
            if took > slowest:
                slowest, slowest_of = took, name
    verdicts.note(f"{len(cases)} cases, {TIMES} times each; slowest {slowest * 1e3:.2f} ms: {slowest_of}")
    return wrong, slowest * 1e3


def pongs(neighbour, seconds):
    """Returns the times from ping to pong in this period, in milliseconds."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        found.append(neighbour.ping() * 1e3)
        time.sleep(0.001)
    return found


def continuations(server, verdicts):
    """Returns the delay in milliseconds that floods cause for another client: its slowest pong during
    the floods minus its median pong before the floods."""
    flood = frame(TEXT, first=0) + frame(CONTINUATION, first=0) * 100_000
    with WebSocket(server.address, "channel=a") as neighbour:
        without = pongs(neighbour, 2)
        meanwhile = []
        for _ in range(5):
            with WebSocket(server.address, "channel=b") as hostile:
                # The last frame is a ping. Its pong means that all frames before it are processed.
                flooding = threading.Thread(target=hostile.send, args=(flood + frame(PING, b"!"),))
                flooding.start()
                while flooding.is_alive():
                    meanwhile.append(neighbour.ping() * 1e3)
                meanwhile += pongs(neighbour, 0.1)
                while hostile.read() != (PONG, b"!"):
                    pass
                flooding.join()
    for label, found in (("without", without), ("during floods", meanwhile)):
        verdicts.note(
            f"pong of a neighbour {label}: median {quantile(found, 0.5):.2f} ms,"
            f" max {max(found):.2f} ms of {len(found)}"
        )
    return max(meanwhile) - quantile(without, 0.5)


def deflated(message):
    """Compresses a message (RFC 7692, 7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return body[:-4]


def bombs(verdicts):
    """Returns the number of bombs that the server did not refuse, and the growth of its memory in
    MiB."""
    bomb = deflated(bytes(60 * 1024 * 1024))
    verdicts.note(f"bomb: {len(bomb)} bytes for 60 MiB, {60 * 1024 * 1024 / len(bomb):.0f}:1")
    cut = len(bomb) // 2
    forms = [
        frame(BINARY, bomb, FINAL | RSV1),
        frame(BINARY, bomb[:cut], RSV1) + frame(CONTINUATION, bomb[cut:]),
    ]
    unrefused = 0
    with Server(deflate_enabled="true") as server:
        with WebSocket(server.address, "channel=a", DEFLATE) as regular:
            assert b"permessage-deflate" in regular.head, regular.head
            regular.send(frame(TEXT, deflated(b'{"type":"ping","ref":1}'), FINAL | RSV1))
            regular.read()
            watch = MemoryWatch(server)
            for turn in range(50):
                with WebSocket(server.address, "channel=b", DEFLATE) as hostile:
                    hostile.send(forms[turn % 2])
                    unrefused += hostile.close_code() != 1009
                watch.sample()
            # All bombs are sent together. While the server processes them, its memory is measured.
            clients = [WebSocket(server.address, "channel=b", DEFLATE) for _ in range(50)]
            for turn, hostile in enumerate(clients):
                hostile.send(forms[turn % 2])
                watch.sample()
            for hostile in clients:
                unrefused += hostile.close_code() != 1009
                watch.sample()
                hostile.socket.close()
    return unrefused, watch.mib()


def measure(verdicts):
    """Measures all figures that the script prints."""
    with Server() as server:
        wrong, slowest = codes(server, FAULTS, verdicts)
        verdicts.at_most("protocol errors with another code", wrong, 0, "of them")
        verdicts.at_most("protocol errors: the slowest close", slowest, 100, "ms")
        wrong, slowest = codes(server, TOO_BIG, verdicts)
        verdicts.at_most("messages over the limit not refused from the header", wrong, 0, "of them")
        verdicts.at_most("messages over the limit: the slowest close", slowest, 100, "ms")
        delay = continuations(server, verdicts)
        verdicts.at_most("100,000 empty continuations delay a neighbour's pong", delay, 50, "ms")
    unrefused, grown = bombs(verdicts)
    verdicts.at_most("deflate bombs not refused with 1009", unrefused, 0, "of 100")
    verdicts.at_most("deflate bombs: memory growth", grown, 8, "MiB")
