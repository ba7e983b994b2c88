"""Subscribes with the `websockets` package and prints what it receives, one JSON object a line.

usage: websockets_client.py URL COUNT

Ends with status 0 when COUNT publications have come; every control message is printed as well.
"""

import asyncio
import json
import sys

import websockets


async def main(url: str, count: int) -> None:
    async with websockets.connect(url, subprotocols=["fanfare.v1"], compression=None) as socket:
        print(json.dumps({"protocol": socket.subprotocol}), flush=True)
        received = 0
        while received < count:
            message = json.loads(await socket.recv())
            print(json.dumps(message), flush=True)
            if "type" not in message:
                received += 1
        pong = await socket.ping(b"still there")
        await asyncio.wait_for(pong, 5)
    print(json.dumps({"closed": socket.close_code}), flush=True)


asyncio.run(asyncio.wait_for(main(sys.argv[1], int(sys.argv[2])), 60))
