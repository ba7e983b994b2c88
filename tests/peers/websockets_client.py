"""Subscribes with the `websockets` package and prints what it receives, one JSON object per line.

usage: websockets_client.py URL COUNT [deflate|bounded]

Ends with status 0 when COUNT publications have arrived; also prints every control message. With
`deflate` it offers permessage-deflate with the package's defaults; with `bounded` it offers only
windows of 4 KiB. In both cases it prints the negotiated extension and sends a command, which the
package compresses.
"""

import asyncio
import json
import sys

import websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory


async def main(url: str, count: int, compression: str | None) -> None:
    bounded = ClientPerMessageDeflateFactory(server_max_window_bits=12, client_max_window_bits=12)
    async with websockets.connect(
        url,
        subprotocols=["fanfare.v1"],
        compression="deflate" if compression == "deflate" else None,
        extensions=[bounded] if compression == "bounded" else None,
    ) as socket:
        print(json.dumps({"protocol": socket.subprotocol}), flush=True)
        if compression:
            agreed = socket.response.headers.get("Sec-WebSocket-Extensions")
            print(json.dumps({"extensions": agreed}), flush=True)
            await socket.send(json.dumps({"type": "ping", "ref": 7, "pad": "x" * 500}))
        received = 0
        while received < count:
            message = json.loads(await socket.recv())
            print(json.dumps(message), flush=True)
            if "type" not in message:
                received += 1
        pong = await socket.ping(b"still there")
        await asyncio.wait_for(pong, 5)
    print(json.dumps({"closed": socket.close_code}), flush=True)


asyncio.run(
    asyncio.wait_for(main(sys.argv[1], int(sys.argv[2]), (sys.argv[3:] or [None])[0]), 60)
)
