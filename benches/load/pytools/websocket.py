"""A hand-made WebSocket client (RFC 6455) that sends any bytes, valid or not.

The client is a blocking socket with a buffer. It sends nothing by itself: the caller must read
pings and send pongs.
"""
import socket
import struct
import time

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
FINAL, RSV1 = 0x80, 0x40
MASK = b"\x00\x00\x00\x00"


def frame(opcode, payload=b"", first=FINAL, claimed=None):
    """Encodes a client's frame, masked with zeros. `claimed` replaces the length in the header."""
    length = len(payload) if claimed is None else claimed
    if length < 126:
        head = struct.pack("!BB", first | opcode, 0x80 | length)
    elif length < 65536:
        head = struct.pack("!BBH", first | opcode, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first | opcode, 0x80 | 127, length)
    return head + MASK + payload


def closing(code, reason=b""):
    """Encodes a close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


def upgrade(query, more=""):
    """Returns the request of a WebSocket handshake."""
    return (
        f"GET /ws?{query} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"{more}\r\n"
    ).encode()


class WebSocket:
    """An open WebSocket. The constructor reads the server's first messages."""

    def __init__(self, address, query, more="", receive_bytes=None):
        self.held = b""
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(30)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(upgrade(query, more))
        while b"\r\n\r\n" not in self.held:
            self.more()
        self.head, _, self.held = self.held.partition(b"\r\n\r\n")
        if not self.head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(self.head.decode(errors="replace"))
        if "envelope=data" not in query:
            self.read()  # welcome
        for _ in range(query.count("channel=") if "envelope=data" not in query else 0):
            self.read()  # subscribed

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def more(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the server has closed the connection")
        self.held += data

    def take(self, count):
        while len(self.held) < count:
            self.more()
        taken, self.held = self.held[:count], self.held[count:]
        return taken

    def read(self):
        """Reads the next frame and returns its opcode and payload."""
        first, length = self.take(2)
        if length == 126:
            (length,) = struct.unpack("!H", self.take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.take(8))
        return first & 15, self.take(length)

    def close_code(self):
        """Reads until the server closes. Returns the close code, or None if none was sent."""
        try:
            while True:
                opcode, payload = self.read()
                if opcode == CLOSE:
                    return struct.unpack("!H", payload[:2])[0] if payload else 1005
        except (EOFError, ConnectionError, TimeoutError):
            return None

    def ping(self, payload=b"p"):
        """Sends a ping and returns the seconds until its pong."""
        start = time.perf_counter()
        self.send(frame(PING, payload))
        while self.read() != (PONG, payload):
            pass
        return time.perf_counter() - start
