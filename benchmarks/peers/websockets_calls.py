"""Calls with websockets on uvloop: two tasks each, one that sends on its schedule and one that reads."""

import asyncio
import time

import uvloop
from measuring import FRAME, FRAME_NS, LINGER_SECONDS, SETTLE_SECONDS, Meter, arguments, raise_limit
from websockets.asyncio.client import ClientConnection, connect


async def speak(socket: ClientConnection, meter: Meter) -> None:
    due_ns, frame = time.monotonic_ns(), 0
    while True:
        due_ns, frame = due_ns + FRAME_NS, frame + 1
        await asyncio.sleep((due_ns - time.monotonic_ns()) / 1e9)
        await socket.send(FRAME % (frame, frame, 20 * frame))
        meter.sent(due_ns)


async def listen(socket: ClientConnection, meter: Meter) -> None:
    async for _ in socket:
        meter.received += 1


async def main() -> None:
    url, calls, seconds = arguments()
    raise_limit()
    meter, tasks = Meter(), []
    for number in range(calls):
        socket = await connect(f"{url}/{number}", compression=None, ping_interval=None)
        tasks += [asyncio.create_task(speak(socket, meter)), asyncio.create_task(listen(socket, meter))]
    await asyncio.sleep(SETTLE_SECONDS)
    meter.begin()
    await asyncio.sleep(seconds)
    meter.end()
    await asyncio.sleep(LINGER_SECONDS)
    for task in tasks:
        task.cancel()


uvloop.run(main())
