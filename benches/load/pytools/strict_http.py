"""Row "HTTP strictness": requests with an ambiguous end, and heads that are not complete in time.

After each request, more bytes are sent. If the server determines the end of the request
incorrectly, it reads these bytes as a second request. The second request is for an event stream, so
the server then sends a stream and counts a subscriber.
"""
import select
import socket
import time

from .server import Server

SMUGGLED = b"GET /sse?channel=smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD_MS = 1000
# The time in seconds for which the server reads from a refused connection before closing it.
LINGER_S = 2.0


def request(*fields, line="GET / HTTP/1.1", host="Host: a"):
    """Returns a request head with these lines."""
    lines = [line, *([host] if host else []), *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(*fields):
    """Returns a request head with the method POST, which can have content."""
    return request(*fields, line="POST / HTTP/1.1")


CHUNKED = "Transfer-Encoding: chunked"
# Requests with an ambiguous end or an invalid form. The response to each must be 400. The section
# numbers refer to RFC 9112, unless a name says otherwise.
AMBIGUOUS = [
    ("length and coding (6.1)", post("Content-Length: 4", CHUNKED) + b"0\r\n\r\n"),
    ("coding and length (6.1)", post(CHUNKED, "Content-Length: 48") + b"0\r\n\r\n"),
    ("length and coding of a GET (6.1)", request("Content-Length: 4", CHUNKED) + b"0\r\n\r\n"),
    ("coding and length zero (6.1)", post(CHUNKED, "Content-Length: 0") + b"0\r\n\r\n"),
    ("coding in HTTP/1.0 (6.1)", request(CHUNKED, line="GET / HTTP/1.0") + b"0\r\n\r\n"),
    ("coding in HTTP/1.0 with keep-alive (6.1)",
     request(CHUNKED, "Connection: keep-alive", line="GET / HTTP/1.0") + b"0\r\n\r\n"),
    ("two lengths (6.3)", post("Content-Length: 0", "Content-Length: 48")),
    ("two lengths in reverse order (6.3)", post("Content-Length: 48", "Content-Length: 0")),
    ("the same length twice (6.3)", post("Content-Length: 0", "Content-Length: 0")),
    ("a list of lengths (6.3)", post("Content-Length: 0, 48")),
    ("a list of the same length (6.3)", post("Content-Length: 0, 0")),
    ("a length with a sign (6.2)", post("Content-Length: +0")),
    ("a negative length (6.2)", post("Content-Length: -1")),
    ("a hexadecimal length (6.2)", post("Content-Length: 0x0")),
    ("a length that is a word (6.2)", post("Content-Length: zero")),
    ("a length with a space in it (6.2)", post("Content-Length: 0 48")),
    ("a length with a point (6.2)", post("Content-Length: 0.0")),
    ("an empty length (6.2)", post("Content-Length:")),
    ("a length in other digits (6.2)", post("Content-Length: \xb2")),
    ("space before the colon of a length (5.1)", post("Content-Length : 48")),
    ("space before the colon of a coding (5.1)", post("Transfer-Encoding : chunked")),
    ("tab before the colon (5.1)", post("Content-Length\t: 48")),
    ("a folded coding (5.2)", post("Transfer-Encoding:\r\n chunked")),
    ("a folded length (5.2)", post("Content-Length: 4\r\n 8")),
    ("a first field that is folded (2.2)", request(line="GET / HTTP/1.1\r\n Folded: 1")),
    ("a field without a colon (5)", request("Content-Length 48")),
    ("a field without a name (5)", request(": 48")),
    ("a space in a field's name (5.1)", request("Content Length: 48")),
    ("a bare CR in a value (2.2)", request("X: a\rContent-Length: 48")),
    ("a bare CR as the end of a line (2.2)", request("X: a\rY: b")),
    ("a NUL in a value (RFC 9110, 5.5)", request("X: a\0b")),
    ("a NUL in a name (RFC 9110, 5.1)", request("X\0: a")),
    ("a control character in a value (RFC 9110, 5.5)", request("X: a\x01b")),
    ("no host (3.2)", request(host=None)),
    ("two hosts (3.2)", request("Host: b")),
    ("the same host twice (3.2)", request("Host: a")),
    ("a host with a space (3.2)", request(host="Host: a b")),
    ("a host with a path (3.2)", request(host="Host: a/b")),
    ("a host that is a list (3.2)", request(host="Host: a\x2c\x20b")),
    ("two spaces in the request line (3)", request(line="GET  / HTTP/1.1")),
    ("a space in the target (3.2)", request(line="GET / x HTTP/1.1")),
    ("a tab in the request line (3)", request(line="GET\t/ HTTP/1.1")),
    ("no version (2.3)", request(line="GET /")),
    ("a version in lower case (2.3)", request(line="GET / http/1.1")),
    ("text after the version (2.3)", request(line="GET / HTTP/1.1 x")),
    ("a version of two digits (2.3)", request(line="GET / HTTP/1.10")),
    ("a space before the method (3)", request(line=" GET / HTTP/1.1")),
    ("a method that is not a token (3.1)", request(line="G(T / HTTP/1.1")),
]
# Requests whose end is unambiguous. The server refuses them because it does not accept their
# content, or does not support their length or coding. Any refusal that closes the connection is
# correct.
UNWANTED = [
    ("content of a GET", request("Content-Length: 48")),
    ("chunked content of a GET", request(CHUNKED) + b"0\r\n\r\n"),
    ("content of a POST", post("Content-Length: 48")),
    ("chunked content of a POST", post(CHUNKED) + b"0\r\n\r\n"),
    ("an unknown coding", post("Transfer-Encoding: xchunked")),
    ("a coding that does not end in chunked", post("Transfer-Encoding: chunked, identity")),
    ("chunked twice", post("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n"),
    ("the coding on two lines", post(CHUNKED, "Transfer-Encoding: identity") + b"0\r\n\r\n"),
    ("a length beyond 64 bits", post("Content-Length: 18446744073709551616")),
    ("a length with zeros before it", post("Content-Length: 0000000000000000048")),
    ("the connection preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
]


def response(address, data):
    """Sends bytes and returns the response, or None if the server does not close the connection."""
    with socket.create_connection(address, 10) as conn:
        conn.sendall(data)
        received = b""
        try:
            while piece := conn.recv(65536):
                received += piece
        except TimeoutError:
            return None
        except ConnectionError:
            pass
        return received


def is_refused(received, status):
    """Whether the bytes are exactly one error response. `status` is its status, or None for any."""
    head, _, body = (received or b"").partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    lengths = [value for name, _, value in (f.partition(":") for f in fields)
               if name.lower() == "content-length"]
    if not first.startswith("HTTP/1.1 ") or lengths != [f" {len(body)}"]:
        return False
    got = int(first.split()[1])
    return got == status if status else 400 <= got < 600


def framings(server, verdicts):
    """Returns how many requests were not refused, and how many smuggled requests the server ran."""
    wrong = 0
    for status, cases in ((400, AMBIGUOUS), (None, UNWANTED)):
        for name, data in cases:
            received = response(server.address, data + SMUGGLED)
            if not is_refused(received, status):
                wrong += 1
                verdicts.note(f"{name}: {'no end' if received is None else received[:60]}")
    executed = server.metric("fanfare_subscribers") + server.metric("fanfare_streams")
    verdicts.note(f"{len(AMBIGUOUS)} ambiguous and {len(UNWANTED)} unwanted requests")
    return wrong, executed


def incomplete_heads(server, verdicts, drip):
    """Returns the milliseconds until the last incomplete head is refused, and the milliseconds
    until the connection of that head has ended."""
    start = time.monotonic()
    begun = [b"", b"G", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n"] * 10
    conns = {}
    for data in begun:
        conn = socket.create_connection(server.address)
        conn.sendall(data)
        conn.setblocking(False)
        conns[conn] = b"a" if data.endswith(b" ") or data.endswith(b"G") else b"X"
    refused, timeout = 0.0, HEAD_MS / 1000 + LINGER_S + 5
    while conns and time.monotonic() - start < timeout:
        for conn in select.select(list(conns), [], [], 0.02)[0]:
            try:
                ended = not conn.recv(65536)
                refused = max(refused, 0 if ended else time.monotonic() - start)
            except ConnectionError:
                ended = True
            if ended:
                del conns[conn]
                conn.close()
        for conn, byte in list(conns.items()) if drip else []:
            try:
                conn.send(byte)
            except OSError:
                del conns[conn]
    took = time.monotonic() - start
    kind = "dripped" if drip else "silent"
    verdicts.note(
        f"{len(begun)} {kind} heads: the last refused after {refused * 1e3:.0f} ms,"
        f" the last ended after {took * 1e3:.0f} ms, still open: {len(conns)}"
    )
    return (refused * 1e3, took * 1e3) if not conns else (None, None)


def measure(verdicts):
    """Measures all figures that the script prints."""
    with Server() as server:
        wrong, executed = framings(server, verdicts)
        verdicts.at_most("ambiguous framings not answered with 400 and closed", wrong, 0, "of them")
        verdicts.at_most("later bytes executed", executed, 0, "requests")
    with Server(limits_request_head_ms=HEAD_MS) as server:
        for drip in (False, True):
            refused, ended = incomplete_heads(server, verdicts, drip)
            kind = "dripped" if drip else "silent"
            verdicts.at_most(f"{kind} heads of {HEAD_MS} ms: refused", refused, HEAD_MS + 500, "ms")
            goal = HEAD_MS + LINGER_S * 1000 + 500
            verdicts.at_most(f"{kind} heads of {HEAD_MS} ms: ended", ended, goal, "ms")
