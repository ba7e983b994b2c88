"""A relay between a client and a server, which makes the server echo each message.

The relay passes all bytes unchanged in both directions, so the server alone is responsible for the
protocol. The relay also parses the client's messages and publishes each message to a channel of
that connection, so that the server sends the message back. The relay ignores messages that it
cannot parse.
"""
import asyncio
import base64
import itertools
import json
import struct
import threading
import zlib

# The pause before each echo, in which the server sends its responses to earlier frames.
PAUSE_S = 0.002


class Messages:
    """A parser for the well-formed messages of a client."""

    def __init__(self):
        self.held, self.opcode, self.is_deflated, self.parts = bytearray(), 0, False, []

    def feed(self, data):
        self.held += data
        while (frame := self.take()) is not None:
            first, payload = frame
            if first & 8:
                continue
            if first & 15:
                self.opcode, self.is_deflated, self.parts = first & 15, bool(first & 0x40), []
            self.parts.append(payload)
            if first & 0x80 and self.opcode:
                yield self.opcode, self.whole()

    def take(self):
        """Removes and returns the first frame, or returns None if it is incomplete."""
        if len(self.held) < 6:
            return None
        length, at = self.held[1] & 127, 2
        for mark, form, size in ((126, "!H", 2), (127, "!Q", 8)):
            if length == mark:
                if len(self.held) < 2 + size + 4:
                    return None
                (length,) = struct.unpack_from(form, self.held, 2)
                at += size
                break
        end = at + 4 + length
        if len(self.held) < end:
            return None
        key, masked = bytes(self.held[at:at + 4]), bytes(self.held[at + 4:end])
        mask = (key * (length // 4 + 1))[:length]
        clear = int.from_bytes(masked, "big") ^ int.from_bytes(mask, "big")
        first = self.held[0]
        del self.held[:end]
        return first, clear.to_bytes(length, "big")

    def whole(self):
        message, self.parts = b"".join(self.parts), []
        if self.is_deflated:
            message = zlib.decompressobj(-15).decompress(message + b"\x00\x00\xff\xff")
        return message


def line(channel, opcode, message):
    """Returns the feed's line for this message, or nothing if the message is an invalid text."""
    if opcode == 1:
        try:
            payload = {"text": message.decode()}
        except UnicodeDecodeError:
            return b""
    else:
        payload = {"base64": base64.b64encode(message).decode()}
    return json.dumps({"channel": channel} | payload).encode() + b"\n"


class Relay:
    """A relay that runs in a thread of its own until the script ends."""

    def __init__(self, server):
        self.server, self.numbers = server, itertools.count()
        self.loop = asyncio.new_event_loop()
        listening = asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.listener = self.loop.run_until_complete(listening)
        self.port = self.listener.sockets[0].getsockname()[1]
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def serve(self, client, to_client):
        channel = f"echo:{next(self.numbers)}"
        try:
            _, _, fields = (await client.readuntil(b"\r\n\r\n")).partition(b"\r\n")
            server, to_server = await asyncio.open_connection(*self.server.address)
            _, to_feed = await asyncio.open_unix_connection(self.server.feed_path)
            asked = f"GET /ws?channel={channel}&envelope=data HTTP/1.1\r\n".encode()
            to_server.write(asked + fields)
            back = asyncio.ensure_future(self.copy(server, to_client))
            messages = Messages()
            while data := await client.read(1 << 16):
                to_server.write(data)
                await to_server.drain()
                for opcode, message in messages.feed(data):
                    await asyncio.sleep(PAUSE_S)
                    to_feed.write(line(channel, opcode, message))
                    await to_feed.drain()
            to_server.close()
            to_feed.close()
            await back
        except (OSError, EOFError, zlib.error, asyncio.IncompleteReadError):
            to_client.close()

    async def copy(self, server, to_client):
        try:
            while data := await server.read(1 << 16):
                to_client.write(data)
                await to_client.drain()
        except OSError:
            pass
        to_client.close()
