"""Sends a token with the `websockets` package and prints the responses, one JSON object per line.

usage: token_client.py URL header|subprotocol|message TOKEN

Ends when the server closes, and prints a line with the close code. If the handshake is refused,
prints a line with the status.
"""

import asyncio
import json
import sys

import websockets


async def main(url: str, way: str, token: str) -> None:
    protocols = ["fanfare.v1"]
    if way == "subprotocol":
        protocols.append("fanfare.token." + token)
    headers = {"Authorization": "Bearer " + token} if way == "header" else {}
    try:
        async with websockets.connect(
            url, subprotocols=protocols, additional_headers=headers
        ) as socket:
            print(json.dumps({"protocol": socket.subprotocol}), flush=True)
            if way == "message":
                await socket.send(json.dumps({"type": "auth", "token": token, "ref": 1}))
            async for message in socket:
                print(message, flush=True)
            print(json.dumps({"closed": socket.close_code}), flush=True)
    except websockets.InvalidStatus as refused:
        print(json.dumps({"status": refused.response.status_code}), flush=True)
    except websockets.ConnectionClosedError as closed:
        print(json.dumps({"closed": closed.rcvd.code if closed.rcvd else None}), flush=True)


asyncio.run(asyncio.wait_for(main(*sys.argv[1:4]), 60))
