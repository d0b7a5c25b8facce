"""Calls with aiohttp on uvloop: two tasks each, one that sends on its schedule and one that reads.

LISTEN=1 in the environment: the one that reads also finds out which frames are loud, as a caller has to.
"""

import asyncio
import base64
import json
import os
import time

import aiohttp
import uvloop
from measuring import FRAME, FRAME_NS, LINGER_SECONDS, SETTLE_SECONDS, Meter, arguments, raise_limit


async def speak(socket: aiohttp.ClientWebSocketResponse, meter: Meter) -> None:
    due_ns, frame = time.monotonic_ns(), 0
    while True:
        due_ns, frame = due_ns + FRAME_NS, frame + 1
        await asyncio.sleep((due_ns - time.monotonic_ns()) / 1e9)
        await socket.send_str(FRAME % (frame, frame, 20 * frame))
        meter.sent(due_ns)


def power(octet: int) -> int:
    """Of a sample in mu-law (G.711)."""
    exponent, mantissa = (~octet >> 4) & 7, ~octet & 15
    return (((2 * mantissa + 33) << (exponent + 2)) - 132) ** 2


LISTENING = bool(os.environ.get("LISTEN"))
POWERS = [power(octet) for octet in range(256)]
LOUD = 160 * 260**2  # -42 dBFS, as ours has it


async def listen(socket: aiohttp.ClientWebSocketResponse, meter: Meter) -> None:
    loud = 0
    async for message in socket:
        meter.received += 1
        if LISTENING:
            told = json.loads(message.data)
            if told["event"] == "media":
                octets = base64.b64decode(told["media"]["payload"])
                loud += sum(map(POWERS.__getitem__, octets)) >= LOUD


async def main() -> None:
    url, calls, seconds = arguments()
    raise_limit()
    meter, tasks = Meter(), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for number in range(calls):
            socket = await session.ws_connect(f"{url}/{number}", compress=0)
            tasks += [asyncio.create_task(speak(socket, meter)), asyncio.create_task(listen(socket, meter))]
        await asyncio.sleep(SETTLE_SECONDS)
        meter.begin()
        await asyncio.sleep(seconds)
        meter.end()
        await asyncio.sleep(LINGER_SECONDS)
        for task in tasks:
            task.cancel()


uvloop.run(main())
