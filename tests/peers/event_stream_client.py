"""Reads an event stream with a PyPI package and prints every event that the package dispatches.

usage: event_stream_client.py httpx-sse|sseclient-py URL COUNT

Prints one JSON object per line: {"opened":n} for each stream, {"lost":n} for the end of each
stream, and {"id","event","data"} for each event, whatever its type. The packages do not reconnect,
so this script reconnects with the last id that the package reported. Ends with status 0 after COUNT
events that are not the server's own.
"""

import http.client
import json
import sys
import time
import urllib.parse

import httpx
import httpx_sse
import sseclient


def report(**fields):
    print(json.dumps(fields), flush=True)


def httpx_events(url, headers, opened):
    # The server in the tests sends heartbeats every 100 ms. With a default server the timeout must
    # exceed 25 s.
    with httpx.Client(timeout=10) as client:
        with httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
            source.response.raise_for_status()
            opened()
            yield from source.iter_sse()


def sseclient_events(url, headers, opened):
    url = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    connection.request("GET", f"{url.path}?{url.query}", headers=headers)
    response = connection.getresponse()
    assert response.status == 200, response.status
    opened()
    # `read1` returns as soon as bytes have arrived.
    yield from sseclient.SSEClient(iter(response.read1, b"")).events()


LIBRARIES = {"httpx-sse": httpx_events, "sseclient-py": sseclient_events}
ENDS = (httpx.TransportError, http.client.HTTPException, OSError)


def main(library, url, count):
    received, last_id, streams, started = 0, "", 0, time.monotonic()

    while received < count:
        def opened():
            nonlocal streams
            streams += 1
            report(opened=streams)

        was, headers = streams, {"Last-Event-ID": last_id} if last_id else {}
        try:
            for event in LIBRARIES[library](url, headers, opened):
                report(id=event.id, event=event.event, data=event.data)
                last_id = event.id or last_id
                received += not event.event.startswith("fanfare.")
                if received == count:
                    return
        except ENDS:
            pass
        if streams > was:
            report(lost=streams)
        assert time.monotonic() < started + 60, "not done in 60 s"
        time.sleep(0.1)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
