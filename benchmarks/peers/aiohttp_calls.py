"""Calls with aiohttp on uvloop: two tasks each, one that sends on its schedule and one that reads."""

import asyncio
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


async def listen(socket: aiohttp.ClientWebSocketResponse, meter: Meter) -> None:
    async for _ in socket:
        meter.received += 1


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
