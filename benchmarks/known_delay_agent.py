"""An agent of known delay: answers each utterance exactly `delay` after it received the last frame that held sound.

Speaks Telnyx media streams on ws://127.0.0.1:PORT/<call number>. The delays of call n are drawn from Random(n), so
whoever calls knows them too: `delays_ms(n)`. It is no voice agent: it looks for frames that are not digital silence,
arms a timer at each, and sends half a second of tone when the timer fires. The timer spins for its last millisecond,
so the delay is kept to some tens of microseconds unless the process is not running.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Iterator
from random import Random

import numpy as np
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from busyhour.clock import SystemClock
from busyhour.media.codec import codec
from busyhour.model import MS

SPIN_NS = 1_500_000
NOW = SystemClock().now_ns


def delays_ms(call: int, *, low: int = 100, high: int = 1000) -> Iterator[int]:
    """The delays of the turns of a call, for ever."""
    random = Random(call)
    while True:
        yield random.randint(low, high)


def tone_frames() -> list[bytes]:
    """Half a second of 440 Hz as media messages of 20 ms, starting at full level with the first sample."""
    at = np.arange(4000) / 8000
    encoded = codec("PCMU", 8000).encode((8000 * np.cos(2 * np.pi * 440 * at)).astype(np.int16))
    payloads = [base64.b64encode(encoded[i : i + 160]).decode() for i in range(0, len(encoded), 160)]
    return [json.dumps({"event": "media", "media": {"payload": payload}}).encode() for payload in payloads]


FRAMES = tone_frames()
SILENCE = base64.b64encode(b"\xff" * 160)


class Agent(WSListener):
    """One call."""

    def __init__(self, call: int) -> None:
        self._delays = delays_ms(call, low=int(os.environ.get("LOW", "100")), high=int(os.environ.get("HIGH", "1000")))
        self._delay_ns = next(self._delays) * MS
        self._timer: asyncio.TimerHandle | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        message = frame.get_payload_as_bytes()
        if b'"media"' not in message[:40] or SILENCE in message:
            return
        answer_ns = NOW() + self._delay_ns
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0, self._delay_ns - SPIN_NS) / 1e9, self._answer, answer_ns)

    def _answer(self, answer_ns: int) -> None:
        self._timer = None
        self._delay_ns = next(self._delays) * MS
        while NOW() < answer_ns:
            pass
        for frame in FRAMES:  # the rest may come at once: the caller's side plays them out in order
            self._transport.send(WSMsgType.TEXT, frame)


def accept(request: WSUpgradeRequest) -> Agent:
    return Agent(int(request.path.decode().strip("/") or "0"))


async def main() -> None:
    server = await ws_create_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"READY ws://127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
