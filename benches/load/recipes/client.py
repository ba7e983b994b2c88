#!/usr/bin/env python3
"""Runs many WebSocket subscribers in Python, with the package `websockets`.

usage: client.py URL CONNS SECONDS

`fanfare bench` must send the publications. On every connection, the publication numbers must arrive
once and in order, starting with any number. The timestamps in publications are from the machine's
monotonic clock, so latencies are correct only on the same machine. The program prints counts and
latencies after SECONDS. The exit status is 1 if a publication was missing, duplicated or out of
order, or if a connection was lost.
"""

import asyncio
import json
import math
import sys
import time

import websockets

OPENING_MAX = 100


class Counts:
    """The counts of all connections."""

    def __init__(self):
        self.open = self.deliveries = self.missing = self.duplicated_or_late = self.gaps = self.lost = 0
        self.latencies_ms = []


async def subscriber(url, counts, gate, all_open):
    """Opens one connection and checks the received publications until the task is cancelled."""
    async with gate:
        socket = await websockets.connect(url, compression=None, open_timeout=30)
        while json.loads(await socket.recv()).get("type") != "subscribed":
            pass
    counts.open += 1
    all_open.set_when(counts.open)
    following = 0
    try:
        async for text in socket:
            message = json.loads(text)
            if message.get("type") == "gap":
                counts.gaps += 1
            payload = message.get("data")
            if not isinstance(payload, dict) or "n" not in payload:
                continue
            counts.latencies_ms.append((time.monotonic_ns() - int(payload["t"])) / 1e6)
            counts.deliveries += 1
            number = int(payload["n"])
            if following and number < following:
                counts.duplicated_or_late += 1
            if following and number > following:
                counts.missing += number - following
            following = max(following, number + 1)
    except websockets.ConnectionClosed:
        pass
    counts.lost += 1


class Threshold(asyncio.Event):
    """An event that is set when a count is reached."""

    def __init__(self, wanted):
        super().__init__()
        self.wanted = wanted

    def set_when(self, count):
        if count >= self.wanted:
            self.set()


async def main(url, conns, seconds):
    counts, gate, all_open = Counts(), asyncio.Semaphore(OPENING_MAX), Threshold(conns)
    began = time.monotonic()
    tasks = [asyncio.create_task(subscriber(url, counts, gate, all_open)) for _ in range(conns)]
    opened = asyncio.create_task(all_open.wait())
    # This wait ends when all connections are open, or when a task ends because its connection was
    # refused.
    await asyncio.wait([opened, *tasks], timeout=120, return_when=asyncio.FIRST_COMPLETED)
    if not all_open.is_set():
        sys.exit(f"only {counts.open} of {conns} connections were accepted")
    print(f"{counts.open} connections in {time.monotonic() - began:.2f} s", flush=True)
    await asyncio.sleep(seconds)
    report(counts)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return 1 if counts.missing + counts.duplicated_or_late + counts.lost else 0


def report(counts):
    latencies = sorted(counts.latencies_ms)

    def at(part):
        return latencies[math.ceil(part * len(latencies)) - 1] if latencies else math.nan

    print(
        f"deliveries {counts.deliveries}, missing {counts.missing}, duplicated or out of order "
        f"{counts.duplicated_or_late}, gaps {counts.gaps}, connections lost {counts.lost}"
    )
    print(f"latency ms: p50 {at(.5):.2f} p90 {at(.9):.2f} p99 {at(.99):.2f} max {at(1):.2f}")


sys.exit(asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
