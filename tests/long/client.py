"""Subscribes with a PyPI package and prints what the package delivers, one JSON object per line.

usage: client.py niquests|aiohttp|picows|websocket-client|requests URL COUNT

Ends with status 0 after COUNT publications. The output has the format of event_stream_client.py for
event streams, of websockets_client.py for WebSockets, and of poll_client.py for polls.
"""

import asyncio
import json
import sys
import time

PROTOCOL = "fanfare.v1"


def report(**fields):
    print(json.dumps(fields), flush=True)


def with_niquests(url, count):
    import niquests

    received, last_id, streams, started = 0, "", 0, time.monotonic()
    while received < count:
        was, headers = streams, {"Last-Event-ID": last_id} if last_id else {}
        try:
            with niquests.Session(timeout=10) as session:
                response = session.get(url.replace("http://", "psse://"), headers=headers)
                streams += 1
                report(opened=streams)
                while (event := response.extension.next_payload()) is not None:
                    kind = event.event or "message"
                    report(id=event.id, event=kind, data=event.data)
                    last_id = event.id or last_id
                    received += not kind.startswith("fanfare.")
                    if received == count:
                        return
        except (niquests.RequestException, OSError):
            pass
        if streams > was:
            report(lost=streams)
        assert time.monotonic() < started + 60, "not done in 60 s"
        time.sleep(0.1)


def counted(count, messages):
    """Prints messages until they contain this number of publications."""
    for message in map(json.loads, messages):
        report(**message)
        count -= "type" not in message
        if count == 0:
            return


def with_websocket_client(url, count):
    import websocket

    socket = websocket.create_connection(url, timeout=20, subprotocols=[PROTOCOL])
    report(protocol=socket.getsubprotocol())
    counted(count, iter(socket.recv, None))
    socket.send_close(1000)
    opcode, data = socket.recv_data_frame()
    assert opcode == websocket.ABNF.OPCODE_CLOSE, opcode
    report(closed=int.from_bytes(data.data[:2]))


async def with_aiohttp(url, count):
    import aiohttp

    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(url, protocols=[PROTOCOL]) as socket:
            report(protocol=socket.protocol)
            while count:
                message = await socket.receive_json(timeout=20)
                report(**message)
                count -= "type" not in message
        report(closed=socket.close_code)


async def with_picows(url, count):
    import picows

    messages = asyncio.Queue()

    class Listener(picows.WSListener):
        def on_ws_frame(self, transport, frame):
            if frame.msg_type == picows.WSMsgType.TEXT:
                messages.put_nowait(frame.get_payload_as_utf8_text())
            elif frame.msg_type == picows.WSMsgType.CLOSE:
                messages.put_nowait(frame.get_close_code())

    headers = {"Sec-WebSocket-Protocol": PROTOCOL}
    transport, _ = await picows.ws_connect(Listener, url, extra_headers=headers)
    report(protocol=transport.response.headers.get("Sec-WebSocket-Protocol"))
    while count:
        message = json.loads(await asyncio.wait_for(messages.get(), 20))
        report(**message)
        count -= "type" not in message
    transport.send_close(1000)
    report(closed=int(await asyncio.wait_for(messages.get(), 20)))


def with_requests(url, count):
    import requests

    with requests.Session() as session:
        answer = session.get(url, timeout=30).json()
        report(id=answer["id"])
        while count:
            parameters = {"since": answer["id"], "timeout": 10}
            response = session.get(url, params=parameters, timeout=30)
            response.raise_for_status()
            answer = response.json()
            assert not answer["gap"], answer
            for publication in answer["publications"]:
                report(**publication)
                count -= 1


library, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
run = globals()["with_" + library.replace("-", "_")]
result = run(url, count)
if asyncio.iscoroutine(result):
    asyncio.run(result)
